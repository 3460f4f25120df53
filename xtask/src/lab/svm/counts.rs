//! Counts per thread and item, and the comparison of the three that counted. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use anyhow::{Result, bail};
use tdtrace_common::{
    counters::Class::{self, Exit},
    svm::exit_code,
};

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Events of a class.
    Class(Class),
    /// `kvm_exit` with this SVM exit code.
    Reason(u32),
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Class(class) => f.pad(class.name()),
            Self::Reason(code) => match exit_code(*code) {
                Some(name) => f.pad(&format!("exit {name}")),
                None => f.pad(&format!("exit {code:#x}")),
            },
        }
    }
}

/// The counts of one thread.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Thread {
    /// The vCPU that it runs, once known.
    pub(super) vcpu: Option<u64>,
    /// Its VM, numbered by the workload.
    pub(super) vm: Option<u64>,
    /// Counts; an item that is not there was not told of.
    pub(super) counts: BTreeMap<Item, u64>,
}

/// Counts by thread id.
pub(super) type Threads = BTreeMap<u64, Thread>;

/// Events that tdtrace says it lost, by tracepoint; only those that there are.
pub(super) type Lost = BTreeMap<String, u64>;

/// The tracepoint that has the events of `class`.
pub(super) fn tracepoint(class: Class) -> &'static str {
    match class {
        Class::PioIn | Class::PioOut => "kvm_pio",
        Class::MmioReadUnsatisfied | Class::MmioRead | Class::MmioWrite => "kvm_mmio",
        Class::FastMmio => "kvm_fast_mmio",
        Class::Cpuid => "kvm_cpuid",
        Class::MsrRead | Class::MsrWrite => "kvm_msr",
        Class::Hypercall => "kvm_hypercall",
        Class::UserspaceExit => "kvm_userspace_exit",
        Class::RunBegin | Class::RunEnd => "kvm_fpu",
        Class::Entry => "kvm_entry",
        Exit => "kvm_exit",
        Class::PageFault => "kvm_page_fault",
        Class::Halt => "kvm_vcpu_wakeup",
        Class::HaltPoll => "kvm_halt_poll_ns",
        Class::Interrupt => "kvm_inj_virq",
        Class::SpteChanged => "kvm_tdp_mmu_spte_changed",
        Class::MmioFault => "handle_mmio_page_fault",
        Class::NestedExit => "kvm_nested_vmexit",
        Class::InterruptPosted => "kvm_apicv_accept_irq",
        Class::HostInterrupt
        | Class::TdAnswer
        | Class::TdReturn
        | Class::TdUnknownLeaf
        | Class::TdFaultAgain
        | Class::MemoryAttributes
        | Class::MemoryPunched
        | Class::MemoryFault => "none: the lab's guests have no private memory",
    }
}

/// Tracepoints of which seen + lost is not what tracefs counted, as sentences.
pub(super) fn unaccounted(rows: &[Row], lost: &Lost) -> Vec<String> {
    let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for row in rows {
        if let Item::Class(class) = row.item {
            let sum = sums.entry(tracepoint(class)).or_default();
            sum.0 += row.tracefs;
            sum.1 += row.tdtrace;
        }
    }
    sums.into_iter()
        .map(|(name, (traced, seen))| (name, traced, seen, lost.get(name).copied().unwrap_or(0)))
        .filter(|(_, traced, seen, lost)| *traced != seen + lost)
        .map(|(name, traced, seen, lost)| {
            format!("{name}: tracefs counted {traced}, tdtrace saw {seen} and lost {lost}")
        })
        .collect()
}

/// An item of a thread with what each side says of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    vm: Option<u64>,
    vcpu: Option<u64>,
    /// `None` for all threads together, of classes that also occur outside of a vCPU's thread.
    tid: Option<u64>,
    item: Item,
    tracefs: u64,
    tdtrace: u64,
    /// `None` where the workload promises nothing.
    workload: Option<u64>,
}

