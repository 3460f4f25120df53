//! What became of the TDs' memory: tdtrace's conversions against the log of the VMM, the answers of KVM
//! and the pages that were added. Pure.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::Value;

use super::{
    compare::{Counts, Item},
    steps,
    truth::{Call, Exit, number},
};

/// `TDVMCALL_STATUS_RETRY`.
const RETRY: u64 = 1;
/// The leaf of TDH.MEM.PAGE.AUG, which adds a page that the guest has to accept.
const PAGE_AUG: u64 = 6;
/// How KVM_RUN fails at a memory fault.
pub(super) const EFAULT: u64 = 14;
/// The same at a page that is broken.
pub(super) const EHWPOISON: u64 = 133;
const PAGE: u64 = 4 << 10;
const BLOCK: u64 = 2 << 20;

/// What the VMM did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It converted what a guest asked for.
    Map,
    /// It set attributes.
    Set,
    /// It gave memory back.
    Punch,
    /// It was told of a memory fault.
    Fault,
    /// It was told of one on a page that is broken.
    Poison,
    /// It had a page break.
    Break,
}

/// A line of the VMM's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) what: What,
    td: usize,
    gpa: u64,
    bytes: u64,
    private: bool,
}

/// The lines of `vmm`, as `vmm.c` describes them.
///
/// # Errors
/// When a line is not of the format.
pub(super) fn notes(text: &str) -> Result<Vec<Note>> {
    text.lines().map(|line| note(line).with_context(|| format!("the note {line:?}"))).collect()
}

fn note(line: &str) -> Result<Note> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [what, td, gpa, bytes, private] = words[..] else { bail!("it has no five words") };
    let what = match what {
        "map" => What::Map,
        "set" => What::Set,
        "punch" => What::Punch,
        "fault" => What::Fault,
        "poison" => What::Poison,
        "break" => What::Break,
        what => bail!("{what} is nothing that a VMM does"),
    };
    let private = number(private)? != 0;
    Ok(Note { what, td: td.parse()?, gpa: number(gpa)?, bytes: number(bytes)?, private })
}

/// Where the JSON of a VM's conversions has each number that is compared.
const POINTERS: &[&str] = &[
    "/to_shared/calls",
    "/to_shared/bytes",
    "/to_shared/calls_of_4k",
    "/to_shared/calls_of_2m",
    "/to_shared/retries",
    "/to_shared/refused",
    "/to_private/calls",
    "/to_private/bytes",
    "/to_private/calls_of_4k",
    "/to_private/calls_of_2m",
    "/to_private/retries",
    "/to_private/refused",
    "/attributes/to_shared/calls",
    "/attributes/to_shared/bytes",
    "/attributes/to_private/calls",
    "/attributes/to_private/bytes",
    "/punched/calls",
    "/punched/bytes",
    "/broken_pages",
    "/memory_faults/total",
    "/memory_faults/shared",
    "/memory_faults/private",
    "/memory_faults/poisoned",
    "/mapped_private/pages_4k",
    "/mapped_private/pages_2m",
    "/without_region",
];

fn item(td: usize, pointer: &str) -> Item {
    Item::Conversion { td, pointer: pointer.to_owned() }
}

/// What the truth logs say of the TDs in `threads`.
pub(super) fn of_truth(
    exits: &[Exit],
    threads: &BTreeMap<u64, usize>,
    calls: &[Call],
    notes: &[Note],
) -> Counts {
    let all = threads.values().flat_map(|td| POINTERS.iter().map(|pointer| item(*td, pointer)));
    let mut counts: Counts = all.map(|item| (item, 0)).collect();
    let mut add =
        |td: usize, pointer: &str, by: u64| *counts.entry(item(td, pointer)).or_default() += by;
    for exit in exits {
        let Some(td) = threads.get(&exit.tid) else { continue };
        for what in asked(exit) {
            add(*td, &what, 1);
        }
    }
    let mut faults = Vec::new();
    for Note { what, td, bytes, private, .. } in notes {
        let way = direction(*private);
        match what {
            What::Map => add(*td, &format!("/{way}/bytes"), *bytes),
            What::Set => {
                add(*td, &format!("/attributes/{way}/calls"), 1);
                add(*td, &format!("/attributes/{way}/bytes"), *bytes);
            }
            What::Punch => {
                add(*td, "/punched/calls", 1);
                add(*td, "/punched/bytes", *bytes);
            }
            What::Break => add(*td, "/broken_pages", 1),
            What::Fault | What::Poison => {
                add(*td, "/memory_faults/total", 1);
                let kind = if *private { "private" } else { "shared" };
                add(*td, &format!("/memory_faults/{kind}"), 1);
                let is_broken = *what == What::Poison;
                add(*td, "/memory_faults/poisoned", is_broken.into());
                faults.push((*td, *private, if is_broken { EHWPOISON } else { EFAULT }));
            }
        }
    }
    for call in calls.iter().filter(|call| call.leaf == PAGE_AUG && call.status == 0) {
        if let Some(td) = threads.get(&call.tid) {
            add(*td, "/mapped_private/pages_4k", 1);
        }
    }
    for (td, private, size) in faults {
        let class = "memory_fault".to_owned();
        let place = Item::Place { td, class, address: private.into(), size };
        *counts.entry(place).or_default() += 1;
    }
    counts
}

