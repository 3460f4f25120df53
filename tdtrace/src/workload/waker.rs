//! The thread that ends halts: it looks at how many each vCPU has begun, and sends one message for
//! each.

use std::{sync::atomic::Ordering::Relaxed, thread, time::Duration};

use anyhow::{Context as _, Result};
use kvm_ioctls::VmFd;

use super::{apic, control::Control, plan::Wake, vcpu::Phase};

/// Wakes the vCPUs of one VM.
#[derive(Debug)]
pub(super) struct Waker<'a> {
    pub(super) vm: &'a VmFd,
    pub(super) phase: &'a Phase,
    /// How long a halt lasts at least.
    pub(super) after: Duration,
    pub(super) wake: Wake,
    /// The vCPUs by number.
    pub(super) sleepers: Vec<Sleeper<'a>>,
}

/// A vCPU, and how far it was when it was looked at last.
#[derive(Debug)]
pub(super) struct Sleeper<'a> {
    control: Control<'a>,
    /// Halts begun.
    begun: u32,
    /// Halts that were ended.
    ended: u32,
}

impl<'a> Sleeper<'a> {
    pub(super) const fn new(control: Control<'a>) -> Self {
        Self { control, begun: 0, ended: 0 }
    }

    /// Whether it waits in a halt that had begun when it was looked at last.
    fn is_due(&mut self) -> bool {
        let begun = self.control.halting();
        let due = begun == self.begun && begun != self.ended;
        self.begun = begun;
        due
    }
}

impl Waker<'_> {
    /// Wakes until all vCPUs are through.
    ///
    /// # Errors
    /// KVM refused to send a message, to begin with at least. It is sent again and again: a vCPU in a
    /// halt could not be ended otherwise.
    pub(super) fn run(mut self) -> Result<()> {
        let mut outcome = Ok(());
        while !self.phase.over.load(Relaxed) {
            thread::sleep(self.after);
            for (sleeper, number) in self.sleepers.iter_mut().zip(0u32..) {
                if !sleeper.is_due() {
                    continue;
                }
                match self.vm.signal_msi(apic::message(number, self.wake)) {
                    // 0: the guest's APIC did not take it.
                    Ok(0) => {}
                    Ok(_) => sleeper.ended = sleeper.begun,
                    Err(error) if outcome.is_ok() => {
                        self.phase.ending.store(true, Relaxed);
                        outcome = Err(error)
                            .with_context(|| format!("KVM_SIGNAL_MSI to vCPU {number} failed"));
                    }
                    Err(_) => {}
                }
            }
        }
        outcome
    }
}
