//! tracefs histograms: which there are for the events that tdtrace counts, and what they count. Pure.

use anyhow::{Context as _, Result, anyhow, bail};
use tdtrace_common::counters::Class::{self, *};

use super::counts::{Item, Threads};
use crate::lab::hist::{Numbers, entries};

/// A tracepoint and how its histogram is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    /// The group that tracefs has it in.
    pub(super) group: &'static str,
    /// The tracepoint.
    pub(super) name: &'static str,
    /// The fields that the histogram is keyed by, the thread first.
    pub(super) keys: &'static str,
    /// The key that tells classes apart, and the class of each of its values.
    classes: (Option<&'static str>, &'static [(u64, Class)]),
}

/// Every tracepoint that tdtrace counts (include/trace/events/kvm.h, arch/x86/kvm/trace.h,
/// arch/x86/kvm/mmu/mmutrace.h).
pub(super) const EVENTS: [Event; 18] = [
    Event::one("kvm_entry", "common_pid,vcpu_id", &[(0, Entry)]),
    Event::one("kvm_exit", "common_pid,vcpu_id,exit_reason", &[(0, Exit)]),
    Event::by("kvm_pio", "common_pid,rw", "rw", &[(0, PioIn), (1, PioOut)]),
    Event::by(
        "kvm_mmio",
        "common_pid,type",
        "type",
        &[(0, MmioReadUnsatisfied), (1, MmioRead), (2, MmioWrite)],
    ),
    Event::one("kvm_fast_mmio", "common_pid", &[(0, FastMmio)]),
    Event::one("kvm_cpuid", "common_pid", &[(0, Cpuid)]),
    Event::by("kvm_msr", "common_pid,write", "write", &[(0, MsrRead), (1, MsrWrite)]),
    Event::one("kvm_hypercall", "common_pid", &[(0, Hypercall)]),
    Event::one("kvm_userspace_exit", "common_pid", &[(0, UserspaceExit)]),
    Event::by("kvm_fpu", "common_pid,load", "load", &[(0, RunEnd), (1, RunBegin)]),
    Event::one("kvm_page_fault", "common_pid", &[(0, PageFault)]),
    Event::one("kvm_vcpu_wakeup", "common_pid", &[(0, Halt)]),
    Event::one("kvm_halt_poll_ns", "common_pid", &[(0, HaltPoll)]),
    Event::one("kvm_inj_virq", "common_pid", &[(0, Interrupt)]),
    Event::one("kvm_apicv_accept_irq", "common_pid", &[(0, InterruptPosted)]),
    Event::one("kvm_nested_vmexit", "common_pid", &[(0, NestedExit)]),
    Event::mmu("handle_mmio_page_fault", "common_pid", &[(0, MmioFault)]),
    Event::mmu("kvm_tdp_mmu_spte_changed", "common_pid", &[(0, SpteChanged)]),
];

impl Event {
    const fn one(name: &'static str, keys: &'static str, classes: &'static [(u64, Class)]) -> Self {
        Self { group: "kvm", name, keys, classes: (None, classes) }
    }

    const fn mmu(name: &'static str, keys: &'static str, classes: &'static [(u64, Class)]) -> Self {
        Self { group: "kvmmmu", ..Self::one(name, keys, classes) }
    }

    const fn by(
        name: &'static str,
        keys: &'static str,
        key: &'static str,
        classes: &'static [(u64, Class)],
    ) -> Self {
        Self { group: "kvm", name, keys, classes: (Some(key), classes) }
    }

    fn class(&self, keys: &Numbers<'_>) -> Result<Class> {
        let value = match self.classes.0 {
            Some(key) => *keys.get(key).ok_or_else(|| anyhow!("{} has no {key}", self.name))?,
            None => 0,
        };
        self.classes
            .1
            .iter()
            .find(|(known, _)| *known == value)
            .map(|(_, class)| *class)
            .ok_or_else(|| anyhow!("{} has the unknown kind {value}", self.name))
    }

