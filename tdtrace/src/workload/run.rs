//! Carrying a plan out: all VMs, a thread a vCPU, and one that watches time and `stop`.

use std::{
    process,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread::{self, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{
    control::Control,
    kind::Kind,
    made::{Made, SCHEMA, VcpuMade, VmMade, places},
    plan::Plan,
    vcpu::{Phase, Task},
    vm::{self, Vm},
    waker::{Sleeper, Waker},
};

/// How often `stop` and the time are looked at.
const WATCH: Duration = Duration::from_millis(10);

/// Makes what `plan` says and tells what was made.
///
/// All vCPUs begin together, and all VMs live until the last vCPU is through. Once `stop` is true
/// or the plan's time is over, every vCPU ends after the access it is at; what was made until then
/// is exact as well.
///
/// # Errors
/// The plan is not possible, there is no usable KVM, or a vCPU did something else than its program.
pub fn run(plan: &Plan, stop: &AtomicBool) -> Result<Made> {
    plan.check()?;
    let kvm = vm::open()?;
    let mut vms = (0..plan.vms)
        .map(|number| Vm::new(&kvm, plan).with_context(|| format!("VM {number} cannot be made")))
        .collect::<Result<Vec<_>>>()?;

    let phase = Phase::default();
    let (outcome, stopped) =
        thread::scope(|scope| match Crew::start(scope, plan, &mut vms, &phase) {
            Ok(crew) => {
                let stopped = crew.watch(plan.time, stop);
                (crew.join(), stopped)
            }
            Err(error) => {
                phase.over.store(true, Relaxed);
                (Err(error), false)
            }
        });

    let mut vcpus = outcome?.into_iter();
    let vms = (0u32..)
        .zip(&vms)
        .map(|(number, vm)| vm_made(number, vm, vcpus.by_ref().take(plan.vcpus as usize).collect()))
        .collect::<Result<Vec<_>>>()?;
    let seconds = vms.iter().flat_map(|vm| &vm.vcpus).map(|vcpu| vcpu.seconds).fold(0.0, f64::max);
    let places = places(plan, &vms);
    let sign_off = plan.sign_off().name();
    Ok(Made { schema: SCHEMA, pid: process::id(), vms, places, seconds, stopped, sign_off })
}

fn vm_made(number: u32, vm: &Vm, vcpus: Vec<VcpuMade>) -> Result<VmMade> {
    let ioeventfd_signals = vm.doorbell_rings()?;
    let made: u64 = vcpus.iter().map(|vcpu| vcpu.made.get(Kind::FastMmio)).sum();
    if made != ioeventfd_signals {
        bail!(
            "the guests of VM {number} made {made} fast_mmio and the ioeventfds took \
             {ioeventfd_signals}; the counts cannot be trusted"
        );
    }
    Ok(VmMade { vm: number, vcpus, ioeventfd_signals })
}

/// The running vCPUs, by VM and number.
struct Crew<'scope, 'env> {
    threads: Vec<ScopedJoinHandle<'scope, Result<VcpuMade>>>,
    wakers: Vec<ScopedJoinHandle<'scope, Result<()>>>,
    controls: Vec<Control<'env>>,
    phase: &'env Phase,
}

impl<'scope, 'env> Crew<'scope, 'env> {
    /// Starts a thread for every vCPU, then lets all begin.
    fn start(
        scope: &'scope thread::Scope<'scope, 'env>,
        plan: &'env Plan,
        vms: &'env mut [Vm],
        phase: &'env Phase,
    ) -> Result<Self> {
        let mut crew =
            Self { threads: Vec::new(), wakers: Vec::new(), controls: Vec::new(), phase };
        for (vm, vm_number) in vms.iter_mut().zip(0u32..) {
            let (vcpus, code, fd) = vm.split();
            let mut sleepers = Vec::new();
            for ((vcpu, control), number) in vcpus.zip(0u32..) {
                let task = Task { plan, code, control, number, phase };
                crew.controls.push(control);
                sleepers.push(Sleeper::new(control));
                let thread = thread::Builder::new()
                    .name(format!("vm{vm_number}-vcpu{number}"))
                    .spawn_scoped(scope, move || task.run(vcpu));
                match thread {
                    Ok(thread) => crew.threads.push(thread),
                    Err(error) => {
                        crew.end();
                        return Err(error).context("a vCPU's thread cannot be started");
                    }
                }
            }
            if plan.halts() {
                let after = Duration::from_micros(plan.halt_us.into());
                let waker = Waker { vm: fd, phase, after, wake: plan.wake, sleepers };
                crew.wakers.push(scope.spawn(move || waker.run()));
            }
        }
        phase.begun.store(true, Relaxed);
        crew.wake();
        Ok(crew)
    }

    /// Waits until all vCPUs are through, and ends them before that when the time is over or `stop`
    /// says so; whether `stop` did.
    fn watch(&self, time: Option<Duration>, stop: &AtomicBool) -> bool {
        let begin = Instant::now();
        let mut stopped = false;
        while !self.threads.iter().all(ScopedJoinHandle::is_finished) {
            stopped |= stop.load(Relaxed);
            let left = time.map(|time| time.saturating_sub(begin.elapsed()));
            // Again at each look: a vCPU may just have armed another slice.
            if stopped || left == Some(Duration::ZERO) || self.phase.is_ending() {
                self.end();
            }
            thread::sleep(
                left.filter(|left| !left.is_zero()).map_or(WATCH, |left| left.min(WATCH)),
            );
        }
        self.phase.over.store(true, Relaxed);
        stopped
    }

    fn end(&self) {
        self.phase.ending.store(true, Relaxed);
        for control in &self.controls {
            control.cut_short();
        }
        self.wake();
    }

    fn wake(&self) {
        for thread in &self.threads {
            thread.thread().unpark();
        }
    }

    /// What each vCPU made, or what went wrong with the first one that failed.
    fn join(self) -> Result<Vec<VcpuMade>> {
        for waker in self.wakers {
            waker.join().unwrap_or_else(|_| Err(anyhow!("the thread that wakes panicked")))?;
        }
        let outcomes: Vec<_> = self.threads.into_iter().map(ScopedJoinHandle::join).collect();
        outcomes
            .into_iter()
            .map(|outcome| outcome.unwrap_or_else(|_| Err(anyhow!("a vCPU's thread panicked"))))
            .collect()
    }
}
