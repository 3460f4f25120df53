//! What tdtrace counted against the truth log, number by number. Pure.

use std::{collections::BTreeMap, fmt};

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::Value;
use tdtrace_common::counters::{USERSPACE_EINTR, USERSPACE_HWPOISON, USERSPACE_OTHER};

use super::{
    memory::{self, Note},
    steps::{self, Step},
    truth::{Exit, Seamcalls},
};
use crate::lab::json::{list, number, numbers};

/// What the VMM says of a KVM_RUN that failed (`vmm.c`).
const RETURN_EINTR: u64 = 100;
const RETURN_ERROR: u64 = 101;
const RETURN_HWPOISON: u64 = 102;

/// The exit of a guest that has no more steps, which none should come to.
pub(super) const NO_STEP: &str = "VP.ENTER NON_RECOVERABLE_VCPU";

/// The leaf that cannot be probed: TDH.VP.ENTER.
const VP_ENTER: u64 = 0;

/// What is counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    /// Exits of a vCPU's thread, by name.
    Exit { tid: u64, name: String },
    /// KVM_RUNs of a vCPU's thread that came back, all reasons together.
    Runs { tid: u64 },
    /// Accesses of a TD by class, address and bytes.
    Place { td: usize, class: String, address: u64, size: u64 },
    /// TDVMCALLs of a TD by name and the status that KVM answered.
    Answer { td: usize, name: String, status: u64 },
    /// Exits of a TD by name and the reason with which KVM_RUN came back.
    Return { td: usize, name: String, reason: u64 },
    /// SEAMCALLs of all TDs, by leaf and status.
    Seamcall { leaf: u64, status: u64 },
    /// A number of a TD's conversions, by where it is in their JSON.
    Conversion { td: usize, pointer: String },
    /// What a finding counts.
    Finding { td: usize, rule: String },
    /// Exits of all TDs by the reason that `kvm_exit` shows.
    Shown { reason: u64 },
}

/// Numbers by item.
pub(super) type Counts = BTreeMap<Item, u64>;

/// One number by both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) item: Item,
    pub(super) truth: u64,
    pub(super) told: u64,
}

impl Row {
    /// Whether both say the same.
    pub(super) fn agrees(&self) -> bool {
        self.truth == self.told
    }
}

impl fmt::Display for Item {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit { tid, name } => write!(to, "thread {tid}: {name}"),
            Self::Runs { tid } => write!(to, "thread {tid}: returns of KVM_RUN"),
            Self::Place { td, class, address, size } => {
                write!(to, "TD {td}: {class} {address:#x}, {size} bytes")
            }
            Self::Answer { td, name, status } => write!(to, "TD {td}: {name} answered {status:#x}"),
            Self::Return { td, name, reason } => {
                write!(to, "TD {td}: {name} came back as {reason}")
            }
            Self::Seamcall { leaf, status } => write!(to, "SEAMCALL {leaf}: {status:#x}"),
            Self::Conversion { td, pointer } => write!(to, "TD {td}: conversions{pointer}"),
            Self::Finding { td, rule } => write!(to, "TD {td}: finding {rule}"),
            Self::Shown { reason } => write!(to, "kvm_exit shows {reason}"),
        }
    }
}

/// The TD of each thread that runs a vCPU.
///
/// # Errors
/// When a vCPU did not run, ran in two threads, or made other exits than it was told to.
pub(super) fn threads(exits: &[Exit]) -> Result<BTreeMap<u64, usize>> {
    let mut threads = BTreeMap::new();
    let mut vcpu = 0;
    for (td, vcpus) in steps::vcpus().enumerate() {
        for _ in 0..vcpus {
            let mut of_vcpu = exits.iter().filter(|exit| exit.vcpu == vcpu);
            let tid = of_vcpu.next().ok_or_else(|| anyhow!("vCPU {vcpu} did not run"))?.tid;
            ensure!(of_vcpu.all(|exit| exit.tid == tid), "vCPU {vcpu} ran in two threads");
            let made = exits.iter().filter(|exit| exit.vcpu == vcpu).count() as u64;
            let wanted = steps::made(vcpu);
            ensure!(made == wanted, "vCPU {vcpu} made {made} exits of {wanted}");
            threads.insert(tid, td);
            vcpu += 1;
        }
    }
    Ok(threads)
}

