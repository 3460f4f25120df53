//! SEAMCALLs: what the programs make of calls that are made up, and that they run attached.

use std::{collections::BTreeMap, thread};

use tdtrace::{
    model::seam::{Failure, FunctionSample},
    source::{
        Source as _,
        live::{Live, Options},
        synthetic::{Cpu, Seamcall, Synthetic, SyntheticOptions},
    },
};
use tdtrace_common::{latency::bucket, seam::WRAPPERS};

use super::drive::{Random, load, load_with, pin, sample};

const BUSY_SEPT: u64 = 0x8000_0200_0000_0092;
const BUSY_TDR: u64 = 0x8000_0200_0000_0080;
const EPT_STATE: u64 = 0xc000_0b0d_0000_0001;
const KEY_CONFIGURED: u64 = 0x0000_0815_0000_0000;
const NO_SEAM: u64 = 0x8000_ff00_0000_000d;

/// What a thread's calls of one wrapper must add up to.
#[derive(Default)]
struct Truth {
    calls: u64,
    ns: u64,
    max: u64,
    statuses: BTreeMap<u64, u64>,
    levels: [u64; 4],
    buckets: BTreeMap<usize, u64>,
}

impl Truth {
    fn call(&mut self, level: Option<u64>, status: u64, ns: u64) {
        self.calls += 1;
        self.ns += ns;
        self.max = self.max.max(ns);
        // As a person would tell them apart, not as the programs do it.
        let class = match status {
            BUSY_SEPT | BUSY_TDR | NO_SEAM => status,
            EPT_STATE => 0xc000_0b0d_0000_0000,
            other => other,
        };
        *self.statuses.entry(class).or_default() += 1;
        if let Some(level) = level {
            self.levels[if (1..=3).contains(&level) { level as usize - 1 } else { 3 }] += 1;
        }
        *self.buckets.entry(bucket(ns)).or_default() += 1;
    }

    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.ns += other.ns;
        self.max = self.max.max(other.max);
        other.statuses.iter().for_each(|(key, n)| *self.statuses.entry(*key).or_default() += n);
        self.levels.iter_mut().zip(other.levels).for_each(|(sum, n)| *sum += n);
        other.buckets.iter().for_each(|(key, n)| *self.buckets.entry(*key).or_default() += n);
    }
}

/// A wrapper that is told a level by its arguments, in Linux 7.3.
fn has_level(name: &str) -> bool {
    ["tdh_mem_sept_add", "tdh_mem_page_aug", "tdh_mem_range_block", "tdh_mem_page_remove"]
        .contains(&name)
}

