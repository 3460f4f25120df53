//! The workload on this machine's KVM: what it says it made is what was asked for, and with
//! `test-root` also what the kernel's own trace shows.

use std::{
    fs,
    io::Read as _,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use tdtrace::workload::{self, Counts, Kind, Made, Plan, VcpuMade, Wake};

fn run(plan: &Plan) -> Made {
    workload::run(plan, &AtomicBool::new(false)).expect("the workload runs")
}

fn vcpus(made: &Made) -> impl Iterator<Item = &VcpuMade> {
    made.vms.iter().flat_map(|vm| &vm.vcpus)
}

/// What must hold of every vCPU, however it ended.
fn assert_consistent(made: &Made) {
    for vcpu in vcpus(made) {
        let returns: u64 =
            vcpu.made.iter().filter(|(kind, _)| kind.returns()).map(|(_, count)| count).sum();
        assert_eq!(vcpu.kvm_run_returns, returns + vcpu.sign_offs);
        assert_eq!(vcpu.kvm_run_calls, vcpu.kvm_run_returns + vcpu.interrupted);
    }
    for vm in &made.vms {
        let fast: u64 = vm.vcpus.iter().map(|vcpu| vcpu.made.get(Kind::FastMmio)).sum();
        assert_eq!(vm.ioeventfd_signals, fast);
    }
    let places: u64 = made.places.iter().map(|place| place.count).sum();
    let accesses: u64 = vcpus(made)
        .map(|vcpu| vcpu.made.total() - vcpu.made.get(Kind::Hlt) - vcpu.made.get(Kind::Halt))
        .sum();
    assert_eq!(places, accesses);
}

#[test]
fn every_vcpu_makes_exactly_the_plan() {
    let counts: Counts = Kind::WITHOUT_HALT.into_iter().zip((1..).map(|n| 1_000 + n)).collect();
    let plan = Plan { counts, vms: 2, vcpus: 3, places: 3, ..Plan::default() };
    let made = run(&plan);
    assert_consistent(&made);
    assert!(!made.stopped);
    assert_eq!(made.vms.len(), 2);
    for vm in &made.vms {
        assert_eq!(vm.vcpus.iter().map(|vcpu| vcpu.vcpu).collect::<Vec<_>>(), [0, 1, 2]);
    }
    for vcpu in vcpus(&made) {
        assert_eq!((vcpu.made, vcpu.sign_offs), (counts, 1));
    }
    let mut tids: Vec<_> = vcpus(&made).map(|vcpu| vcpu.tid).collect();
    tids.sort_unstable();
    tids.dedup();
    assert_eq!(tids.len(), 6);
    let ports: Vec<_> = made
        .places
        .iter()
        .filter(|place| place.class == "pio_out")
        .map(|place| (place.address, place.count))
        .collect();
    assert_eq!(ports, [(0x500, 6 * 334), (0x510, 6 * 334), (0x520, 6 * 333)]);
}

#[test]
fn every_access_size_and_every_place_works() {
    for size in [1, 2, 4] {
        let counts: Counts = Kind::WITHOUT_HALT.into_iter().map(|kind| (kind, 32)).collect();
        let plan = Plan {
            counts,
            places: workload::MAX_PLACES,
            pio_size: size,
            mmio_size: size,
            ..Plan::default()
        };
        let made = run(&plan);
        assert_consistent(&made);
        assert_eq!(made.vms[0].vcpus[0].made, counts);
        assert!(made.places.iter().all(|place| place.count == 2));
        assert_eq!(made.places.len(), 8 * workload::MAX_PLACES as usize);
    }
}

#[test]
fn a_stop_ends_loops_that_never_return_and_the_count_is_exact() {
    let plan = Plan {
        counts: Counts::from_iter([(Kind::FastMmio, u64::from(u32::MAX)), (Kind::PioOut, 5)]),
        vcpus: 2,
        ..Plan::default()
    };
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let made = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            stop.store(true, Relaxed);
        });
        workload::run(&plan, &stop).expect("the workload runs")
    });
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(made.stopped);
    assert_consistent(&made);
    for vcpu in vcpus(&made) {
        assert_eq!(vcpu.made.get(Kind::PioOut), 5);
        assert!((1..u64::from(u32::MAX)).contains(&vcpu.made.get(Kind::FastMmio)));
    }
}

