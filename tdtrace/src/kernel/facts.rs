//! All facts about a machine that decide what can be seen on it.
//!
//! Reads procfs, sysfs and `/dev` below a root. Nothing in here fails: what cannot be read says so.

use std::path::Path;

use super::{
    clock::Clock,
    cpu::{self, CpuFlags},
    kvm::{Flavour, Kvm},
    privilege::Privilege,
    seen::{self, Seen},
    tracefs::Tracefs,
};

/// Facts about a machine and about this process on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Release of the kernel, as of `uname -r`.
    pub release: Seen<String>,
    /// What the CPU offers.
    pub cpu: Seen<CpuFlags>,
    /// Whether CPUID says that this is a TD; not known for a tree of files.
    pub cpuid_says_td: Option<bool>,
    /// CPUs that may ever come online.
    pub possible_cpus: Seen<u32>,
    /// KVM, and TDX in it.
    pub kvm: Kvm,
    /// tracefs and its KVM events.
    pub tracefs: Tracefs,
    /// What this process may do.
    pub privilege: Privilege,
    /// The clocksource.
    pub clock: Clock,
    /// Whether the kernel has kprobes.
    pub kprobes: bool,
    /// Whether securityfs shows anything. Where it does and there is no lockdown, none is in force.
    pub securityfs: bool,
}

impl Facts {
    /// The facts about the running machine.
    #[must_use]
    pub fn running() -> Self {
        Self { cpuid_says_td: Some(cpu::cpuid_says_td()), ..Self::read(Path::new("/")) }
    }

    /// The facts that the files below `root` tell; `/` is the running machine.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let securityfs = std::fs::read_dir(root.join("sys/kernel/security"))
            .is_ok_and(|mut entries| entries.next().is_some());
        Self {
            release: seen::line(root, "proc/sys/kernel/osrelease"),
            cpu: seen::text(root, "proc/cpuinfo").parse(CpuFlags::parse),
            cpuid_says_td: None,
            possible_cpus: seen::line(root, "sys/devices/system/cpu/possible")
                .parse(cpu::count_cpus),
            kvm: Kvm::read(root),
            tracefs: Tracefs::read(root),
            privilege: Privilege::read(root),
            clock: Clock::read(root),
            kprobes: root.join("sys/bus/event_source/devices/kprobe").exists(),
            securityfs,
        }
    }

    /// Which KVM runs VMs here.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.kvm.flavour(self.cpu.known().copied())
    }

    /// Whether this kernel runs in a TD, as far as anything tells.
    #[must_use]
    pub fn is_td(&self) -> bool {
        self.cpuid_says_td == Some(true) || self.cpu.known().is_some_and(|flags| flags.tdx_guest)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn an_empty_tree_has_no_facts_and_does_not_fail() {
        let root = tempfile::tempdir().unwrap();
        let facts = Facts::read(root.path());
        assert_eq!(facts.release, Seen::Absent);
        assert_eq!(facts.privilege.credentials, Seen::Absent);
        assert_eq!(facts.flavour(), Flavour::None);
        assert!(!facts.is_td());
    }

    #[test]
    fn a_td_is_known_by_the_flag_or_by_cpuid() {
        let root = tempfile::tempdir().unwrap();
        let facts = Facts::read(root.path());
        assert!(Facts { cpuid_says_td: Some(true), ..facts }.is_td());
        fs::create_dir(root.path().join("proc")).unwrap();
        fs::write(root.path().join("proc/cpuinfo"), "flags : tdx_guest\n").unwrap();
        assert!(Facts::read(root.path()).is_td());
    }

    #[test]
    fn the_running_machine_tells_its_release_and_who_this_process_is() {
        let facts = Facts::running();
        assert!(facts.release.known().is_some_and(|release| release.contains('.')));
        assert!(facts.privilege.credentials.known().is_some());
        assert!(facts.possible_cpus.known().is_some_and(|count| *count >= 1));
    }
}
