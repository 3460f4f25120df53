//! Timelines against sums that are computed here.

use proptest::prelude::*;
use tdtrace_common::{
    counters::{Class, KvmStat},
    ledger::LEDGER_COUNTS,
    td::TdExit,
};

use super::*;
use crate::model::{
    aggregate::Aggregate,
    snapshot::Snapshot,
    testing::{place, samples, vcpu},
};

const SECOND: u64 = 1_000_000_000;
const KEY: VmKey = VmKey { index: 1, life: 1 };

/// Counters of a TD as a test moves them.
#[derive(Clone, Debug, Default)]
struct Td {
    vcpus: Vec<VcpuSample>,
    ledger: [u64; LEDGER_COUNTS],
}

impl Td {
    fn exits(&mut self, vcpu: usize, exit: TdExit, count: u64) {
        while self.vcpus.len() <= vcpu {
            let id = self.vcpus.len() as u32;
            let mut new = self::vcpu(id, 1, id, 0);
            (new.reasons, new.hotspots) = (Vec::new(), Vec::new());
            new.times = Some(Times::default());
            new.kvm = Some((KvmStat::default(), KvmStat::default()));
            self.vcpus.push(new);
        }
        let index = exit.reason_index() as u32;
        let reasons = &mut self.vcpus[vcpu].reasons;
        match reasons.iter_mut().find(|(reason, _)| *reason == index) {
            Some((_, total)) => *total += count,
            None => reasons.push((index, count)),
        }
    }

    fn fw_cfg(&mut self, vcpu: usize, count: u64) {
        self.exits(vcpu, TdExit::IoIn, count);
        let port = place(Class::PioIn, 0x511, 1);
        let places = &mut self.vcpus[vcpu].hotspots;
        match places.iter_mut().find(|(other, _)| *other == port) {
            Some((_, total)) => *total += count,
            None => places.push((port, count)),
        }
    }

    fn maps(&mut self, pages: u64) {
        self.ledger[LedgerCount::Mapped4K as usize] += pages;
    }

    /// The sample at `at` nanoseconds with the vCPUs that `there` says.
    fn sample(&self, at: u64, there: impl Fn(usize) -> bool) -> Sample {
        let mut sample = samples().remove(0);
        sample.at = Duration::from_nanos(at);
        sample.vms.retain(|vm| vm.key == KEY);
        sample.vms[0].ledger.counts = self.ledger;
        let here = self.vcpus.iter().enumerate().filter(|(index, _)| there(*index));
        sample.vcpus = here.map(|(_, vcpu)| Arc::new(vcpu.clone().sorted())).collect();
        sample
    }

    fn at(&self, at: u64) -> Sample {
        self.sample(at, |_| true)
    }
}

fn boot(snapshot: &Snapshot) -> &Timeline {
    snapshot.vms[0].boot.as_deref().unwrap()
}

/// From, to, and exits of each interval.
fn spans(timeline: &Timeline) -> Vec<(u64, u64, u64)> {
    let span = |row: &Interval| (row.from, row.to, row.amounts.exits());
    timeline.intervals.iter().map(span).collect()
}

#[test]
fn a_sample_belongs_to_the_interval_in_which_it_was_taken_and_says_how_much_it_covers() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    let mut empty = td.at(SECOND / 2);
    empty.vms.clear();
    aggregate.apply(empty);
    let mut last = None;
    // At the end of an interval, twice in one, and after a gap.
    for (tenths, count) in [(10, 1), (15, 2), (20, 4), (23, 8), (70, 16)] {
        td.exits(0, TdExit::Hlt, count);
        last = Some(aggregate.apply(td.at(SECOND / 10 * tenths)));
    }
    let last = last.unwrap();
    let tenths = |n| SECOND / 10 * n;
    assert_eq!((boot(&last).began, boot(&last).length), (SECOND / 2, SECOND));
    assert_eq!(
        spans(boot(&last)),
        [(0, tenths(10), 3), (tenths(10), tenths(18), 12), (tenths(18), tenths(65), 16),]
    );
}