/// What the truth log says.
pub(super) fn of_truth(exits: &[Exit], threads: &BTreeMap<u64, usize>) -> Counts {
    let mut counts = Counts::new();
    let mut add = |item: Item| *counts.entry(item).or_default() += 1;
    let mut pages: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
    for exit in exits {
        let Some(td) = threads.get(&exit.tid).copied() else { continue };
        let step = steps::find(exit.vcpu, exit.step);
        let name = step.map_or(NO_STEP, |step| step.name).to_owned();
        add(Item::Exit { tid: exit.tid, name: name.clone() });
        if let Some((class, address, size)) = step.and_then(|step| step.place) {
            add(Item::Place { td, class: class.to_owned(), address, size });
        }
        if let Some(page) = step.and_then(Step::private_page) {
            // Again: it is one of the two that the vCPU came to last.
            let last = pages.entry(exit.tid).or_default();
            if last.contains(&page) {
                let class = "td_fault_again".to_owned();
                add(Item::Place { td, class, address: page, size: 0 });
            }
            last.retain(|before| *before != page);
            last.insert(0, page);
            last.truncate(2);
        }
        if let (Some(status), true) = (exit.answer, name.starts_with("TDVMCALL ")) {
            add(Item::Answer { td, name: name.clone(), status });
        }
        for reason in &exit.returns {
            let reason = match *reason {
                RETURN_EINTR => USERSPACE_EINTR as u64,
                RETURN_ERROR => USERSPACE_OTHER as u64,
                RETURN_HWPOISON => USERSPACE_HWPOISON as u64,
                reason => reason,
            };
            add(Item::Runs { tid: exit.tid });
            add(Item::Return { td, name: name.clone(), reason });
        }
    }
    counts
}

/// What tdtrace says; `notes` is the VMM's log.
///
/// # Errors
/// When something is missing or unknown in its JSON, when it lost something that it need not lose, or when
/// KVM's own counters say otherwise.
pub(super) fn told(json: &Value, threads: &BTreeMap<u64, usize>, notes: &[Note]) -> Result<Counts> {
    let lost = &json["lost"];
    ensure!(lost["total"] == 0, "tdtrace lost: {lost}");
    ensure!(json["audit"]["agrees"] == true, "KVM counted otherwise: {}", json["audit"]);
    let mut counts = Counts::new();
    for vm in list(json, "vms")? {
        ensure!(vm["kind"] == "TD", "a VM is no TD but {}", vm["kind"]);
        let mut td = None;
        for vcpu in list(vm, "vcpus")? {
            let tid = number(vcpu, "tid")?;
            td = threads.get(&tid).copied();
            for (name, count) in numbers(vcpu, "exit_reasons")? {
                let item = Item::Exit { tid, name: name.to_owned() };
                add(&mut counts, item, count);
            }
            for (_, count) in numbers(vcpu, "returns_to_vmm")? {
                add(&mut counts, Item::Runs { tid }, count);
            }
        }
        let td = td.ok_or_else(|| anyhow!("a VM has vCPUs that nobody made"))?;
        counts.extend(memory::told(vm, td, notes)?);
        ensure!(vm["hotspots_omitted"] == 0, "places of TD {td} were left out");
        for row in list(vm, "hotspots")? {
            if let Some(item) = place(td, row)? {
                add(&mut counts, item, number(row, "count")?);
            }
        }
    }
    Ok(counts)
}

/// The TD that tdtrace calls VM number `vm`.
pub(super) fn td_of(json: &Value, vm: u64, threads: &BTreeMap<u64, usize>) -> Option<usize> {
    let vm = json["vms"].as_array()?.iter().find(|row| row["vm"] == vm)?;
    threads.get(&vm["vcpus"][0]["tid"].as_u64()?).copied()
}