    /// Adds what the text of this event's `hist` file counts to `threads`.
    ///
    /// # Errors
    /// When the histogram is not whole, or an entry is none that this event can have.
    pub(super) fn read(&self, hist: &str, threads: &mut Threads) -> Result<()> {
        for entry in entries(hist).with_context(|| self.name.to_owned())? {
            self.add(&entry.keys, entry.hits, threads)?;
        }
        Ok(())
    }

    fn add(&self, keys: &Numbers<'_>, count: u64, threads: &mut Threads) -> Result<()> {
        let tid = keys.get("common_pid").ok_or_else(|| anyhow!("{} has no thread", self.name))?;
        let thread = threads.entry(*tid).or_default();
        if let Some(vcpu) = keys.get("vcpu_id") {
            if thread.vcpu.is_some_and(|known| known != *vcpu) {
                bail!("thread {tid} ran more than one vCPU");
            }
            thread.vcpu = Some(*vcpu);
        }
        *thread.counts.entry(Item::Class(self.class(keys)?)).or_default() += count;
        if let Some(reason) = keys.get("exit_reason") {
            let reason = u32::try_from(*reason).context("an exit code has more than 32 bits")?;
            *thread.counts.entry(Item::Reason(reason)).or_default() += count;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const PIO: &str = "# event histogram\n#\n\
        # trigger info: hist:keys=common_pid,rw:vals=hitcount:sort=hitcount:size=4096 [active]\n#\n\n\
        { common_pid:        155, rw:          0 } hitcount:          3\n\
        { common_pid:        154, rw:          1 } hitcount:       2001\n\n\
        Totals:\n    Hits: 2004\n    Entries: 2\n    Dropped: 0\n";

    fn event(name: &str) -> &'static Event {
        EVENTS.iter().find(|event| event.name == name).unwrap()
    }

    #[test]
    fn a_histogram_is_read_by_thread_and_class() {
        let mut threads = Threads::new();
        event("kvm_pio").read(PIO, &mut threads).unwrap();
        assert_eq!(threads[&154].counts, BTreeMap::from([(Item::Class(PioOut), 2001)]));
        assert_eq!(threads[&155].counts, BTreeMap::from([(Item::Class(PioIn), 3)]));
    }

    #[test]
    fn a_histogram_that_lost_events_or_has_an_unknown_kind_is_refused() {
        let read = |hist: &str| event("kvm_pio").read(hist, &mut Threads::new());
        assert!(read(&PIO.replace("Dropped: 0", "Dropped: 1")).is_err());
        assert!(read(&PIO.replace("rw:          0", "rw:          5")).is_err());
        assert!(read("").is_err());
    }

    #[test]
    fn a_thread_with_two_vcpus_is_refused() {
        let hist = "{ common_pid: 7, vcpu_id: 1 } hitcount: 1\n\
                    { common_pid: 7, vcpu_id: 2 } hitcount: 1\nHits: 2\nDropped: 0\n";
        let error = event("kvm_entry").read(hist, &mut Threads::new()).unwrap_err().to_string();
        assert!(error.contains("thread 7"), "{error}");
    }

    #[test]
    fn exits_are_also_counted_by_reason() {
        let hist = "{ common_pid: 7, vcpu_id: 1, exit_reason: 120 } hitcount: 4\n\
                    { common_pid: 7, vcpu_id: 1, exit_reason: 96 } hitcount: 1\n\
                    Hits: 5\nDropped: 0\n";
        let mut threads = Threads::new();
        event("kvm_exit").read(hist, &mut threads).unwrap();
        let expected = [(Item::Class(Exit), 5), (Item::Reason(0x78), 4), (Item::Reason(0x60), 1)];
        assert_eq!(threads[&7].counts, BTreeMap::from(expected));
        assert_eq!(threads[&7].vcpu, Some(1));
    }
}