/// Every item of every thread that one of the three sides knows.
///
/// # Errors
/// When the sides do not know the same threads, or see different vCPUs in one, or when a thread
/// made no exit at all.
pub(super) fn compare(
    mut tracefs: Threads,
    mut tdtrace: Threads,
    outside: &BTreeMap<Item, u64>,
    workload: &Threads,
) -> Result<Vec<Row>> {
    let traced = take_unattributed(&mut tracefs);
    let mut counted = take_unattributed(&mut tdtrace);
    for (item, count) in outside {
        *counted.entry(*item).or_default() += count;
    }
    let ids = |threads: &Threads| threads.keys().copied().collect::<BTreeSet<_>>();
    let known = [ids(&tracefs), ids(&tdtrace), ids(workload)];
    if known[0] != known[1] || known[0] != known[2] || known[0].is_empty() {
        let [tracefs, tdtrace, workload] = known;
        bail!("threads: tracefs {tracefs:?}, tdtrace {tdtrace:?}, workload {workload:?}");
    }
    let items: BTreeSet<_> = traced.keys().chain(counted.keys()).collect();
    let count = |counts: &BTreeMap<Item, u64>, item: &Item| counts.get(item).copied().unwrap_or(0);
    let together = |item: &Item| Row {
        vm: None,
        vcpu: None,
        tid: None,
        item: *item,
        tracefs: count(&traced, item),
        tdtrace: count(&counted, item),
        workload: None,
    };
    let mut rows: Vec<Row> = items.into_iter().map(together).collect();
    for (tid, made) in workload {
        let (traced, counted) = (&tracefs[tid], &tdtrace[tid]);
        if traced.vcpu != made.vcpu || counted.vcpu != made.vcpu {
            bail!(
                "thread {tid} ran vCPU {:?}, tracefs {:?}, tdtrace {:?}",
                made.vcpu,
                traced.vcpu,
                counted.vcpu
            );
        }
        if !traced.counts.contains_key(&Item::Class(Exit)) {
            bail!("thread {tid} made no exit");
        }
        let items: BTreeSet<_> =
            [traced, counted, made].iter().flat_map(|thread| thread.counts.keys()).collect();
        for item in items {
            let count = |thread: &Thread| thread.counts.get(item).copied();
            rows.push(Row {
                vm: made.vm,
                vcpu: made.vcpu,
                tid: Some(*tid),
                item: *item,
                tracefs: count(traced).unwrap_or(0),
                tdtrace: count(counted).unwrap_or(0),
                workload: count(made),
            });
        }
    }
    Ok(rows)
}

/// Takes the counts out of classes whose events need not belong to the thread in which they occur, and
/// threads that have no others.
fn take_unattributed(threads: &mut Threads) -> BTreeMap<Item, u64> {
    let mut sums = BTreeMap::new();
    threads.retain(|_, thread| {
        let before = thread.counts.len();
        thread.counts.retain(|item, count| {
            let outside = matches!(item, Item::Class(class) if class.occurs_outside());
            if outside {
                *sums.entry(*item).or_default() += *count;
            }
            !outside
        });
        before == thread.counts.len() || !thread.counts.is_empty()
    });
    sums
}

impl Row {
    /// Whether all sides say the same; where events of the tracepoint were `lost`, tdtrace may have
    /// fewer, and [`unaccounted`] looks at their sum.
    pub(super) fn agrees(&self, lost: &Lost) -> bool {
        let tracepoint = match self.item {
            Item::Class(class) => tracepoint(class),
            Item::Reason(_) => tracepoint(Exit),
        };
        let seen = if lost.contains_key(tracepoint) {
            self.tdtrace <= self.tracefs
        } else {
            self.tdtrace == self.tracefs
        };
        seen && self.workload.is_none_or(|made| made == self.tracefs)
    }

    /// Whether nobody saw anything.
    pub(super) fn is_empty(&self) -> bool {
        self.tracefs == 0 && self.tdtrace == 0 && self.workload.unwrap_or(0) == 0
    }

    /// The line above rows.
    pub(super) fn header() -> String {
        format!(
            "{:>3} {:>4} {:>6}  {:<22} {:>9} {:>9} {:>9}",
            "vm", "vcpu", "tid", "item", "tracefs", "tdtrace", "workload"
        )
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_dash = |value: Option<u64>| value.map_or("-".to_owned(), |value| value.to_string());
        write!(
            f,
            "{:>3} {:>4} {:>6}  {:<22} {:>9} {:>9} {:>9}",
            or_dash(self.vm),
            or_dash(self.vcpu),
            or_dash(self.tid),
            self.item,
            self.tracefs,
            self.tdtrace,
            or_dash(self.workload),
        )
    }
}

#[cfg(test)]
mod tests {
    use tdtrace_common::counters::Class::{Cpuid, Hypercall};

    use super::*;

    const HLT: Item = Item::Reason(0x78);