/// What a place of the JSON stands for; `None` for what the truth log does not know.
fn place(td: usize, row: &Value) -> Result<Option<Item>> {
    let class = row["class"].as_str().ok_or_else(|| anyhow!("a place has no class: {row}"))?;
    let address = number(row, "address")?;
    let what = row["what"].as_str().unwrap_or_default();
    let named = |split: &str| {
        let (name, _) = what.split_once(split).ok_or_else(|| anyhow!("a place without {split}"))?;
        Ok::<_, anyhow::Error>(name.to_owned())
    };
    Ok(Some(match class {
        "td_answer" => {
            Item::Answer { td, name: format!("TDVMCALL {}", named(": ")?), status: address }
        }
        "td_return" => Item::Return { td, name: named(" → ")?, reason: address },
        // The error is the place's size in the programs, and part of its name here.
        "memory_fault" => {
            let (_, error) = what.rsplit_once(": ").unwrap_or_default();
            let size = match error {
                "EFAULT" => memory::EFAULT,
                "EHWPOISON" => memory::EHWPOISON,
                error => bail!("a memory fault with the error {error:?}"),
            };
            Item::Place { td, class: class.to_owned(), address, size }
        }
        // KVM's own work, which is not a matter of the TDX module.
        "halt" | "halt_poll" | "page_fault" | "spte_changed" => return Ok(None),
        _ => Item::Place {
            td,
            class: class.to_owned(),
            address,
            size: row["size"].as_u64().unwrap_or(0),
        },
    }))
}

/// What tdtrace says of SEAMCALLs, and the leaves that it counts.
///
/// # Errors
/// When something is missing in its JSON, when it counts none, or when it missed some.
pub(super) fn seamcalls(json: &Value) -> Result<(Seamcalls, Vec<u64>)> {
    let rows = list(json, "seamcalls")?;
    let (mut calls, mut leaves) = (Seamcalls::new(), Vec::new());
    for row in rows {
        let leaf = number(row, "leaf")?;
        leaves.push(leaf);
        for of_status in list(row, "by_status")? {
            let key = (leaf, number(of_status, "status")?);
            *calls.entry(key).or_default() += number(of_status, "count")?;
        }
    }
    if leaves.is_empty() {
        bail!("tdtrace counts no SEAMCALLs: {}", json["seamcalls_not_seen"]);
    }
    Ok((calls, leaves))
}

/// SEAMCALLs as items, of the leaves that are counted; all that can be probed must be.
///
/// # Errors
/// When there were calls of a leaf that tdtrace does not count.
pub(super) fn seamcall_counts(calls: &Seamcalls, leaves: &[u64]) -> Result<Counts> {
    let mut counts = Counts::new();
    for ((leaf, status), count) in calls {
        if *leaf == VP_ENTER {
            continue;
        }
        ensure!(leaves.contains(leaf), "tdtrace does not count SEAMCALL {leaf}");
        counts.insert(Item::Seamcall { leaf: *leaf, status: *status }, *count);
    }
    Ok(counts)
}

/// How many numbers there are of each kind, in words.
pub(super) fn kinds(rows: &[Row]) -> String {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for row in rows {
        let kind = match row.item {
            Item::Exit { .. } => "of exits",
            Item::Runs { .. } | Item::Return { .. } => "of returns",
            Item::Place { .. } => "of places",
            Item::Answer { .. } => "of answers",
            Item::Seamcall { .. } => "of SEAMCALLs",
            Item::Conversion { .. } => "of conversions",
            Item::Finding { .. } => "of findings",
            Item::Shown { .. } => "of kvm_exit",
        };
        *kinds.entry(kind).or_default() += 1;
    }
    let words: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    words.join(", ")
}

/// Both, item by item.
pub(super) fn rows(truth: &Counts, told: &Counts) -> Vec<Row> {
    let mut rows: BTreeMap<&Item, (u64, u64)> = BTreeMap::new();
    for (item, count) in truth {
        rows.entry(item).or_default().0 = *count;
    }
    for (item, count) in told {
        rows.entry(item).or_default().1 = *count;
    }
    rows.into_iter().map(|(item, (truth, told))| Row { item: item.clone(), truth, told }).collect()
}

