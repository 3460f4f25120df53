//! One vCPU's thread: arms a slice, runs it until the guest signs off, and checks what the guest
//! counted against what came back.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{
    code::GuestCode,
    control::Control,
    kind::{Counts, Kind},
    made::VcpuMade,
    plan::{Plan, Wake},
};

/// What a vCPU's thread works with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Task<'a> {
    pub(super) plan: &'a Plan,
    pub(super) code: &'a GuestCode,
    pub(super) control: Control<'a>,
    pub(super) number: u32,
    pub(super) phase: &'a Phase,
}

/// How far all vCPUs together are.
#[derive(Debug, Default)]
pub(super) struct Phase {
    /// Set once all threads are there: the first slice may begin.
    pub(super) begun: AtomicBool,
    /// Set once: no further slice begins.
    pub(super) ending: AtomicBool,
    /// Set once: all vCPUs are through.
    pub(super) over: AtomicBool,
}

impl Phase {
    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Relaxed)
    }
}

impl Task<'_> {
    /// Carries the plan out on this thread, once all have begun. Ends all if it fails.
    ///
    /// # Errors
    /// KVM_RUN failed or came back with something the guest does not do, or what came back is not
    /// what the guest counted.
    pub(super) fn run(&self, vcpu: &mut VcpuFd) -> Result<VcpuMade> {
        while !self.phase.begun.load(Relaxed) && !self.phase.is_ending() {
            thread::park();
        }
        let outcome = self.rounds(vcpu);
        if outcome.is_err() {
            self.phase.ending.store(true, Relaxed);
        }
        outcome
    }

    fn rounds(&self, vcpu: &mut VcpuFd) -> Result<VcpuMade> {
        let begin = Instant::now();
        let mut sum = VcpuMade {
            vcpu: self.number,
            tid: tid()?,
            made: Counts::default(),
            kvm_run_calls: 0,
            kvm_run_returns: 0,
            interrupted: 0,
            sign_offs: 0,
            interrupts: 0,
            seconds: 0.0,
        };
        'rounds: loop {
            for slice in self.plan.round().slices() {
                self.wait_for_turn(begin, sum.made.total());
                if self.phase.is_ending() {
                    break 'rounds;
                }
                self.slice(vcpu, &slice, &mut sum)?;
            }
            if self.plan.time.is_none() {
                break;
            }
        }
        sum.seconds = begin.elapsed().as_secs_f64();
        Ok(sum)
    }

    /// Sleeps until `made` accesses are what the rate allows; parking can be cut short.
    fn wait_for_turn(&self, begin: Instant, made: u64) {
        let Some(rate) = self.plan.rate.filter(|rate| *rate > 0) else { return };
        let rate = u64::from(rate);
        let due = Duration::from_secs(made / rate)
            + Duration::from_nanos(made % rate * 1_000_000_000 / rate);
        while !self.phase.is_ending() {
            let left = due.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return;
            }
            thread::park_timeout(left);
        }
    }

    fn slice(&self, vcpu: &mut VcpuFd, slice: &Counts, sum: &mut VcpuMade) -> Result<()> {
        self.control.arm(slice, |kind| self.code.entry(kind, sum.made.get(kind)));
        let seen = self.enter(vcpu, sum)?;
        let made = self.control.made();
        for (kind, count) in made.iter().filter(|(kind, _)| kind.returns()) {
            if seen.get(kind) != count {
                bail!(
                    "the guest made {count} {} and KVM_RUN returned {}; the counts cannot be \
                     trusted",
                    kind.name(),
                    seen.get(kind)
                );
            }
        }
        for (kind, count) in made.iter() {
            sum.made.add(kind, count);
        }
        self.count_interrupts(sum)
    }

    /// Adds the interrupts of a slice: at least one for each of its halts, if that is what ends them.
    /// QEMU's emulation of SVM delivers one in some hundreds twice (7.2; the second end of interrupt
    /// finds no vector in service), which is the guest's truth nevertheless.
    fn count_interrupts(&self, sum: &mut VcpuMade) -> Result<()> {
        let before = sum.interrupts as u32;
        sum.interrupts += u64::from(self.control.interrupts().wrapping_sub(before));
        let halts = sum.made.get(Kind::Halt);
        let fits = match self.plan.wake {
            Wake::Interrupt => sum.interrupts >= halts,
            Wake::Kick => sum.interrupts == 0,
        };
        if !fits {
            bail!(
                "the guest made {halts} halts and took {} interrupts; the counts cannot be trusted",
                sum.interrupts
            );
        }
        Ok(())
    }

    /// Runs the guest until it signs off; the returns by kind.
    fn enter(&self, vcpu: &mut VcpuFd, sum: &mut VcpuMade) -> Result<Counts> {
        let mut seen = Counts::default();
        loop {
            sum.kvm_run_calls += 1;
            let kind = match vcpu.run() {
                Ok(exit) => {
                    sum.kvm_run_returns += 1;
                    self.kind_of(exit).map_err(|exit| anyhow!("KVM_RUN returned with {exit}"))
                }
                Err(error) if error.errno() == libc::EINTR => {
                    sum.interrupted += 1;
                    continue;
                }
                Err(error) => Err(anyhow!("KVM_RUN failed: {error}")),
            };
            let kind = kind.with_context(|| {
                let at = vcpu.get_regs().map_or(0, |regs| regs.rip);
                format!("the guest of vCPU {} cannot go on at {at:#x}", self.number)
            })?;
            if kind == self.plan.sign_off() && self.control.signed_off() {
                sum.sign_offs += 1;
                return Ok(seen);
            }
            seen.add(kind, 1);
        }
    }

    /// The kind of access that `exit` answers to, with reads answered by zeroes; else what it is.
    fn kind_of(&self, exit: VcpuExit<'_>) -> Result<Kind, String> {
        match exit {
            VcpuExit::IoOut(..) => Ok(Kind::PioOut),
            VcpuExit::IoIn(_, data) => {
                data.fill(0);
                Ok(Kind::PioIn)
            }
            VcpuExit::MmioRead(_, data) => {
                data.fill(0);
                Ok(Kind::MmioRead)
            }
            // A write to an ioeventfd does not come back; if it does, the counts differ.
            VcpuExit::MmioWrite(..) => Ok(Kind::MmioWrite),
            VcpuExit::Hlt => Ok(Kind::Hlt),
            VcpuExit::InternalError if self.plan.halts() && self.plan.wake == Wake::Interrupt => {
                Err("InternalError: this KVM seems to deliver no interrupts to a guest without \
                     paging; give --wake kick"
                    .to_owned())
            }
            other => Err(format!("{other:?}")),
        }
    }
}

/// The kernel's number of this thread.
fn tid() -> Result<u32> {
    let link = fs::read_link("/proc/thread-self").context("/proc/thread-self cannot be read")?;
    link.file_name()
        .and_then(|name| name.to_str()?.parse().ok())
        .ok_or_else(|| anyhow!("/proc/thread-self is {}, not a thread", link.display()))
}