/// Halts that a kick ends, with accesses that return beside them.
fn halts(count: u64) -> Plan {
    Plan {
        counts: Counts::from_iter([(Kind::Halt, count), (Kind::PioOut, 5)]),
        vms: 2,
        vcpus: 2,
        wake: Wake::Kick,
        halt_us: 300,
        ..Plan::default()
    }
}

#[test]
fn halts_that_the_kernel_serves_return_only_at_the_end() {
    let plan = halts(100);
    let made = run(&plan);
    assert_consistent(&made);
    assert_eq!(made.sign_off, "pio_out");
    assert_eq!(vcpus(&made).count(), 4);
    for vcpu in vcpus(&made) {
        assert_eq!((vcpu.made, vcpu.sign_offs, vcpu.interrupts), (plan.counts, 1, 0));
        assert_eq!(vcpu.kvm_run_returns, 6);
        assert!(vcpu.seconds >= 100.0 * 300e-6, "{}", vcpu.seconds);
    }
}

#[test]
fn a_stop_ends_vcpus_that_are_halted() {
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let made = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(300));
            stop.store(true, Relaxed);
        });
        workload::run(&halts(u64::from(u32::MAX)), &stop).expect("the workload runs")
    });
    assert!(begin.elapsed() < Duration::from_secs(30));
    assert!(made.stopped);
    assert_consistent(&made);
    for vcpu in vcpus(&made) {
        assert!((1..u64::from(u32::MAX)).contains(&vcpu.made.get(Kind::Halt)));
    }
}

#[test]
fn interrupts_end_halts_or_are_refused_in_one_sentence() {
    let plan = Plan { wake: Wake::Interrupt, ..halts(50) };
    let outcome = workload::run(&plan, &AtomicBool::new(false));
    // Other KVMs emulate a guest without paging, and deliver nothing to it.
    let hardware = ["kvm_intel", "kvm_amd"];
    if hardware.iter().any(|module| Path::new("/sys/module").join(module).exists()) {
        let made = outcome.expect("the workload runs");
        assert_consistent(&made);
        assert!(vcpus(&made).all(|vcpu| vcpu.interrupts >= 50 && vcpu.made == plan.counts));
    } else {
        let error = format!("{:#}", outcome.expect_err("no interrupts are delivered"));
        assert!(error.contains("--wake kick") && !error.contains('\n'), "{error}");
    }
}

#[test]
fn a_rate_is_kept_and_its_slices_are_counted_apart() {
    let counts = Counts::from_iter([(Kind::PioOut, 200), (Kind::Cpuid, 100), (Kind::Hlt, 100)]);
    let made = run(&Plan { counts, rate: Some(1_000), ..Plan::default() });
    assert_consistent(&made);
    let vcpu = &made.vms[0].vcpus[0];
    assert_eq!((vcpu.made, vcpu.sign_offs), (counts, 40));
    // The last slice of 10 begins when 390 accesses may have been made.
    assert!(vcpu.seconds >= 0.39, "{}", vcpu.seconds);
}

#[test]
fn a_time_repeats_the_rounds_until_it_is_over() {
    let plan = Plan {
        counts: Counts::from_iter([(Kind::PioOut, 20), (Kind::MsrRead, 10)]),
        rate: Some(5_000),
        time: Some(Duration::from_millis(600)),
        ..Plan::default()
    };
    let made = run(&plan);
    assert_consistent(&made);
    let vcpu = &made.vms[0].vcpus[0];
    assert!(!made.stopped);
    assert!(vcpu.sign_offs > 1);
    assert!((0.5..30.0).contains(&vcpu.seconds), "{}", vcpu.seconds);
    // A slice begins when all before it were due, and has 30 accesses here.
    let due = 5_000.0 * vcpu.seconds + 30.0;
    assert!(vcpu.made.total() as f64 <= due, "{} of {due}", vcpu.made.total());
    assert!(vcpu.made.get(Kind::MsrRead) > 0);
}

