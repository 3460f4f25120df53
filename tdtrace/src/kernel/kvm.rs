//! Which KVM runs here, and whether it runs TDs.
//!
//! Pure over sysfs, `/dev` and the CPU's flags.

use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use super::{
    cpu::CpuFlags,
    seen::{self, Seen},
};

/// Whether code is in the kernel, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is not there, or is a module that is not loaded.
    Absent,
    /// It is part of the kernel image. It may have found nothing to do.
    BuiltIn,
    /// It is a module and loaded.
    Loaded,
}

/// Which KVM runs VMs here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// The kernel has no KVM, or its module is not loaded.
    None,
    /// KVM is there, and nothing that runs vCPUs for it.
    Idle,
    /// kvm_intel: VMX, and TDX where it is on.
    Intel,
    /// kvm_amd: SVM.
    Amd,
    /// KVM runs vCPUs without VMX or SVM; the module's name if there is one. kvm_entry and kvm_exit
    /// do not fire.
    Software(Option<String>),
}

/// What sysfs and `/dev` say about KVM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kvm {
    /// Module kvm.
    pub kvm: Presence,
    /// Module kvm_intel.
    pub kvm_intel: Presence,
    /// Module kvm_amd.
    pub kvm_amd: Presence,
    /// Other modules whose name starts with `kvm_`.
    pub others: Vec<String>,
    /// The device is registered: something runs vCPUs.
    pub registered: bool,
    /// `/dev/kvm` is there. Only tdtrace's own guest needs it.
    pub device: bool,
    /// Parameter `tdx` of kvm_intel; absent if its code has no TDX.
    pub tdx: Seen<bool>,
    /// Version of the TDX module, where the kernel tells it.
    pub tdx_module: Seen<String>,
}

impl Kvm {
    pub(super) fn read(root: &Path) -> Self {
        Self {
            kvm: presence(root, "kvm"),
            kvm_intel: presence(root, "kvm_intel"),
            kvm_amd: presence(root, "kvm_amd"),
            others: others(root),
            registered: root.join("sys/class/misc/kvm").exists(),
            device: root.join("dev/kvm").exists(),
            tdx: seen::line(root, "sys/module/kvm_intel/parameters/tdx").parse(flag),
            tdx_module: seen::line(root, "sys/devices/faux/tdx_host/version"),
        }
    }

    /// Which KVM runs VMs on a CPU with these flags, if they are known.
    ///
    /// Built-in code shows up in sysfs even where it found no VMX or SVM, so there the CPU and the
    /// registered device decide.
    #[must_use]
    pub fn flavour(&self, flags: Option<CpuFlags>) -> Flavour {
        let registered = self.registered || self.device;
        let runs = |presence: Presence, flag: fn(CpuFlags) -> bool| match presence {
            Presence::Absent => false,
            Presence::Loaded => true,
            Presence::BuiltIn => registered && flags.is_none_or(flag),
        };
        if self.kvm == Presence::Absent {
            Flavour::None
        } else if runs(self.kvm_intel, |flags| flags.vmx) {
            Flavour::Intel
        } else if runs(self.kvm_amd, |flags| flags.svm) {
            Flavour::Amd
        } else if registered {
            Flavour::Software(self.others.first().cloned())
        } else {
            Flavour::Idle
        }
    }
}

/// Which load of KVM's modules there is: another one when any of them came or went since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation([Option<u64>; 3]);

impl Generation {
    /// The one that there is now, below `root` (`/` for the real one). sysfs gives a directory that is
    /// made anew another inode.
    #[must_use]
    pub fn now(root: &Path) -> Self {
        Self(["kvm", "kvm_intel", "kvm_amd"].map(|module| {
            let directory = root.join("sys/module").join(module);
            let state = fs::read_to_string(directory.join("initstate"));
            // Coming and going, a module can be neither used nor described.
            if state.is_ok_and(|state| state.trim() != "live") {
                return None;
            }
            fs::metadata(directory).ok().map(|metadata| metadata.ino())
        }))
    }

    /// Whether there is any KVM.
    #[must_use]
    pub const fn has_kvm(self) -> bool {
        self.0[0].is_some()
    }
}

/// A loaded module has its state in sysfs, built-in code only its parameters.
fn presence(root: &Path, module: &str) -> Presence {
    let directory = root.join("sys/module").join(module);
    if directory.join("initstate").exists() {
        Presence::Loaded
    } else if directory.exists() {
        Presence::BuiltIn
    } else {
        Presence::Absent
    }
}

