//! Where code lies and what an address belongs to: functions with the chain of those inlined into
//! them, modules, devices.
//!
//! Reads files below a root (`/` for the running machine): kallsyms, the kernel's and the modules'
//! debug files, sysfs. Changes nothing. [`crate::verdict`] judges what is found here.

pub mod bytes;
pub mod devices;
mod dwarf;
mod files;
pub mod image;
pub mod kcore;
pub mod modules;
mod place;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, Result, bail, ensure};

pub use dwarf::Lines;
pub use place::{NoPlace, Place};

use self::{files::Opened, image::Image, modules::Search};
use crate::{
    kernel::symbols::{Function, Symbols},
    verdict::Frame,
};

/// Bytes of code that are read at an address.
pub const CODE: usize = 15;

/// Where to look for symbols and debug files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The root of the machine.
    pub root: PathBuf,
    /// The kernel's debug file, instead of one from the usual places.
    pub vmlinux: Option<PathBuf>,
    /// Modules' debug files, looked at before the usual places.
    pub modules: Vec<PathBuf>,
    /// Directories laid out as `/usr/lib/debug` is.
    pub debug_dirs: Vec<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self { root: "/".into(), vmlinux: None, modules: Vec::new(), debug_dirs: Vec::new() }
    }
}

/// A place in kernel code.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Site {
    /// The address: in the running kernel, or as its file has it.
    pub address: u64,
    /// The function by the symbol table.
    pub function: Option<String>,
    /// Bytes from the function's beginning.
    pub offset: u64,
    /// The module; none for the kernel itself.
    pub module: Option<String>,
    /// The functions that the instruction belongs to, the innermost first; none without debug
    /// information.
    pub chain: Option<Vec<Frame>>,
    /// The file that debug information is from.
    pub debug_file: Option<PathBuf>,
    /// Bytes of code, up to 15; empty if they cannot be read.
    pub bytes: Vec<u8>,
    /// Whether the exception table has an entry for the instruction, if that can be told.
    pub in_exception_table: Option<bool>,
    /// Why there is no chain.
    pub note: Option<String>,
}

/// What addresses mean.
enum Origin {
    /// Those of the running kernel, so many bytes behind those of its file.
    Running { symbols: Arc<Symbols>, slide: Option<u64> },
    /// Those of the files.
    Files,
}

/// The code of one kernel.
pub struct Sites {
    origin: Origin,
    options: Options,
    release: String,
    kernel: Result<Opened, String>,
    modules: HashMap<String, Result<Opened, String>>,
}

impl Sites {
    /// The running kernel's code, by its kallsyms and the debug files that belong to it.
    ///
    /// # Errors
    /// kallsyms cannot be read or hides its addresses, or `options` name a vmlinux of another
    /// build. That no debug file is found is no error; each [`Site`] says so.
    pub fn running(options: Options) -> Result<Self> {
        let symbols = Arc::new(Symbols::read(&options.root)?);
        Self::with_symbols(symbols, options)
    }

    /// The same where its symbols have been read.
    ///
    /// # Errors
    /// As [`Self::running`], but for kallsyms.
    pub fn with_symbols(symbols: Arc<Symbols>, options: Options) -> Result<Self> {
        let release = files::release(&options.root)?;
        let kernel = files::running_kernel(&options, &release)?;
        let slide = kernel.as_ref().ok().and_then(|kernel| slide(&symbols, kernel));
        let origin = Origin::Running { symbols, slide };
        Ok(Self { origin, options, release, kernel, modules: HashMap::new() })
    }

    /// Modules came or went, and these are the symbols since. The kernel's debug file stays open; those of
    /// modules are looked for again.
    pub fn modules_changed(&mut self, now: Arc<Symbols>) {
        if let Origin::Running { symbols, .. } = &mut self.origin {
            *symbols = now;
            self.modules.clear();
        }
    }

    /// The code in files, of whatever kernel: the vmlinux that `options` name and modules.
    ///
    /// # Errors
    /// `options` name no vmlinux or module, or it cannot be read.
    pub fn of_files(options: Options) -> Result<Self> {
        let kernel = match &options.vmlinux {
            Some(path) => Ok(Opened::kernel(path)?),
            None => Err("no vmlinux is given; name one with --vmlinux".to_owned()),
        };
        ensure!(
            kernel.is_ok() || !options.modules.is_empty(),
            "no file is given to look into; name one with --vmlinux or --module"
        );
        let release = kernel.as_ref().ok().and_then(|kernel| kernel.image.release());
        let release = release.unwrap_or_default();
        Ok(Self { origin: Origin::Files, options, release, kernel, modules: HashMap::new() })
    }