/// Starts the command and returns once its vCPUs run.
fn spawn(arguments: &[&str]) -> Child {
    let child = Command::new(env!("CARGO_BIN_EXE_tdtrace"))
        .arg("workload")
        .args(arguments)
        .stdout(Stdio::piped())
        .spawn()
        .expect("tdtrace starts");
    let begin = Instant::now();
    while !has_vcpu(&child) {
        assert!(begin.elapsed() < Duration::from_secs(30), "no vCPU was started");
        thread::sleep(Duration::from_millis(10));
    }
    thread::sleep(Duration::from_millis(200));
    child
}

/// Whether a vCPU's thread is there yet.
fn has_vcpu(child: &Child) -> bool {
    let tasks = fs::read_dir(format!("/proc/{}/task", child.id())).expect("the child lives");
    tasks.flatten().any(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.contains("-vcpu"))
    })
}

fn send(child: &Child, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(child.id()).expect("a pid");
    // SAFETY: sends a signal to our own child, which has not been waited for.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

fn json(mut child: Child) -> Value {
    let mut text = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut text).expect("text");
    assert!(child.wait().expect("an exit code").success());
    serde_json::from_str(&text).expect("one JSON object")
}

#[test]
fn sigint_prints_what_was_made_so_far() {
    let child = spawn(&["--cpuid", "4000000000", "--vcpus", "2"]);
    send(&child, libc::SIGINT);
    let made = json(child);
    assert_eq!((&made["schema"], &made["stopped"]), (&Value::from(1), &Value::from(true)));
    for vcpu in made["vms"][0]["vcpus"].as_array().expect("vCPUs") {
        assert!((1..4_000_000_000).contains(&vcpu["made"]["cpuid"].as_u64().expect("a count")));
    }
}

#[test]
fn interrupted_runs_are_counted_apart() {
    let child = spawn(&["--cpuid", "1", "--seconds", "3"]);
    for _ in 0..5 {
        send(&child, libc::SIGSTOP);
        thread::sleep(Duration::from_millis(50));
        send(&child, libc::SIGCONT);
        thread::sleep(Duration::from_millis(50));
    }
    let made = json(child);
    let vcpu = &made["vms"][0]["vcpus"][0];
    let number = |name: &str| vcpu[name].as_u64().expect("a count");
    assert!(number("interrupted") >= 1);
    assert_eq!(number("kvm_run_calls"), number("kvm_run_returns") + number("interrupted"));
    assert_eq!(number("kvm_run_returns"), number("sign_offs"));
}

#[test]
fn a_workload_of_nothing_fails_and_names_the_options() {
    let output =
        Command::new(env!("CARGO_BIN_EXE_tdtrace")).arg("workload").output().expect("runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--mmio-write"));
}

#[cfg(feature = "test-root")]
mod trace {
    //! The kernel's own trace, in a tracefs instance of this test.

    use std::{
        collections::HashMap,
        hash::Hash,
        io::{BufRead as _, BufReader},
        path::PathBuf,
        process,
    };

    use super::*;

    /// A tracefs instance that is removed with this.
    struct Instance(PathBuf);

    impl Instance {
        /// Makes one, told from others by `name`, that records the KVM events of this thread and the
        /// threads it starts.
        fn of_this_thread(name: &str) -> Self {
            let root = PathBuf::from("/sys/kernel/tracing/instances");
            assert!(root.is_dir(), "tracefs is not at /sys/kernel/tracing; mount it there");
            let instance =
                Self(root.join(format!("tdtrace-workload-test-{name}-{}", process::id())));
            fs::create_dir(&instance.0).expect("a tracefs instance");
            // About 40 bytes an event.
            instance.set("buffer_size_kb", "65536");
            instance.set("options/overwrite", "0");
            instance.set("options/event-fork", "1");
            let thread = fs::read_link("/proc/thread-self").expect("/proc");
            let tid = thread.file_name().expect("a tid").to_str().expect("digits");
            instance.set("set_event_pid", tid);
            for event in ["kvm_pio", "kvm_mmio", "kvm_fast_mmio", "kvm_cpuid", "kvm_msr", "kvm_fpu"]
            {
                instance.set(&format!("events/kvm/{event}/enable"), "1");
            }
            for event in ["kvm_userspace_exit", "kvm_vcpu_wakeup", "kvm_inj_virq"] {
                instance.set(&format!("events/kvm/{event}/enable"), "1");
            }
            instance
        }