    /// Thread 7 with vCPU `vcpu` of VM 0.
    fn thread(vcpu: u64, counts: &[(Item, u64)]) -> Threads {
        let counts = counts.iter().copied().collect();
        Threads::from([(7, Thread { vcpu: Some(vcpu), vm: Some(0), counts })])
    }

    fn rows(tracefs: &Threads, tdtrace: &Threads, workload: &Threads) -> Result<Vec<Row>> {
        compare(tracefs.clone(), tdtrace.clone(), &BTreeMap::new(), workload)
    }

    fn differing(tdtrace: &[(Item, u64)], workload: &[(Item, u64)]) -> Vec<Item> {
        let tracefs = thread(1, &[(Item::Class(Exit), 5), (HLT, 4)]);
        let rows = rows(&tracefs, &thread(1, tdtrace), &thread(1, workload)).unwrap();
        rows.iter().filter(|row| !row.agrees(&Lost::new())).map(|row| row.item).collect()
    }

    #[test]
    fn equal_counts_agree_in_every_row() {
        let tdtrace = [(Item::Class(Exit), 5), (HLT, 4), (Item::Class(Hypercall), 0)];
        assert_eq!(differing(&tdtrace, &[(HLT, 4)]), []);
    }

    #[test]
    fn one_exit_more_or_less_is_a_difference_in_that_row() {
        for exits in [4, 6] {
            let tdtrace = [(Item::Class(Exit), exits), (HLT, 4)];
            assert_eq!(differing(&tdtrace, &[]), [Item::Class(Exit)]);
        }
    }

    #[test]
    fn what_the_workload_did_not_make_is_a_difference() {
        let tdtrace = [(Item::Class(Exit), 5), (HLT, 4)];
        assert_eq!(differing(&tdtrace, &[(HLT, 3)]), [HLT]);
    }

    #[test]
    fn an_item_that_only_one_side_knows_is_a_difference() {
        assert_eq!(differing(&[(Item::Class(Exit), 5)], &[]), [HLT]);
        let more = [(Item::Class(Exit), 5), (HLT, 4), (Item::Class(Cpuid), 1)];
        assert_eq!(differing(&more, &[]), [Item::Class(Cpuid)]);
    }

    #[test]
    fn what_was_lost_must_fill_the_gap_exactly() {
        let tracefs = thread(1, &[(Item::Class(Exit), 5)]);
        let tdtrace = thread(1, &[(Item::Class(Exit), 3)]);
        let rows = rows(&tracefs, &tdtrace, &thread(1, &[])).unwrap();
        let lost = |count| Lost::from([("kvm_exit".to_owned(), count)]);
        assert!(rows[0].agrees(&lost(2)) && !rows[0].agrees(&Lost::new()));
        assert!(unaccounted(&rows, &lost(2)).is_empty());
        assert_eq!(unaccounted(&rows, &lost(1)).len(), 1);
        assert_eq!(unaccounted(&rows, &Lost::new()).len(), 1);
    }

    #[test]
    fn what_other_threads_do_is_compared_all_together() {
        let spte = Item::Class(Class::SpteChanged);
        let mut tracefs = thread(1, &[(Item::Class(Exit), 5), (spte, 3)]);
        tracefs.insert(9, Thread { counts: [(spte, 4)].into(), ..Thread::default() });
        let tdtrace = thread(1, &[(Item::Class(Exit), 5), (spte, 2)]);
        let workload = thread(1, &[]);
        for (outside, agrees) in [(5, true), (4, false)] {
            let outside = BTreeMap::from([(spte, outside)]);
            let rows = compare(tracefs.clone(), tdtrace.clone(), &outside, &workload).unwrap();
            assert_eq!(rows.iter().all(|row| row.agrees(&Lost::new())), agrees);
        }
    }

    #[test]
    fn threads_that_are_not_the_same_are_an_error() {
        let one = thread(1, &[(Item::Class(Exit), 5)]);
        assert!(rows(&one, &Threads::new(), &one).is_err());
        assert!(rows(&one, &one, &Threads::new()).is_err());
        assert!(rows(&Threads::new(), &Threads::new(), &Threads::new()).is_err());
        let error = rows(&one, &thread(0, &[]), &one).unwrap_err().to_string();
        assert!(error.contains("thread 7"), "{error}");
    }

    #[test]
    fn a_thread_without_exits_is_an_error() {
        let none = thread(1, &[]);
        let error = rows(&none, &none, &none).unwrap_err().to_string();
        assert!(error.contains("no exit"), "{error}");
    }
}
