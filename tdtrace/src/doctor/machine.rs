//! Checks of the kernel, KVM, TDX, tracefs and the clock.

use super::{Check, Status};
use crate::{
    kernel::{
        Facts, Seen,
        clock::Clock,
        cpu::CpuFlags,
        kvm::{Flavour, Presence},
    },
    source::{counting::sizes::Sizes, live::Options},
};

pub(super) fn kernel(facts: &Facts) -> Vec<Check> {
    let release = match &facts.release {
        Seen::Is(release) => Check::ok("release", format!("Linux {release}")),
        other => Check::unknown(
            "release",
            format!("not known: {}", why(other)),
            "mount procfs on /proc, which most checks read",
        ),
    };
    let cpus = match &facts.possible_cpus {
        Seen::Is(count) => Check::ok("possible_cpus", count.to_string()),
        other => Check::unknown(
            "possible_cpus",
            format!("not known: {}", why(other)),
            "mount sysfs on /sys, which most checks read",
        ),
    };
    vec![release, cpus, jit(&facts.privilege.bpf_jit)]
}

fn jit(enabled: &Seen<u32>) -> Check {
    const NAME: &str = "bpf_jit";
    match enabled {
        Seen::Is(0) => Check::limited(
            NAME,
            "off: probes are interpreted and cost several times more",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Seen::Is(_) => Check::ok(NAME, "on"),
        other => Check::unknown(
            NAME,
            format!("not known: net.core.bpf_jit_enable: {}", why(other)),
            "run tdtrace doctor as root, outside of any container, to see it",
        ),
    }
}

pub(super) fn kvm(facts: &Facts) -> Vec<Check> {
    vec![flavour(facts), device(facts)]
}

fn flavour(facts: &Facts) -> Check {
    const NAME: &str = "flavour";
    let how = |presence| match presence {
        Presence::BuiltIn => "built in",
        Presence::Loaded | Presence::Absent => "module",
    };
    match facts.flavour() {
        Flavour::Intel => {
            Check::ok(NAME, format!("kvm_intel, on VMX ({})", how(facts.kvm.kvm_intel)))
        }
        Flavour::Amd => Check::ok(NAME, format!("kvm_amd, on SVM ({})", how(facts.kvm.kvm_amd))),
        Flavour::Software(module) => Check::limited(
            NAME,
            format!(
                "{} runs vCPUs in software, without VMX or SVM; it never fires kvm_entry and \
                 kvm_exit",
                module.as_deref().unwrap_or("a KVM of another kind")
            ),
            "to see VM exits by reason, use a host with kvm_intel or kvm_amd",
        ),
        Flavour::Idle => Check::missing(
            NAME,
            "kvm is there, but neither kvm_intel nor kvm_amd: no VM can run",
            load_kvm(facts),
        )
        .blocking(),
        Flavour::None => {
            Check::missing(NAME, "this kernel has no KVM loaded: no VM can run", load_kvm(facts))
                .blocking()
        }
    }
}

/// How to get a KVM that runs VMs.
fn load_kvm(facts: &Facts) -> &'static str {
    match facts.cpu.known() {
        _ if facts.is_td() => "run tdtrace on the host of this TD",
        Some(CpuFlags { vmx: true, .. }) => "modprobe kvm_intel",
        Some(CpuFlags { svm: true, .. }) => "modprobe kvm_amd",
        Some(_) => "run tdtrace on a KVM host; this CPU offers neither VMX nor SVM",
        None => "load kvm_intel or kvm_amd",
    }
}

fn device(facts: &Facts) -> Check {
    const NAME: &str = "dev_kvm";
    let finding = "there is no /dev/kvm: tdtrace workload cannot run its own guest";
    if facts.kvm.device {
        Check::ok(NAME, "/dev/kvm is there (only tdtrace workload needs it)")
    } else if facts.kvm.registered {
        Check::limited(NAME, finding, "pass the device /dev/kvm into this container")
    } else {
        Check::limited(NAME, finding, load_kvm(facts))
    }
}

pub(super) fn tdx(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![tdx_host(facts)];
    if facts.kvm.tdx == Seen::Is(true) {
        checks.push(match &facts.kvm.tdx_module {
            Seen::Is(version) => Check::ok("tdx_module", format!("version {version}")),
            Seen::Absent => Check::unknown(
                "tdx_module",
                "this kernel does not tell the version of the TDX module",
                "modprobe tdx_host where the kernel has it, or look for `tdx` in dmesg",
            ),
            other @ Seen::Unreadable(_) => Check::unknown(
                "tdx_module",
                format!("its version is not known: {}", why(other)),
                "look for `tdx` in dmesg",
            ),
        });
    }
    checks.push(tdx_guest(facts));
    checks
}