#[test]
fn samples_that_come_a_little_early_or_late_are_one_to_an_interval() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    let mut last = aggregate.apply(td.at(0));
    for second in 1..=1_000 {
        let late = [0, 99_000_000, 3, 50_000_000][second as usize % 4];
        let early = [90_000_000, 0, 0, 80_000_000][second as usize % 4];
        td.exits(0, TdExit::Hlt, 1);
        last = aggregate.apply(td.at(second * SECOND + late - early));
        let per_interval = boot(&last).length / SECOND;
        let (_, over) = boot(&last).intervals.split_last().unwrap();
        assert!(over.iter().all(|row| row.amounts.exits() == per_interval), "{second}");
    }
    assert_eq!(boot(&last).total().exits(), 1_000);
}

#[test]
fn intervals_double_when_there_is_no_room_and_nothing_is_lost() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    let mut last = aggregate.apply(td.at(0));
    for second in 1..=3_600 {
        td.exits(0, TdExit::Cpuid, second);
        td.maps(1);
        last = aggregate.apply(td.at(second * SECOND));
        assert!(boot(&last).intervals.len() <= ROWS);
        if second == 64 {
            assert_eq!((boot(&last).length, boot(&last).intervals.len()), (SECOND, 64));
        }
        if second == 65 {
            assert_eq!((boot(&last).length, boot(&last).intervals.len()), (2 * SECOND, 33));
            assert_eq!(spans(boot(&last))[31], (62 * SECOND, 64 * SECOND, 63 + 64));
            assert_eq!(spans(boot(&last))[32], (64 * SECOND, 65 * SECOND, 65));
        }
    }
    let timeline = boot(&last);
    assert_eq!((timeline.length, timeline.intervals.len()), (64 * SECOND, 57));
    assert_eq!(timeline.total().of(Group::Cpuid), 3_600 * 3_601 / 2);
    assert_eq!(timeline.total().mapped(), 3_600 * 4096);
    assert_eq!(timeline.intervals[3].amounts.mapped(), 64 * 4096);
}

#[test]
fn what_turns_out_to_have_been_something_else_is_taken_back_where_it_was_counted() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    td.exits(0, TdExit::Hlt, 1);
    let mut last = None;
    // A phase that lasts counts as kernel; when it ends, 12 of it were waiting.
    for (second, parts) in [(1, [5, 0, 0, 0]), (2, [15, 0, 0, 0]), (3, [4, 0, 0, 12])] {
        td.vcpus[0].times = Some(Times { guest: 100 * second, parts });
        last = Some(aggregate.apply(td.at(second * SECOND)));
    }
    let last = last.unwrap();
    let parts: Vec<_> = boot(&last).intervals.iter().map(|row| row.amounts.times().parts).collect();
    assert_eq!(parts, [[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 12]]);
    assert_eq!(boot(&last).total().times(), last.vms[0].times.unwrap().total);
}

#[test]
fn a_reset_leaves_the_timeline_as_it_is() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    td.exits(0, TdExit::Hlt, 7);
    aggregate.apply(td.at(SECOND));
    let zero = aggregate.reset().unwrap();
    assert_eq!(spans(boot(&zero)), [(0, SECOND, 7)]);
    td.exits(0, TdExit::Hlt, 3);
    td.exits(1, TdExit::Cpuid, 2);
    let last = aggregate.apply(td.at(2 * SECOND));
    assert_eq!(last.vms[0].reasons().values().sum::<u64>(), 5);
    assert_eq!(spans(boot(&last)), [(0, SECOND, 7), (SECOND, 2 * SECOND, 5)]);
}

#[test]
fn a_source_that_counts_anew_begins_where_it_was_let_go() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    td.exits(0, TdExit::Hlt, 7);
    aggregate.apply(td.at(5 * SECOND));
    let mut aggregate = aggregate.anew();
    let mut again = Td::default();
    again.exits(0, TdExit::Hlt, 2);
    let last = aggregate.apply(again.at(8 * SECOND));
    assert_eq!(boot(&last).began, 5 * SECOND);
    assert_eq!(spans(boot(&last)), [(0, 3 * SECOND, 2)]);
}