const fn direction(private: bool) -> &'static str {
    if private { "to_private" } else { "to_shared" }
}

/// The numbers that an exit adds one to, if it is MapGPA and was answered. The guests do not go on where
/// KVM stopped: each is a request of its own.
fn asked(exit: &Exit) -> Vec<String> {
    let map = steps::find(exit.vcpu, exit.step).and_then(steps::Step::map);
    let Some(map) = map else { return Vec::new() };
    let way = direction(map.private);
    let mut numbers = vec![format!("/{way}/calls")];
    match exit.answer {
        // A part was converted, or all.
        Some(0 | RETRY) => {
            if exit.answer == Some(RETRY) {
                numbers.push(format!("/{way}/retries"));
            }
            if map.size == PAGE {
                numbers.push(format!("/{way}/calls_of_4k"));
            } else if (map.gpa | map.size).is_multiple_of(BLOCK) {
                numbers.push(format!("/{way}/calls_of_2m"));
            }
        }
        Some(_) => numbers.push(format!("/{way}/refused")),
        None => {}
    }
    numbers
}

/// What tdtrace says of TD `td`, whose JSON is `vm`.
///
/// # Errors
/// When a number is missing, when the balance is not that of both ways, or when the last memory fault is
/// none of the last that the VMM was told of.
pub(super) fn told(vm: &Value, td: usize, notes: &[Note]) -> Result<Counts> {
    let conversions = &vm["conversions"];
    let number = |pointer: &str| {
        let number = conversions.pointer(pointer).and_then(Value::as_u64);
        number.ok_or_else(|| anyhow!("TD {td} has no conversions{pointer}: {conversions}"))
    };
    let counts = POINTERS
        .iter()
        .map(|pointer| Ok((item(td, pointer), number(pointer)?)))
        .collect::<Result<Counts>>()?;
    let net = i128::from(number("/to_shared/bytes")?) - i128::from(number("/to_private/bytes")?);
    let balance = conversions["net_shared_bytes"].as_i64().map(i128::from);
    ensure!(balance == Some(net), "TD {td} has a balance of {balance:?} bytes, not {net}");
    last_fault(&conversions["memory_faults"]["last"], td, notes)?;
    Ok(counts)
}

/// vCPUs may be one fault apart in the log.
fn last_fault(last: &Value, td: usize, notes: &[Note]) -> Result<()> {
    let is_fault = |note: &&Note| matches!(note.what, What::Fault | What::Poison) && note.td == td;
    let faults = notes.iter().rev().filter(is_fault);
    let known: Vec<_> = faults.take(2).map(|note| (note.gpa, note.private)).collect();
    let told = last["gpa"].as_u64().zip(last["private"].as_bool());
    let fits = told.map_or(known.is_empty(), |told| known.contains(&told));
    ensure!(fits, "the last memory fault of TD {td} is {last}, not one of {known:?}");
    Ok(())
}

