//! The BTF of one kernel: that of vmlinux and those of the modules that hold KVM.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{Btf, file::read_btf_bytes};

/// A module whose structures tdtrace reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BtfModule {
    /// `kvm`: what all of KVM shares.
    Kvm,
    /// `kvm_intel`: VMX and TDX.
    KvmIntel,
    /// `kvm_amd`: SVM.
    KvmAmd,
}

impl BtfModule {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Kvm, Self::KvmIntel, Self::KvmAmd];

    /// The name of the module, as in `/sys/module` and `/sys/kernel/btf`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::KvmIntel => "kvm_intel",
            Self::KvmAmd => "kvm_amd",
        }
    }
}

/// BTF of one kernel. A kernel with KVM built in has everything in `vmlinux`.
#[derive(Clone, Debug)]
pub struct BtfSet {
    /// BTF of the kernel itself, or of everything.
    pub vmlinux: Arc<Btf>,
    /// BTF of module kvm.
    pub kvm: Option<Arc<Btf>>,
    /// BTF of module kvm_intel.
    pub kvm_intel: Option<Arc<Btf>>,
    /// BTF of module kvm_amd.
    pub kvm_amd: Option<Arc<Btf>>,
    /// Modules whose BTF is there but cannot be used, each with the reason.
    pub unusable: Vec<(BtfModule, String)>,
}

impl BtfSet {
    /// A kernel of which only this BTF is known.
    #[must_use]
    pub fn new(vmlinux: Btf) -> Self {
        Self {
            vmlinux: Arc::new(vmlinux),
            kvm: None,
            kvm_intel: None,
            kvm_amd: None,
            unusable: Vec::new(),
        }
    }

    /// The running kernel's BTF, from `sys/kernel/btf` under `root` (`/` for the real one).
    ///
    /// BTF of a module that cannot be used does not fail; it is listed in `unusable`.
    ///
    /// # Errors
    /// vmlinux's BTF is not there or cannot be used.
    pub fn running(root: &Path) -> Result<Self> {
        let directory = root.join("sys/kernel/btf");
        let vmlinux = directory.join("vmlinux");
        let mut set = read_btf_bytes(&vmlinux)
            .and_then(|bytes| Ok(Self::new(Btf::parse(bytes)?)))
            .context("the running kernel has no usable BTF")?;
        for module in BtfModule::ALL {
            let path = directory.join(module.name());
            if !path.exists() {
                continue;
            }
            let parsed = read_btf_bytes(&path)
                .and_then(|bytes| Ok(Btf::parse_split(bytes, Arc::clone(&set.vmlinux))?));
            match parsed {
                Ok(btf) => *set.slot(module) = Some(Arc::new(btf)),
                Err(error) => set.unusable.push((module, format!("{error:#}"))),
            }
        }
        Ok(set)
    }

    /// A kernel's BTF from files: `btf` stands alone, each of `modules` does or is split over it.
    ///
    /// Which module a file belongs to is told from the structures it has.
    ///
    /// # Errors
    /// A file cannot be read, `btf` is split, or two files are of one module.
    pub fn from_files(btf: &Path, modules: &[PathBuf]) -> Result<Self> {
        let vmlinux = Btf::parse(read_btf_bytes(btf)?).map_err(|error| {
            let hint =
                if error.wants_base() { "; split BTF belongs behind --module-btf" } else { "" };
            anyhow!("{} is of no use as the BTF of a kernel: {error}{hint}", btf.display())
        })?;
        let mut set = Self::new(vmlinux);
        set.add_files(modules)?;
        Ok(set)
    }

    /// Adds BTF of modules from files; see [`BtfSet::from_files`]. A file replaces what the running
    /// kernel has for that module.
    ///
    /// # Errors
    /// A file cannot be read, is split over another base, or two files are of one module.
    pub fn add_files(&mut self, modules: &[PathBuf]) -> Result<()> {
        let mut seen: Vec<BtfModule> = Vec::new();
        for path in modules {
            let bytes = read_btf_bytes(path)?;
            let btf = Btf::parse_module(bytes, Arc::clone(&self.vmlinux)).with_context(|| {
                format!("{} is of no use over this kernel's BTF", path.display())
            })?;
            let module = owner(&btf);
            if seen.contains(&module) {
                bail!("{} is a second file for {}; give one", path.display(), module.name());
            }
            seen.push(module);
            self.unusable.retain(|(other, _)| *other != module);
            *self.slot(module) = Some(Arc::new(btf));
        }
        Ok(())
    }

    /// The BTF of `module`, if it has one of its own.
    #[must_use]
    pub fn module(&self, module: BtfModule) -> Option<&Btf> {
        match module {
            BtfModule::Kvm => self.kvm.as_deref(),
            BtfModule::KvmIntel => self.kvm_intel.as_deref(),
            BtfModule::KvmAmd => self.kvm_amd.as_deref(),
        }
    }

    fn slot(&mut self, module: BtfModule) -> &mut Option<Arc<Btf>> {
        match module {
            BtfModule::Kvm => &mut self.kvm,
            BtfModule::KvmIntel => &mut self.kvm_intel,
            BtfModule::KvmAmd => &mut self.kvm_amd,
        }
    }

    /// Whether BTF anywhere describes the tracepoint `name`.
    #[must_use]
    pub fn has_tracepoint(&self, name: &str) -> bool {
        let typedef = format!("btf_trace_{name}");
        self.vmlinux.has_typedef(&typedef)
            || BtfModule::ALL
                .into_iter()
                .filter_map(|module| self.module(module))
                .any(|btf| btf.has_typedef(&typedef))
    }
}

/// The module that a file is of, by the structures that only that module has.
fn owner(btf: &Btf) -> BtfModule {
    let has = |names: &[&str]| names.iter().any(|name| btf.has_own_struct(name));
    if has(&["vcpu_vmx", "vcpu_tdx", "vcpu_vt"]) {
        BtfModule::KvmIntel
    } else if has(&["vcpu_svm"]) {
        BtfModule::KvmAmd
    } else {
        BtfModule::Kvm
    }
}