fn add(counts: &mut Counts, item: Item, count: u64) {
    // KVM_RUN's reasons are all listed, most with 0.
    if count > 0 {
        *counts.entry(item).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn exit(vcpu: u64, step: usize, answer: Option<u64>, returns: &[u64]) -> Exit {
        Exit { vcpu, tid: 60 + vcpu, step, answer, returns: returns.to_vec() }
    }

    /// None of what is counted.
    fn conversions() -> Value {
        let way = json!({
            "calls": 0, "bytes": 0, "calls_of_4k": 0, "calls_of_2m": 0, "retries": 0, "refused": 0
        });
        let none = json!({ "calls": 0, "bytes": 0 });
        json!({
            "to_shared": way,
            "to_private": way,
            "net_shared_bytes": 0,
            "attributes": { "to_shared": none, "to_private": none },
            "punched": none,
            "broken_pages": 0,
            "memory_faults": { "total": 0, "shared": 0, "private": 0, "poisoned": 0, "last": null },
            "mapped_private": { "pages_4k": 0, "pages_2m": 0 },
            "without_region": 0,
        })
    }

    /// A VM of one vCPU with these exits and places.
    fn stat(exits: &Value, places: &Value) -> Value {
        json!({
            "lost": { "total": 0 },
            "audit": { "agrees": true },
            "vms": [{
                "kind": "TD",
                "conversions": conversions(),
                "hotspots": places,
                "hotspots_omitted": 0,
                "vcpus": [{ "tid": 60, "exit_reasons": exits, "returns_to_vmm": { "IO": 0 } }],
            }],
        })
    }

    #[test]
    fn an_exit_counts_by_name_place_answer_and_return() {
        let threads = [(60, 0)].into();
        // The fourth step is an OUT to COM1.
        let truth = of_truth(&[exit(0, 4, Some(0), &[2, RETURN_EINTR])], &threads);
        let name = || "TDVMCALL IO out".to_owned();
        let returned = |reason| Item::Return { td: 0, name: name(), reason };
        let expected: Counts = [
            (Item::Exit { tid: 60, name: name() }, 1),
            (Item::Runs { tid: 60 }, 2),
            (Item::Place { td: 0, class: "pio_out".into(), address: 0x3f8, size: 1 }, 1),
            (Item::Answer { td: 0, name: name(), status: 0 }, 1),
            (returned(2), 1),
            (returned(USERSPACE_EINTR as u64), 1),
        ]
        .into();
        assert_eq!(truth, expected);
    }

    #[test]
    fn a_number_that_only_one_of_them_has_differs() {
        let threads = [(60, 0)].into();
        let mut truth = of_truth(&[exit(0, 4, None, &[])], &threads);
        truth.extend(memory::of_truth(&[], &threads, &[], &[]));
        let place = json!([{ "class": "pio_out", "address": 0x3f8, "size": 1, "count": 1 }]);
        let json = stat(&json!({ "TDVMCALL IO out": 1 }), &place);
        assert!(rows(&truth, &told(&json, &threads, &[]).unwrap()).iter().all(Row::agrees));
        let json = stat(&json!({ "TDVMCALL IO out": 2, "HLT": 1 }), &json!([]));
        let apart = rows(&truth, &told(&json, &threads, &[]).unwrap());
        assert_eq!(apart.iter().filter(|row| !row.agrees()).count(), 3);
    }

    #[test]
    fn a_memory_fault_is_told_by_the_error_in_its_name() {
        let told = |what: &str| {
            let row = json!({ "class": "memory_fault", "address": 1, "size": null, "what": what });
            place(0, &row).unwrap().unwrap()
        };
        let fault =
            |size| Item::Place { td: 0, class: "memory_fault".to_owned(), address: 1, size };
        assert_eq!(told("private memory: EFAULT"), fault(memory::EFAULT));
        assert_eq!(told("private memory: EHWPOISON"), fault(memory::EHWPOISON));
    }

    #[test]
    fn what_tdtrace_lost_or_left_out_is_an_error() {
        let threads = [(60, 0)].into();
        for (key, value) in [("lost", json!({ "total": 1 })), ("audit", json!(null))] {
            let mut json = stat(&json!({}), &json!([]));
            json[key] = value;
            assert!(told(&json, &threads, &[]).is_err(), "{key}");
        }
    }

    #[test]
    fn entering_is_the_only_seamcall_that_may_be_uncounted() {
        let calls = [((0, 77), 9), ((6, 0), 2)].into();
        let counts = seamcall_counts(&calls, &[6]).unwrap();
        assert_eq!(counts, [(Item::Seamcall { leaf: 6, status: 0 }, 2)].into());
        assert!(seamcall_counts(&calls, &[7]).is_err());
    }

    #[test]
    fn a_vcpu_that_did_not_make_all_its_exits_is_an_error() {
        assert!(threads(&[exit(0, 1, None, &[])]).is_err());
        assert!(threads(&[]).is_err());
    }
}