#[test]
fn a_vm_that_is_no_td_has_a_timeline_if_it_was_seen_from_its_first_run_on() {
    let mut samples = samples();
    let last = samples.pop().unwrap();
    let late = Aggregate::new().apply(last.clone());
    let has = |snapshot: &Snapshot| {
        snapshot.vms.iter().map(|vm| (vm.kind.clone(), vm.boot.is_some())).collect::<Vec<_>>()
    };
    assert_eq!(has(&late), [("plain".to_owned(), false), ("TD".to_owned(), true)]);
    assert!(!late.vms[1].boot.as_ref().unwrap().from_start);
    let mut early = last;
    for vcpu in &mut early.vcpus {
        Arc::make_mut(vcpu).kvm.as_mut().unwrap().0.exits = 0;
    }
    let early = Aggregate::new().apply(early);
    assert!(has(&early).iter().all(|(_, has)| *has));
    assert!(early.vms.iter().all(|vm| vm.boot.as_ref().unwrap().from_start));
}

#[test]
fn a_vm_that_ended_keeps_its_timeline_and_the_next_one_in_its_place_has_its_own() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    td.exits(0, TdExit::Hlt, 7);
    aggregate.apply(td.at(SECOND));
    td.exits(0, TdExit::Hlt, 4);
    let mut over = td.at(2 * SECOND);
    over.vms[0].ended = true;
    aggregate.apply(over);
    let mut next = Td::default();
    next.exits(0, TdExit::Cpuid, 1);
    let mut next = next.at(3 * SECOND);
    next.vms[0].key.life = 2;
    Arc::make_mut(&mut next.vcpus[0]).vm.life = 2;
    let last = aggregate.apply(next);
    let both: Vec<_> = last.vms.iter().map(|vm| vm.boot.as_deref().unwrap()).collect();
    assert_eq!(spans(both[0]), [(0, SECOND, 7), (SECOND, 2 * SECOND, 4)]);
    assert_eq!((both[1].began, spans(both[1])), (2 * SECOND, vec![(0, SECOND, 1)]));
}

/// A TD that in each second halts and does other things so often, and maps so many pages.
fn settled(seconds: &[(u64, u64, u64)]) -> Option<u64> {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    let mut last = None;
    for (second, (halts, others, pages)) in (1..).zip(seconds) {
        td.exits(0, TdExit::Hlt, *halts);
        td.exits(0, TdExit::Wrmsr, *others);
        td.maps(*pages);
        last = Some(aggregate.apply(td.at(second * SECOND)));
    }
    boot(&last?).settled()
}

#[test]
fn a_td_has_settled_when_it_maps_nothing_and_mostly_halts_for_two_intervals() {
    let (busy, calm, idle) = ((1, 9, 50), (6, 4, 0), (9, 1, 0));
    assert_eq!(settled(&[busy, busy, calm, idle, idle]), Some(2 * SECOND));
    // The last interval is not over.
    assert_eq!(settled(&[busy, busy, calm, idle]), None);
    assert_eq!(settled(&[busy, calm, (9, 1, 1), idle, idle, idle]), Some(3 * SECOND));
    // Half of the exits is not more than half, and before any memory it is no boot.
    assert_eq!(settled(&[busy, (5, 5, 0), (5, 5, 0), (5, 5, 0), (5, 5, 0)]), None);
    assert_eq!(settled(&[idle, idle, idle, busy]), None);
    assert_eq!(settled(&[busy, (0, 0, 0), (0, 0, 0), (0, 0, 0)]), None);
}

#[test]
fn a_td_that_was_there_before_has_not_settled() {
    let mut td = Td::default();
    td.exits(0, TdExit::Hlt, 1);
    td.maps(1);
    td.vcpus[0].kvm = Some((KvmStat { exits: 9, ..KvmStat::default() }, KvmStat::default()));
    let mut aggregate = Aggregate::new();
    let mut last = None;
    for second in 1..9 {
        last = Some(aggregate.apply(td.at(second * SECOND)));
        td.exits(0, TdExit::Hlt, 5);
    }
    let last = last.unwrap();
    assert_eq!((boot(&last).from_start, boot(&last).settled()), (false, None));
}