    /// Whether the vmlinux at `path` is of the kernel that runs on the machine at `root`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn is_running(root: &Path, path: &Path) -> Result<bool> {
        let image = Image::open(path)?;
        let running = files::running_build_id(root);
        Ok(running.is_some() && image.build_id() == running.as_deref())
    }

    /// The release of the kernel; empty if files do not tell.
    #[must_use]
    pub fn release(&self) -> &str {
        &self.release
    }

    /// The kernel's debug file, or why there is none.
    ///
    /// # Errors
    /// The reason, as a sentence.
    pub fn kernel_file(&self) -> Result<&Path, &str> {
        self.kernel.as_ref().map(|kernel| kernel.image.path()).map_err(String::as_str)
    }

    /// Whether addresses are those of the running kernel.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        matches!(self.origin, Origin::Running { .. })
    }

    /// The site at `place`.
    ///
    /// # Errors
    /// The function does not exist, or several have its name and nothing tells which is meant.
    pub fn site(&mut self, place: &Place) -> Result<Site> {
        let (address, module) = match place {
            Place::Address(address) => return Ok(self.at(*address)),
            Place::Symbol { name, offset, size, module } => {
                let begin = self.address(name, *size, module.as_deref())?;
                let address = begin.checked_add(*offset);
                (address.with_context(|| format!("{offset:#x} is too far behind {name}"))?, module)
            }
        };
        match (&self.origin, module) {
            (Origin::Files, Some(module)) => Ok(self.in_module_file(module, address)),
            _ => Ok(self.at(address)),
        }
    }

    /// The site at `address`: of the running kernel, or of the kernel's file.
    #[must_use]
    pub fn at(&mut self, address: u64) -> Site {
        let Origin::Running { symbols, slide } = &self.origin else {
            return in_file(&self.kernel, address, None);
        };
        let function = symbols.at(address);
        let module = function.and_then(|function| function.module).map(str::to_owned);
        let mut site = match (&module, slide) {
            (Some(name), _) => {
                let name = name.clone();
                let function =
                    function.map(|found| (found.name.to_owned(), address - found.address));
                self.load(&name);
                let opened = self.modules.get(&name);
                files::in_module(&self.options.root, &name, opened, address, function)
            }
            (None, Some(slide)) => in_file(&self.kernel, address.wrapping_sub(*slide), None),
            (None, None) => {
                let note = self.kernel.as_ref().err().cloned();
                let note =
                    note.or(Some("the vmlinux does not tell where the kernel begins".into()));
                Site { note, ..Site::default() }
            }
        };
        let Origin::Running { symbols, .. } = &self.origin else { return site };
        if let Some(Function { name, address: begin, .. }) = symbols.at(address) {
            site.function = Some(name.to_owned());
            site.offset = address - begin;
        }
        site.address = address;
        site.module = module;
        if let Some(bytes) = kcore::read(&self.options.root, address, CODE) {
            site.bytes = bytes;
        }
        site
    }

    fn in_module_file(&mut self, module: &str, address: u64) -> Site {
        self.load(module);
        match self.modules.get(module) {
            Some(opened) => in_file(opened, address, Some(module)),
            None => Site { address, ..Site::default() },
        }
    }

    /// Opens the module's file once.
    fn load(&mut self, module: &str) {
        if !self.modules.contains_key(module) {
            let live = self.is_live();
            let opened = files::module(&self.options, &self.release, module, live);
            self.modules.insert(module.to_owned(), opened);
        }
    }

    /// Where the function called `name` begins.
    fn address(&mut self, name: &str, size: Option<u64>, module: Option<&str>) -> Result<u64> {
        if let (Origin::Files, Some(module)) = (&self.origin, module) {
            self.load(module);
        }
        let (symbols, filter) = match (&self.origin, module) {
            (Origin::Running { symbols, .. }, module) => (&**symbols, module),
            (Origin::Files, module) => {
                let opened = module.map_or(Some(&self.kernel), |module| self.modules.get(module));
                match opened {
                    Some(Ok(opened)) => (opened.symbols(), None),
                    Some(Err(reason)) => bail!("{reason}"),
                    None => bail!("no file of the module {} is known", module.unwrap_or_default()),
                }
            }
        };
        let mut found = symbols.named(name, filter);
        if let Some(size) = size.filter(|_| found.len() > 1) {
            found.retain(|function| function.size == size);
        }
        match found[..] {
            [only] => Ok(only.address),
            [] => bail!("no function is called {name}{}", in_what(module)),
            _ => {
                let shown: Vec<_> = found.iter().take(8).map(shown).collect();
                bail!(
                    "{} functions are called {name}{}: {}; give an address, the module, or the \
                     size as in {name}+0x0/{:#x}",
                    found.len(),
                    in_what(module),
                    shown.join(", "),
                    found[0].size
                )
            }
        }
    }
}

fn in_what(module: Option<&str>) -> String {
    module.map_or(String::new(), |module| format!(" in {module}"))
}

fn shown(function: &Function<'_>) -> String {
    let Function { address, size, module, .. } = function;
    let module = module.map_or(String::new(), |module| format!(" [{module}]"));
    format!("{address:#x}/{size:#x}{module}")
}

/// How far the kernel runs behind the addresses of its file.
fn slide(symbols: &Symbols, kernel: &Opened) -> Option<u64> {
    let running = symbols.named("_text", None).first()?.address;
    Some(running.wrapping_sub(kernel.image.symbol("_text")?))
}

/// The site at `address` of a file.
fn in_file(opened: &Result<Opened, String>, address: u64, module: Option<&str>) -> Site {
    let module = module.map(str::to_owned);
    match opened {
        Ok(opened) => Site { module, ..opened.site(address) },
        Err(reason) => Site { address, module, note: Some(reason.clone()), ..Site::default() },
    }
}
