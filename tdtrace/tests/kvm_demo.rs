//! Real VMs and synthetic TDs in one sample: both are what their makers say they are, and a recording
//! shows the same screen. Needs root and KVM.

use std::{
    process,
    sync::{Mutex, atomic::AtomicBool},
    thread,
    time::Duration,
};

use ratatui::{Terminal, backend::TestBackend};
use tdtrace::{
    model::{aggregate::Aggregate, field::thousands, sample::Sample, snapshot::Snapshot},
    recording::{Reader, Writer},
    source::{
        Source,
        beside::Beside,
        demo::Demo,
        live::{Live, Options},
    },
    tui::{state::State, view},
    workload::{self, Counts, Kind, Plan},
};
use tdtrace_common::counters::Class;

const PORT_WRITES: u64 = 1_234;
const CPUIDS: u64 = 567;

/// Each test wants the only real VM of this process.
static ALONE: Mutex<()> = Mutex::new(());

/// A machine with one real VM beside the demo's, and a sample of it.
fn machine() -> (Beside<Live, Demo>, Sample) {
    let mut both = Beside(
        Live::open(Options::default()).expect("root"),
        Demo::new(7, true, None).expect("root"),
    );
    both.sample().expect("a sample");
    let counts: Counts = [(Kind::PioOut, PORT_WRITES), (Kind::Cpuid, CPUIDS)].into_iter().collect();
    workload::run(&Plan { counts, ..Plan::default() }, &AtomicBool::new(false)).expect("KVM");
    thread::sleep(Duration::from_millis(300));
    let sample = both.sample().expect("a sample");
    (both, sample)
}

fn screen(snapshot: &Snapshot) -> String {
    let mut terminal = Terminal::new(TestBackend::new(200, 60)).expect("a terminal");
    let draw = |frame: &mut ratatui::Frame<'_>| {
        view::draw(frame, Some(snapshot), &State::default());
    };
    terminal.draw(draw).expect("it draws");
    terminal.backend().to_string()
}

/// The snapshots after each of `samples`.
fn last_snapshot(samples: Vec<Sample>) -> Snapshot {
    let mut aggregate = Aggregate::new();
    let snapshots = samples.into_iter().map(|sample| aggregate.apply(sample));
    snapshots.last().expect("there are samples")
}

#[test]
fn real_and_demo_rows_equal_their_truth_on_one_screen() {
    let _alone = ALONE.lock();
    let (both, sample) = machine();
    let snapshot = last_snapshot(vec![sample]);
    let mut threads = 0;
    for (tid, fired) in both.1.fired() {
        let vcpus = snapshot
            .vms
            .iter()
            .filter(|vm| vm.demo)
            .flat_map(|vm| vm.vcpus.iter().filter(move |vcpu| vm.pid + 1 + vcpu.id == tid));
        let [vcpu] = vcpus.collect::<Vec<_>>()[..] else { panic!("no vCPU of thread {tid}") };
        assert_eq!(vcpu.sample.reasons, fired.clone().into_iter().collect::<Vec<_>>());
        assert_eq!(vcpu.exits.total, fired.values().sum::<u64>());
        threads += 1;
    }
    assert!(threads > 40, "{threads}");
    let own: Vec<_> = snapshot.vms.iter().filter(|vm| vm.pid == process::id()).collect();
    let [real] = own[..] else { panic!("{} VMs of this process", own.len()) };
    assert!(!real.demo);
    assert_eq!(real.counts[Class::PioOut], PORT_WRITES);
    assert_eq!(real.counts[Class::Cpuid], CPUIDS);

    let screen = screen(&snapshot);
    let row = |name: &str| screen.lines().find(|line| line.contains(name)).unwrap_or_default();
    for vm in snapshot.vms.iter().filter(|vm| vm.demo) {
        let row = row(&vm.name);
        assert!(row.contains("DEMO"), "{screen}");
        assert!(row.contains(&thousands(vm.exits.total)), "{screen}");
    }
    let own = row(&process::id().to_string());
    assert!(!own.contains("DEMO") && own.contains(&thousands(real.exits.total)), "{screen}");
    // Of the VM that is chosen, the screen shows the classes too.
    assert!(screen.contains(&thousands(PORT_WRITES)), "{screen}");
}

#[test]
fn a_recording_of_both_shows_the_same_screen() {
    let _alone = ALONE.lock();
    let (mut both, first) = machine();
    let samples = vec![first, both.sample().expect("a sample")];
    let mut bytes = Vec::new();
    let mut writer = Writer::new(&mut bytes, Duration::ZERO).expect("a recording");
    samples.iter().for_each(|sample| writer.write(sample).expect("it is written"));
    writer.finish().expect("it ends");
    let mut reader = Reader::new(&bytes[..]).expect("a recording");
    let mut replayed = Vec::new();
    while let Some(sample) = reader.sample().expect("it is sound") {
        replayed.push(sample);
    }
    assert_eq!(screen(&last_snapshot(replayed)), screen(&last_snapshot(samples)));
}