#[test]
fn a_clock_that_goes_back_or_leaps_does_no_harm() {
    let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
    let mut last = None;
    for at in [5 * SECOND, 3 * SECOND, 0, 6 * SECOND, u64::MAX, 7] {
        td.exits(0, TdExit::Hlt, 1);
        last = Some(aggregate.apply(td.at(at)));
    }
    let last = last.unwrap();
    let timeline = boot(&last);
    assert_eq!(timeline.total().exits(), 6);
    assert!(timeline.intervals.len() <= ROWS);
    assert!(timeline.intervals.windows(2).all(|pair| pair[0].to == pair[1].from));
}

/// One step of a made-up life.
#[derive(Clone, Debug)]
enum Step {
    /// A vCPU exits so often.
    Exits(usize, usize, u64),
    FwCfg(usize, u64),
    Maps(u64),
    Converts(bool, u64),
    /// A vCPU's times are these, more or less than before.
    Times(usize, [u64; 5]),
    /// A vCPU is in the samples or not.
    There(usize, bool),
    Reset,
    Sample(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let vcpu = 0..5_usize;
    prop_oneof![
        (vcpu.clone(), 0..TdExit::ALL.len(), 0..1_000_u64)
            .prop_map(|(vcpu, exit, count)| Step::Exits(vcpu, exit, count)),
        (vcpu.clone(), 0..1_000_u64).prop_map(|(vcpu, count)| Step::FwCfg(vcpu, count)),
        (0..1_000_u64).prop_map(Step::Maps),
        (any::<bool>(), 0..1_000_u64).prop_map(|(way, bytes)| Step::Converts(way, bytes)),
        (vcpu.clone(), any::<[u32; 5]>())
            .prop_map(|(vcpu, ns)| Step::Times(vcpu, ns.map(u64::from))),
        (vcpu, any::<bool>()).prop_map(|(vcpu, there)| Step::There(vcpu, there)),
        Just(Step::Reset),
        (0..20 * SECOND).prop_map(Step::Sample),
        (0..SECOND).prop_map(Step::Sample),
    ]
}

/// What is true of a TD: its totals by name, as far as samples have said them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Truth {
    exits: u64,
    fw_cfg: u64,
    pio: u64,
    mapped: u64,
    converted: [u64; 2],
    times: [u64; 5],
}

impl Truth {
    /// Of all vCPUs as each was when it was sampled last.
    fn of(td: &Td, sampled: &[Option<VcpuSample>]) -> Self {
        let mut truth = Self {
            mapped: td.ledger[LedgerCount::Mapped4K as usize] * 4096,
            converted: [td.ledger[0], td.ledger[1]],
            ..Self::default()
        };
        for vcpu in sampled.iter().flatten() {
            truth.exits += vcpu.reasons.iter().map(|(_, count)| count).sum::<u64>();
            let fw_cfg: u64 = vcpu.hotspots.iter().map(|(_, count)| count).sum();
            let io = |reason: u32| reason == 194 || reason == 195;
            let pio: u64 =
                vcpu.reasons.iter().filter(|(reason, _)| io(*reason)).map(|(_, n)| n).sum();
            truth.fw_cfg += fw_cfg;
            truth.pio += pio - fw_cfg;
            let Times { guest, parts: [a, b, c, d] } = vcpu.times.unwrap();
            for (sum, ns) in truth.times.iter_mut().zip([guest, a, b, c, d]) {
                *sum += ns;
            }
        }
        truth
    }

    fn told(total: &Amounts) -> Self {
        let Times { guest, parts: [a, b, c, d] } = total.times();
        Self {
            exits: total.exits(),
            fw_cfg: total.of(Group::FwCfg),
            pio: total.of(Group::Pio),
            mapped: total.mapped(),
            converted: Direction::ALL.map(|way| total.converted(way)),
            times: [guest, a, b, c, d],
        }
    }
}

/// Does one step; a sample that it takes.
fn take(step: &Step, td: &mut Td, there: &mut [bool; 5], now: &mut u64) -> Option<Sample> {
    match step {
        Step::Exits(vcpu, exit, count) => td.exits(*vcpu, TdExit::ALL[*exit], *count),
        Step::FwCfg(vcpu, count) => td.fw_cfg(*vcpu, *count),
        Step::Maps(pages) => td.maps(*pages),
        Step::Converts(way, bytes) => td.ledger[usize::from(*way)] += bytes,
        Step::Times(vcpu, [guest, parts @ ..]) => {
            td.exits(*vcpu, TdExit::Hlt, 0);
            td.vcpus[*vcpu].times = Some(Times { guest: *guest, parts: *parts });
        }
        Step::There(vcpu, here) => there[*vcpu] = *here,
        Step::Reset => {}
        Step::Sample(after) => {
            *now += after;
            return Some(td.sample(*now, |vcpu| there[vcpu]));
        }
    }
    None
}