        fn set(&self, file: &str, value: &str) {
            fs::write(self.0.join(file), value).unwrap_or_else(|error| panic!("{file}: {error}"));
        }

        /// The thread and the text of every event, like `kvm_pio: pio_write at 0x500 …`.
        fn events(&self) -> Vec<(u32, String)> {
            self.set("tracing_on", "0");
            for cpu in fs::read_dir(self.0.join("per_cpu")).expect("per_cpu").flatten() {
                let stats = fs::read_to_string(cpu.path().join("stats")).expect("stats");
                for line in stats.lines().filter(|line| {
                    line.starts_with("overrun:") || line.starts_with("dropped events:")
                }) {
                    assert!(line.ends_with(": 0"), "the trace lost events: {line}");
                }
            }
            let file = fs::File::open(self.0.join("trace")).expect("the trace");
            let lines = BufReader::new(file).lines().map(|line| line.expect("text"));
            // "  vm0-vcpu0-4711  [001] .....  12.345678: kvm_pio: pio_write at 0x500 …"
            lines
                .filter(|line| !line.starts_with('#'))
                .map(|line| {
                    let (head, event) = line.split_once(": ").expect("an event");
                    let task = head.split_once(" [").expect("a CPU").0.trim_end();
                    let tid = task.rsplit('-').next().and_then(|tid| tid.parse().ok());
                    (tid.expect("a tid"), event.to_owned())
                })
                .collect()
        }
    }

    impl Drop for Instance {
        fn drop(&mut self) {
            let _ = fs::write(self.0.join("events/enable"), "0");
            let _ = fs::remove_dir(&self.0);
        }
    }

    /// The event's name with the word that tells its class.
    fn shortened(event: &str) -> String {
        let words: Vec<_> = event.split_whitespace().collect();
        let (name, class) = match words[..] {
            [name @ ("kvm_mmio:" | "kvm_userspace_exit:"), _, class, ..]
            | [name @ ("kvm_pio:" | "kvm_msr:" | "kvm_fpu:"), class, ..] => (name, class),
            [name, ..] => (name, ""),
            [] => ("", ""),
        };
        format!("{name} {class}").trim_end().to_owned()
    }

    /// Port, GPA, CPUID leaf or MSR of an event, with the class in `places`; a write that an
    /// ioeventfd took is `kvm_mmio` on some hosts, so both are writes here.
    fn place(event: &str) -> Option<(&'static str, u64)> {
        let words: Vec<_> = event.split_whitespace().collect();
        let (class, address) = match words[..] {
            ["kvm_pio:", "pio_write", "at", port, ..] => ("pio_out", port),
            ["kvm_pio:", "pio_read", "at", port, ..] => ("pio_in", port),
            ["kvm_mmio:", "mmio", "write", "len", _, "gpa", gpa, ..]
            | ["kvm_fast_mmio:", "fast", "mmio", "at", "gpa", gpa, ..] => ("write", gpa),
            ["kvm_mmio:", "mmio", "read", "len", _, "gpa", gpa, ..] => ("mmio_read", gpa),
            ["kvm_cpuid:", "func", leaf, ..] => ("cpuid", leaf),
            ["kvm_msr:", "msr_read", msr, ..] => ("msr_read", msr),
            ["kvm_msr:", "msr_write", msr, ..] => ("msr_write", msr),
            _ => return None,
        };
        let digits = address.trim_start_matches("0x");
        Some((class, u64::from_str_radix(digits, 16).expect("a hexadecimal number")))
    }

    fn tally<K: Eq + Hash>(keys: impl Iterator<Item = K>) -> HashMap<K, u64> {
        let mut counts = HashMap::new();
        for key in keys {
            *counts.entry(key).or_default() += 1;
        }
        counts
    }