/// Holds what tdtrace says of broken memory against the frame that the module broke.
///
/// # Errors
/// When another page is said to be broken, or this one more or less than once.
pub(super) fn broken(json: &Value, frame: &str) -> Result<()> {
    let frame: u64 = frame.trim().parse().context("the module says no frame")?;
    let pages = json["poison"]["pages"].as_array();
    let told: Vec<_> = pages.into_iter().flatten().collect();
    let fits = matches!(told[..], [page] if page["source"] == "memory_failure"
        && page["pfn"] == frame
        && page["count"] == 1);
    ensure!(fits, "frame {frame:#x} broke, and tdtrace says {told:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const LOG: &str = "map 0 0x200000 2097152 0\nset 0 0x200000 2097152 0\npunch 0 0x200000 2097152 1\n\
                       fault 0 0x900000 4096 1\nbreak 0 0x803000 4096 1\n\
                       poison 0 0x803000 4096 1\n";

    #[test]
    fn what_the_vmm_did_counts_by_td_and_direction() {
        let notes = notes(LOG).unwrap();
        let threads = [(60, 0)].into();
        let call = |status| Call { tid: 60, leaf: PAGE_AUG, status };
        let truth = of_truth(&[], &threads, &[call(0), call(1 << 63)], &notes);
        let some: Counts = truth.into_iter().filter(|(_, count)| *count > 0).collect();
        let place =
            |size| Item::Place { td: 0, class: "memory_fault".to_owned(), address: 1, size };
        let expected = [
            ("/to_shared/bytes", BLOCK),
            ("/attributes/to_shared/calls", 1),
            ("/attributes/to_shared/bytes", BLOCK),
            ("/punched/calls", 1),
            ("/punched/bytes", BLOCK),
            ("/broken_pages", 1),
            ("/memory_faults/total", 2),
            ("/memory_faults/private", 2),
            ("/memory_faults/poisoned", 1),
            ("/mapped_private/pages_4k", 1),
        ];
        let numbers = expected.map(|(pointer, count)| (item(0, pointer), count));
        let places = [(place(EFAULT), 1), (place(EHWPOISON), 1)];
        assert_eq!(some, numbers.into_iter().chain(places).collect());
        assert!(super::notes("map 0 0\n").is_err() && super::notes("x 0 0 0 0\n").is_err());
    }

    #[test]
    fn an_answer_says_whether_a_request_was_refused_or_is_to_be_repeated() {
        let step = (1..).find(|id| steps::find(0, *id).unwrap().map().is_some()).unwrap();
        let exit = |answer| Exit { vcpu: 0, tid: 60, step, answer, returns: Vec::new() };
        let [calls, of_2m] = ["/to_shared/calls", "/to_shared/calls_of_2m"];
        assert_eq!(asked(&exit(Some(0))), [calls, of_2m]);
        assert_eq!(asked(&exit(Some(RETRY))), [calls, "/to_shared/retries", of_2m]);
        assert_eq!(asked(&exit(Some(1 << 63))), [calls, "/to_shared/refused"]);
        assert_eq!(asked(&exit(None)), [calls]);
    }

    #[test]
    fn a_number_that_is_missing_or_a_fault_that_never_was_is_an_error() {
        let notes = notes(LOG).unwrap();
        let way = || json!({ "calls": 0, "bytes": 0, "calls_of_4k": 0, "calls_of_2m": 0, "retries": 0, "refused": 0 });
        let set = || json!({ "calls": 0, "bytes": 0 });
        let mut vm = json!({ "conversions": {
            "to_shared": way(),
            "to_private": way(),
            "net_shared_bytes": 0,
            "attributes": { "to_shared": set(), "to_private": set() },
            "punched": set(),
            "broken_pages": 0,
            "memory_faults": {
                "total": 1, "shared": 0, "private": 1, "poisoned": 0,
                "last": { "gpa": 0x90_0000, "private": true },
            },
            "mapped_private": { "pages_4k": 0, "pages_2m": 0 },
            "without_region": 0,
        } });
        assert_eq!(told(&vm, 0, &notes).unwrap()[&item(0, "/memory_faults/private")], 1);
        vm["conversions"]["memory_faults"]["last"]["private"] = false.into();
        assert!(told(&vm, 0, &notes).is_err());
        assert!(told(&json!({}), 0, &notes).is_err());
    }

    #[test]
    fn one_page_broke_and_once() {
        let page = |pfn: u64, count: u64| json!({ "source": "memory_failure", "pfn": pfn, "count": count });
        let told = |pages: &[Value]| json!({ "poison": { "pages": pages } });
        assert!(broken(&told(&[page(0x1234, 1)]), "4660\n").is_ok());
        for pages in
            [&[][..], &[page(0x1235, 1)], &[page(0x1234, 2)], &[page(0x1234, 1), page(1, 1)]]
        {
            assert!(broken(&told(pages), "4660\n").is_err());
        }
        assert!(broken(&told(&[page(0, 1)]), "").is_err());
    }
}