fn others(root: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root.join("sys/module")) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("kvm_") && name != "kvm_intel" && name != "kvm_amd")
        .map(|name| seen::first_line(&name))
        .collect();
    names.sort_unstable();
    names
}

/// A boolean module parameter.
fn flag(text: &str) -> Option<bool> {
    match text {
        "Y" | "1" => Some(true),
        "N" | "0" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(directories: &[&str]) -> (tempfile::TempDir, Kvm) {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let kvm = Kvm::read(root.path());
        (root, kvm)
    }

    const VMX: CpuFlags =
        CpuFlags { vmx: true, svm: false, tdx_host_platform: false, tdx_guest: false };
    const NEITHER: CpuFlags = CpuFlags { vmx: false, ..VMX };

    #[test]
    fn loaded_modules_tell_the_flavour() {
        let (_root, kvm) = machine(&["sys/module/kvm/initstate", "sys/module/kvm_intel/initstate"]);
        assert_eq!(kvm.flavour(Some(NEITHER)), Flavour::Intel);
        let (_root, kvm) = machine(&["sys/module/kvm/initstate", "sys/module/kvm_amd/initstate"]);
        assert_eq!(kvm.flavour(None), Flavour::Amd);
    }

    #[test]
    fn built_in_code_counts_only_where_the_cpu_has_what_it_needs() {
        let (_root, kvm) = machine(&[
            "sys/module/kvm",
            "sys/module/kvm_intel/parameters",
            "sys/module/kvm_amd/parameters",
            "sys/class/misc/kvm",
        ]);
        assert_eq!(kvm.flavour(Some(VMX)), Flavour::Intel);
        assert_eq!(kvm.flavour(Some(CpuFlags { svm: true, ..NEITHER })), Flavour::Amd);
        assert_eq!(kvm.flavour(Some(NEITHER)), Flavour::Software(None));
    }

    #[test]
    fn kvm_without_vmx_and_svm_is_a_software_flavour_and_named() {
        let (_root, kvm) = machine(&["sys/module/kvm", "sys/module/kvm_pvm", "sys/class/misc/kvm"]);
        assert_eq!(kvm.flavour(Some(NEITHER)), Flavour::Software(Some("kvm_pvm".into())));
    }

    #[test]
    fn kvm_with_nothing_under_it_is_idle_and_no_kvm_is_none() {
        let (_root, kvm) = machine(&["sys/module/kvm/initstate"]);
        assert_eq!(kvm.flavour(Some(VMX)), Flavour::Idle);
        let (_root, kvm) = machine(&["sys/module"]);
        assert_eq!(kvm.flavour(Some(VMX)), Flavour::None);
    }

    #[test]
    fn the_tdx_parameter_is_a_boolean_or_not_there() {
        let (root, kvm) = machine(&["sys/module/kvm_intel/parameters"]);
        assert_eq!(kvm.tdx, Seen::Absent);
        let parameter = root.path().join("sys/module/kvm_intel/parameters/tdx");
        for (text, value) in [("Y\n", Seen::Is(true)), ("N\n", Seen::Is(false))] {
            fs::write(&parameter, text).unwrap();
            assert_eq!(Kvm::read(root.path()).tdx, value);
        }
        fs::write(&parameter, "perhaps\n").unwrap();
        assert!(matches!(Kvm::read(root.path()).tdx, Seen::Unreadable(_)));
    }

    #[test]
    fn a_module_that_was_loaded_anew_is_another_generation() {
        let root = tempfile::tempdir().unwrap();
        let module = root.path().join("sys/module/kvm_amd");
        let none = Generation::now(root.path());
        assert!(!none.has_kvm());
        fs::create_dir_all(&module).unwrap();
        let first = Generation::now(root.path());
        assert_ne!(first, none);
        assert_eq!(first, Generation::now(root.path()));
        fs::write(module.join("initstate"), "coming\n").unwrap();
        assert_eq!(Generation::now(root.path()), none);
        fs::write(module.join("initstate"), "live\n").unwrap();
        assert_eq!(Generation::now(root.path()), first);
        fs::create_dir_all(root.path().join("sys/module/kvm")).unwrap();
        assert!(Generation::now(root.path()).has_kvm());
    }
}