fn tdx_host(facts: &Facts) -> Check {
    const NAME: &str = "tdx_host";
    if facts.flavour() != Flavour::Intel {
        return Check::missing(
            NAME,
            "no TDs here: they need kvm_intel on VMX",
            "nothing, unless TDs are to run here",
        );
    }
    match &facts.kvm.tdx {
        Seen::Is(true) => Check::ok(NAME, "kvm_intel runs TDs (parameter tdx=Y)"),
        Seen::Is(false) => {
            let platform = facts.cpu.known().is_some_and(|flags| flags.tdx_host_platform);
            Check::missing(
                NAME,
                "kvm_intel knows TDX, but it is off (parameter tdx=N)",
                if platform {
                    "for TDs, load kvm_intel with tdx=1 and look for `tdx` in dmesg"
                } else {
                    "for TDs, turn TDX on in the BIOS: the CPU flag tdx_host_platform is missing"
                },
            )
        }
        Seen::Absent => Check::missing(
            NAME,
            "this kvm_intel has no TDX",
            "for TDs, use Linux 6.16 or newer with CONFIG_KVM_INTEL_TDX",
        ),
        other @ Seen::Unreadable(_) => Check::unknown(
            NAME,
            format!("the parameter tdx of kvm_intel is not known: {}", why(other)),
            "run tdtrace doctor as root to see it",
        ),
    }
}

fn tdx_guest(facts: &Facts) -> Check {
    const NAME: &str = "tdx_guest";
    let knows = facts.cpu.known().is_some_and(|flags| flags.tdx_guest);
    if !facts.is_td() {
        return Check::ok(NAME, "this kernel does not run in a TD");
    }
    if knows {
        return Check::ok(NAME, "this kernel runs in a TD; see guest and guest probes");
    }
    Check::limited(
        NAME,
        "CPUID says that this is a TD, but the kernel does not know",
        "use a kernel with CONFIG_INTEL_TDX_GUEST",
    )
}

pub(super) fn tracefs(facts: &Facts) -> Vec<Check> {
    let mount = match &facts.tracefs.mount {
        Seen::Is(path) => Check::ok("mount", format!("tracefs at {}", path.display())),
        other => Check::limited(
            "mount",
            format!("tracefs is {}; whether an event exists is told by BTF instead", why(other)),
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
    };
    vec![mount, kvm_events(facts)]
}

fn kvm_events(facts: &Facts) -> Check {
    const NAME: &str = "kvm_events";
    match &facts.tracefs.kvm_events {
        Seen::Is(names) => Check::ok(NAME, format!("{} events of KVM", names.len())),
        Seen::Absent if facts.tracefs.mount.known().is_some() => {
            Check::missing(NAME, "no events of KVM", load_kvm(facts))
        }
        Seen::Absent => Check::unknown(
            NAME,
            "not known without tracefs",
            "mount -t tracefs tracefs /sys/kernel/tracing",
        ),
        other @ Seen::Unreadable(_) => Check::unknown(
            NAME,
            format!("not known: {}", why(other)),
            "run tdtrace doctor as root to see them",
        ),
    }
}

pub(super) fn clock(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "clocksource";
    vec![match &facts.clock.current {
        Seen::Is(name) if Clock::is_register(name) => Check::ok(NAME, name.clone()),
        Seen::Is(name) => {
            let has_tsc = facts
                .clock
                .available
                .known()
                .is_some_and(|all| all.iter().any(|name| name == "tsc"));
            Check::limited(
                NAME,
                format!("{name}: timestamps are slow, and probes of #VE do without them"),
                if has_tsc {
                    "switch to tsc, if dmesg does not call it unstable"
                } else {
                    "look in dmesg for why the kernel does not use tsc"
                },
            )
        }
        other => Check::unknown(
            NAME,
            format!("not known: {}", why(other)),
            "read current_clocksource below /sys/devices/system/clocksource",
        ),
    }]
}

/// vCPUs of a large host: a hundred VMs of 256.
const MANY_VCPUS: u32 = 25_600;

/// What the maps will take: by calculation, nothing is loaded.
pub(super) fn memory(facts: &Facts) -> Vec<Check> {
    const NAME: &str = "maps";
    vec![match &facts.possible_cpus {
        Seen::Is(cpus) => {
            let mib = |vcpus| Sizes::new(vcpus, true).bytes(*cpus, true).div_ceil(1 << 20);
            let default = Options::default().max_vcpus;
            Check::ok(
                NAME,
                format!(
                    "{} MiB for {default} vCPUs, {} MiB with --max-vcpus {MANY_VCPUS}",
                    mib(default),
                    mib(MANY_VCPUS)
                ),
            )
        }
        other => Check::unknown(
            NAME,
            format!("not known: how many CPUs there can be: {}", why(other)),
            "mount sysfs on /sys",
        ),
    }]
}

/// How function `name` is attached to where fentry cannot be, or why not and the next step.
pub(super) fn by_kprobe(
    name: &str,
    kprobes: bool,
) -> Result<&'static str, (Status, String, &'static str)> {
    if kprobes {
        return Ok("kprobe");
    }
    let why = format!("{name} could only be probed by kprobe, and this kernel has none");
    Err((Status::Missing, why, "use a kernel with CONFIG_KPROBE_EVENTS"))
}

/// Why something is not known, to follow `is` or a colon.
pub(super) fn why<T>(seen: &Seen<T>) -> &str {
    match seen {
        Seen::Is(_) => "there",
        Seen::Absent => "not there",
        Seen::Unreadable(reason) => reason,
    }
}