    #[test]
    fn the_kernels_trace_counts_the_same() {
        let instance = Instance::of_this_thread("counts");
        let counts: Counts =
            Kind::WITHOUT_HALT.into_iter().zip((1..).map(|n| 20_000 + n)).collect();
        let plan = Plan { counts, vcpus: 2, places: workload::MAX_PLACES, ..Plan::default() };
        let made = run(&plan);
        assert_consistent(&made);
        let events = instance.events();

        let places: HashMap<_, _> = made
            .places
            .iter()
            .map(|place| match place.class {
                "mmio_write" | "fast_mmio" => (("write", place.address), place.count),
                class => ((class, place.address), place.count),
            })
            .collect();
        assert_eq!(tally(events.iter().filter_map(|(_, event)| place(event))), places);

        let seen = tally(events.iter().map(|(tid, event)| (*tid, shortened(event))));
        for vcpu in vcpus(&made) {
            assert_eq!(vcpu.made, counts);
            assert_seen(vcpu, &|event| {
                seen.get(&(vcpu.tid, event.to_owned())).copied().unwrap_or(0)
            });
        }
    }

    #[test]
    fn the_kernels_trace_shows_the_halts_that_it_serves() {
        let instance = Instance::of_this_thread("halts");
        let made = run(&halts(200));
        let events = instance.events();
        let seen = tally(events.iter().map(|(tid, event)| (*tid, shortened(event))));
        for vcpu in vcpus(&made) {
            let seen = |event: &str| seen.get(&(vcpu.tid, event.to_owned())).copied().unwrap_or(0);
            // One that is ended on the way into it is not waited for; a signal makes it two.
            let wakeups = seen("kvm_vcpu_wakeup:");
            assert!((100..=200 + 2 * vcpu.interrupted).contains(&wakeups), "{wakeups}");
            let writes = vcpu.made.get(Kind::PioOut) + vcpu.sign_offs;
            assert_eq!(seen("kvm_pio: pio_write"), writes);
            assert_eq!(seen("kvm_userspace_exit: KVM_EXIT_IO"), writes);
            assert_eq!(seen("kvm_inj_virq:"), 0);
        }
    }

    /// The rules that the command's help gives.
    fn assert_seen(vcpu: &VcpuMade, seen: &dyn Fn(&str) -> u64) {
        let made = |kind| vcpu.made.get(kind);
        assert_eq!(seen("kvm_pio: pio_write"), made(Kind::PioOut));
        assert_eq!(seen("kvm_pio: pio_read"), made(Kind::PioIn));
        assert_eq!(seen("kvm_mmio: unsatisfied-read"), made(Kind::MmioRead));
        assert_eq!(seen("kvm_mmio: read"), made(Kind::MmioRead));
        assert_eq!(
            seen("kvm_mmio: write") + seen("kvm_fast_mmio:"),
            made(Kind::MmioWrite) + made(Kind::FastMmio)
        );
        assert_eq!(seen("kvm_cpuid:"), made(Kind::Cpuid));
        assert_eq!(seen("kvm_msr: msr_read"), made(Kind::MsrRead));
        assert_eq!(seen("kvm_msr: msr_write"), made(Kind::MsrWrite));
        let io = made(Kind::PioOut) + made(Kind::PioIn);
        assert_eq!(seen("kvm_userspace_exit: KVM_EXIT_IO"), io);
        let mmio = made(Kind::MmioWrite) + made(Kind::MmioRead);
        assert_eq!(seen("kvm_userspace_exit: KVM_EXIT_MMIO"), mmio);
        let hlt = made(Kind::Hlt) + vcpu.sign_offs;
        assert_eq!(seen("kvm_userspace_exit: KVM_EXIT_HLT"), hlt);
        assert_eq!(seen("kvm_userspace_exit: restart"), vcpu.interrupted);
        assert_eq!(seen("kvm_fpu: load"), vcpu.kvm_run_calls);
        assert_eq!(seen("kvm_fpu: unload"), vcpu.kvm_run_calls);
    }
}