proptest! {
    #[test]
    fn all_intervals_together_are_the_totals_whatever_happens(
        steps in prop::collection::vec(step(), 1..400)
    ) {
        let (mut td, mut there, mut now) = (Td::default(), [true; 5], 0);
        let mut sampled: Vec<Option<VcpuSample>> = vec![None; 5];
        let (mut aggregate, mut plain) = (Aggregate::new(), Aggregate::new());
        for step in &steps {
            if matches!(step, Step::Reset) {
                aggregate.reset();
            }
            let Some(sample) = take(step, &mut td, &mut there, &mut now) else { continue };
            for vcpu in &sample.vcpus {
                sampled[vcpu.id as usize] = Some(VcpuSample::clone(vcpu));
            }
            // The same samples without the resets, as a replay has them.
            let replayed = plain.apply(sample.clone());
            let live = aggregate.apply(sample);
            let timeline = boot(&live);
            prop_assert_eq!(Truth::told(&timeline.total()), Truth::of(&td, &sampled));
            prop_assert_eq!(timeline, boot(&replayed));
            prop_assert!(timeline.intervals.len() <= ROWS);
            let ends: Vec<u64> = timeline.intervals.iter().map(|row| row.to).collect();
            let begins: Vec<u64> = timeline.intervals.iter().map(|row| row.from).collect();
            prop_assert_eq!(&begins[1..], &ends[..ends.len() - 1]);
            prop_assert_eq!((begins[0], ends.last()), (0, Some(&now)));
        }
    }

    #[test]
    fn an_interval_is_what_the_samples_taken_in_it_say_however_often_it_was_merged(
        seconds in prop::collection::vec((0..90_000_u64, 0..1_000_u64), 1..300)
    ) {
        let (mut td, mut aggregate) = (Td::default(), Aggregate::new());
        let mut now = 0;
        let mut taken = Vec::new();
        let mut last = None;
        for (millis, exits) in seconds {
            now += millis * 1_000_000;
            td.exits(0, TdExit::Rdmsr, exits);
            taken.push((now, exits));
            last = Some(aggregate.apply(td.at(now)));
        }
        let last = last.unwrap();
        let timeline = boot(&last);
        prop_assert!(timeline.length == SECOND || now > 32 * timeline.length);
        let mut expected: Vec<(u64, u64, u64)> = Vec::new();
        for (at, exits) in taken {
            let ordinal = |at: u64| at.saturating_sub(LATE).max(1).div_ceil(timeline.length);
            match expected.last_mut() {
                Some((_, to, sum)) if ordinal(*to) == ordinal(at) => {
                    (*to, *sum) = (at, *sum + exits);
                }
                _ => {
                    let from = expected.last().map_or(0, |(_, to, _)| *to);
                    expected.push((from, at, exits));
                }
            }
        }
        prop_assert_eq!(spans(timeline), expected);
    }

    #[test]
    fn samples_that_are_left_out_lose_nothing(
        counts in prop::collection::vec((1..1_000_u64, any::<bool>()), 2..100)
    ) {
        let mut td = Td::default();
        let (mut all, mut some) = (Aggregate::new(), Aggregate::new());
        let mut last = None;
        let count = counts.len();
        for (second, (exits, kept)) in counts.into_iter().enumerate() {
            td.exits(0, TdExit::Hlt, exits);
            let sample = td.at((second as u64 + 1) * SECOND);
            let whole = all.apply(sample.clone());
            if kept || second + 1 == count {
                last = Some((whole, some.apply(sample)));
            }
        }
        let (whole, thin) = last.unwrap();
        prop_assert_eq!(boot(&whole).total(), boot(&thin).total());
        prop_assert_eq!(boot(&whole).length, boot(&thin).length);
    }
}