/// `rounds` calls of every wrapper by thread `tid` on `cpu`.
fn drive(cpu: &Cpu<'_>, tid: u32, rounds: u64) -> BTreeMap<&'static str, Truth> {
    let mut random = Random::new(0x5ea_0000 + u64::from(tid));
    let mut truth: BTreeMap<&str, Truth> = BTreeMap::new();
    let mut now = 1_000_000;
    for _ in 0..rounds {
        for wrapper in WRAPPERS {
            let status = [0, 0, 0, BUSY_SEPT, BUSY_TDR, EPT_STATE, KEY_CONFIGURED, NO_SEAM]
                [random.below(8) as usize];
            let level = random.below(5);
            // Above the level lies what an int does not define.
            let arguments = [0xff11, random.next() & !0xfff, 7 << 32 | level, random.next()];
            let ns = random.next() >> (28 + random.below(36));
            now += 10;
            cpu.seamcall(wrapper.name, Seamcall::Enter(arguments), (9, tid), now)
                .expect("the program runs");
            now += ns;
            let call = if random.below(2) == 0 {
                Seamcall::Return(arguments, status)
            } else {
                Seamcall::ReturnAlone(status)
            };
            cpu.seamcall(wrapper.name, call, (9, tid), now).expect("the program runs");
            let level = has_level(wrapper.name).then_some(level);
            truth.entry(wrapper.name).or_default().call(level, status, ns);
        }
    }
    truth
}

fn function(synthetic: &mut Synthetic, name: &str) -> FunctionSample {
    sample(synthetic, 0).seam.function(name).expect("a wrapper").clone()
}

#[test]
fn every_wrapper_is_counted_exactly_from_two_cpus() {
    let mut synthetic = load(1, 1);
    let mut truth: BTreeMap<&str, Truth> = BTreeMap::new();
    thread::scope(|scope| {
        let drive = |number: u32| {
            let synthetic = &synthetic;
            scope.spawn(move || {
                pin(number as usize);
                drive(&synthetic.cpu(number), 100 + number, 400)
            })
        };
        for thread in [0, 1].map(drive) {
            for (name, of_thread) in thread.join().unwrap() {
                truth.entry(name).or_default().add(&of_thread);
            }
        }
    });
    let seam = sample(&mut synthetic, 0).seam;
    assert_eq!(seam.absent, None);
    assert_eq!(seam.functions.len(), WRAPPERS.len());
    for (wrapper, seen) in WRAPPERS.iter().zip(&seam.functions) {
        let truth = &truth[wrapper.name];
        assert_eq!((&*seen.name, seen.leaf, &seen.missing), (wrapper.name, wrapper.leaf, &None));
        assert_eq!((seen.calls, truth.calls), (800, 800), "{}", seen.name);
        assert_eq!((seen.ns, seen.max), (truth.ns, truth.max), "{}", seen.name);
        let statuses: Vec<_> = truth.statuses.iter().map(|(key, n)| (*key, *n)).collect();
        assert_eq!(seen.statuses, statuses, "{}", seen.name);
        assert_eq!(seen.levels, truth.levels, "{}", seen.name);
        let buckets: BTreeMap<usize, u64> = seen.histogram.filled().collect();
        assert_eq!(buckets, truth.buckets, "{}", seen.name);
        assert_eq!((seen.unpaired, seen.unlisted, seen.missed), (0, 0, 0), "{}", seen.name);
    }
}

#[test]
fn the_last_failure_is_the_latest_of_all_cpus_with_its_gpa() {
    let mut synthetic = load(1, 1);
    let fail = |synthetic: &Synthetic, cpu: u32, gpa: u64, status: u64, now: u64| {
        pin(cpu as usize);
        let cpu = synthetic.cpu(cpu);
        for name in ["tdh_mem_page_aug", "tdh_vp_create"] {
            let arguments = [1, gpa, 1, 0];
            cpu.seamcall(name, Seamcall::Enter(arguments), (9, 9), now - 5).unwrap();
            cpu.seamcall(name, Seamcall::Return(arguments, status), (9, 9), now).unwrap();
        }
    };
    fail(&synthetic, 0, 0x1000, EPT_STATE, 5_000);
    fail(&synthetic, 1, 0x2000, BUSY_SEPT, 4_000);
    // No failure: it says something, and did what it was asked.
    fail(&synthetic, 1, 0x3000, KEY_CONFIGURED, 6_000);
    let failure = |gpa| Some(Failure { status: EPT_STATE, gpa });
    assert_eq!(function(&mut synthetic, "tdh_mem_page_aug").failure, failure(Some(0x1000)));
    assert_eq!(function(&mut synthetic, "tdh_vp_create").failure, failure(None));
    fail(&synthetic, 1, 0x4000, BUSY_SEPT, 7_000);
    let last = function(&mut synthetic, "tdh_mem_page_aug").failure.unwrap();
    assert_eq!((last.status, last.gpa), (BUSY_SEPT, Some(0x4000)));
}

/// A call of `name` by thread `tid` from `began` to `ended`.
fn call(cpu: &Cpu<'_>, name: &str, tid: u32, gpa: u64, status: u64, [began, ended]: [u64; 2]) {
    let arguments = [1, gpa, 1, 0];
    cpu.seamcall(name, Seamcall::Enter(arguments), (9, tid), began).expect("the program runs");
    cpu.seamcall(name, Seamcall::Return(arguments, status), (9, tid), ended)
        .expect("the program runs");
}

#[test]
fn a_busy_step_of_taking_a_page_away_pairs_with_its_repetition() {
    let mut synthetic = load(1, 1);
    pin(0);
    let cpu = synthetic.cpu(0);
    let remove = |tid, gpa, status, times| {
        call(&cpu, "tdh_mem_page_remove", tid, gpa, status, times);
    };
    // Busy, 700 ns of kicking, then done.
    remove(1, 0x1000, BUSY_SEPT, [1_000, 1_100]);
    remove(1, 0x1000, 0, [1_800, 1_900]);
    // Busy twice: two repetitions.
    remove(1, 0x2000, BUSY_SEPT, [2_000, 2_100]);
    remove(1, 0x2000, BUSY_SEPT, [2_200, 2_300]);
    remove(1, 0x2000, 0, [2_400, 2_500]);
    // What comes next is of another thread, or of another page: no repetition.
    remove(1, 0x3000, BUSY_SEPT, [3_000, 3_100]);
    remove(2, 0x3000, 0, [3_200, 3_300]);
    remove(1, 0x3000, 0, [3_400, 3_500]);
    remove(1, 0x4000, BUSY_TDR, [4_000, 4_100]);
    remove(1, 0x5000, 0, [4_200, 4_300]);
    // Something else that failed is not tried again for being busy.
    remove(1, 0x6000, EPT_STATE, [5_000, 5_100]);
    remove(1, 0x6000, 0, [5_200, 5_300]);
    // PAGE.AUG kicks nobody: the guest faults again.
    call(&cpu, "tdh_mem_page_aug", 1, 0x7000, BUSY_SEPT, [6_000, 6_100]);
    call(&cpu, "tdh_mem_page_aug", 1, 0x7000, 0, [6_200, 6_300]);
    let seen = function(&mut synthetic, "tdh_mem_page_remove");
    assert_eq!((seen.busy(), seen.kicks()), (5, Some(5)));
    assert_eq!((seen.retried, seen.kick_ns), (3, 700 + 100 + 100));
    let seen = function(&mut synthetic, "tdh_mem_page_aug");
    assert_eq!((seen.busy(), seen.kicks(), seen.retried), (1, None, 0));
}

#[test]
fn calls_pair_by_thread_wherever_they_end_and_whatever_interrupts_them() {
    let mut synthetic = load(1, 1);
    let (first, second) = (synthetic.cpu(0), synthetic.cpu(1));
    let arguments = [1, 0x1000, 1, 0];
    let (enter, leave) = (Seamcall::Enter(arguments), Seamcall::Return(arguments, 0));
    let flush = "tdh_vp_flush";
    pin(0);
    first.seamcall(flush, enter, (9, 1), 1_000).unwrap();
    // Another thread on the same CPU, which was preempted for it; then it moves on.
    first.seamcall(flush, enter, (9, 2), 1_100).unwrap();
    first.seamcall(flush, leave, (9, 2), 1_150).unwrap();
    // The idle tasks of two CPUs are the same thread by number.
    first.seamcall(flush, enter, (0, 0), 2_000).unwrap();
    pin(1);
    second.seamcall(flush, enter, (0, 0), 2_010).unwrap();
    second.seamcall(flush, leave, (0, 0), 2_030).unwrap();
    second.seamcall(flush, leave, (9, 1), 1_400).unwrap();
    pin(0);
    first.seamcall(flush, leave, (0, 0), 3_000).unwrap();
    let seen = function(&mut synthetic, flush);
    assert_eq!((seen.calls, seen.unpaired), (4, 0));
    assert_eq!((seen.ns, seen.max), (50 + 400 + 20 + 1_000, 1_000));
}

#[test]
fn a_call_whose_end_is_missed_makes_room_in_time() {
    let mut synthetic = load(1, 1);
    pin(0);
    let cpu = synthetic.cpu(0);
    let at = |seconds: u64| seconds * 1_000_000_000;
    let enter = |tid, seconds| {
        let arguments = Seamcall::Enter([1, 0x1000, 1, 0]);
        cpu.seamcall("tdh_vp_flush", arguments, (9, tid), at(seconds)).unwrap();
    };
    enter(1, 100);
    enter(2, 130);
    for (seconds, left) in [(160, 2), (161, 1), (190, 1), (191, 0)] {
        sample(&mut synthetic, at(seconds));
        assert_eq!(synthetic.entries("SEAM_ENTRIES").unwrap(), left, "{seconds} s");
    }
}

#[test]
fn a_call_whose_beginning_is_missing_is_counted_without_a_duration() {
    let mut synthetic = load(1, 1);
    pin(0);
    let cpu = synthetic.cpu(0);
    let seamcall = |call, now| cpu.seamcall("tdh_mem_page_aug", call, (9, 1), now).unwrap();
    seamcall(Seamcall::Return([1, 0x1000, 2, 0], 0), 1_000);
    // By kretprobe not even the level is known.
    seamcall(Seamcall::ReturnAlone(EPT_STATE), 2_000);
    // The end of the first is missed, then the beginning of the second.
    seamcall(Seamcall::Enter([1, 0x2000, 1, 0]), 3_000);
    seamcall(Seamcall::Return([1, 0x3000, 1, 0], 0), 9_000);
    let seen = function(&mut synthetic, "tdh_mem_page_aug");
    assert_eq!((seen.calls, seen.unpaired, seen.ns), (3, 3, 0));
    assert_eq!((seen.histogram.count(), seen.levels), (0, [1, 1, 0, 0]));
    assert_eq!(seen.statuses, [(0, 2), (0xc000_0b0d_0000_0000, 1)]);
}

#[test]
fn without_time_calls_are_counted_all_the_same() {
    let mut synthetic = load_with(SyntheticOptions { timed: false, ..SyntheticOptions::default() });
    pin(0);
    call(&synthetic.cpu(0), "tdh_mem_track", 1, 0, BUSY_TDR, [1_000, 2_000]);
    let seen = function(&mut synthetic, "tdh_mem_track");
    assert_eq!((seen.calls, seen.unpaired, seen.ns, seen.busy()), (1, 0, 0, 1));
    assert_eq!(seen.histogram.count(), 0);
}

#[test]
fn statuses_without_room_are_counted_as_such() {
    let mut synthetic = load(1, 1);
    pin(0);
    let cpu = synthetic.cpu(0);
    // More than any TDX module has.
    for number in 0..2_500_u64 {
        let times = [number * 100, number * 100 + 50];
        call(&cpu, "tdh_mng_rd", 1, 0, 0xc000_0000_0000_0000 | number << 32, times);
    }
    let seen = function(&mut synthetic, "tdh_mng_rd");
    assert_eq!(seen.calls, 2_500);
    let listed: u64 = seen.statuses.iter().map(|(_, count)| count).sum();
    assert_eq!((listed + seen.unlisted, listed), (2_500, 2_048));
}

#[test]
fn a_kernel_without_wrappers_says_so_in_one_sentence() {
    let wrappers = std::fs::read_to_string("/proc/kallsyms").expect("root");
    let has_wrappers = wrappers.lines().any(|line| line.contains(" tdh_mem_page_aug"));
    let mut live = Live::open(Options::default()).expect("root");
    let seam = live.sample().expect("the maps can be read").seam.clone();
    if has_wrappers {
        assert_eq!(seam.absent, None);
        assert_eq!(seam.functions.len(), WRAPPERS.len());
    } else {
        let why = seam.absent.clone().expect("a sentence");
        assert!(why.contains("no SEAMCALL wrappers") && !why.contains('\n'), "{why}");
        assert!(seam.functions.is_empty());
    }
}
