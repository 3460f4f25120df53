//! Opening a kernel's and its modules' files, and sites in them.

use std::{cell::OnceCell, fs::File, io::Read as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use super::{CODE, Lines, Options, Search, Site, image::Image, modules};
use crate::{kernel::symbols::Symbols, verdict::Frame};

/// Text of a small file that is read at most.
const SMALL: u64 = 1 << 16;

/// A file that is open, what it says read when it is asked for.
pub(super) struct Opened {
    pub(super) image: Image,
    symbols: OnceCell<Symbols>,
    lines: OnceCell<Result<Lines, String>>,
    exceptions: OnceCell<Option<Vec<u64>>>,
}

impl Opened {
    fn new(image: Image) -> Self {
        Self {
            image,
            symbols: OnceCell::new(),
            lines: OnceCell::new(),
            exceptions: OnceCell::new(),
        }
    }

    pub(super) fn kernel(path: &Path) -> Result<Self> {
        let image = Image::open(path)?;
        ensure!(!image.is_module(), "{} is a module and no vmlinux", path.display());
        Ok(Self::new(image))
    }

    pub(super) fn symbols(&self) -> &Symbols {
        self.symbols.get_or_init(|| self.image.functions())
    }

    fn lines(&self) -> Result<&Lines, &str> {
        let lines =
            self.lines.get_or_init(|| Lines::of(&self.image).map_err(|error| format!("{error:#}")));
        lines.as_ref().map_err(String::as_str)
    }

    /// The site at an address of the file.
    pub(super) fn site(&self, address: u64) -> Site {
        let function = self.symbols().at(address);
        let bytes = self.image.read(address, CODE).unwrap_or_default().to_vec();
        let mut site = Site { address, bytes, ..Site::default() };
        site.in_exception_table = self.in_exception_table(address);
        if let Some(function) = function {
            site.function = Some(function.name.to_owned());
            site.offset = address - function.address;
        }
        match self.chain(address, function.map(|function| function.name)) {
            Ok(chain) => {
                site.chain = Some(chain);
                site.debug_file = Some(self.image.path().to_owned());
            }
            Err(reason) => site.note = Some(reason),
        }
        site
    }

    fn chain(&self, address: u64, function: Option<&str>) -> Result<Vec<Frame>, String> {
        let lines = self.lines()?;
        let chain = lines.chain(address).map_err(|error| {
            format!("{} cannot be read: {error:#}", self.image.path().display())
        })?;
        if !chain.is_empty() {
            return Ok(chain);
        }
        // Assembly has lines, but often no functions; nothing is inlined there.
        match (function, lines.line(address)) {
            (Some(function), Some((file, line))) => {
                let function = function.to_owned();
                Ok(vec![Frame { function, file: Some(file), line: Some(line) }])
            }
            _ => Err(format!("{} knows nothing of this address", self.image.path().display())),
        }
    }

    /// Whether the exception table names the instruction.
    fn in_exception_table(&self, address: u64) -> Option<bool> {
        let table = self.exceptions.get_or_init(|| self.image.exception_table());
        table.as_ref().map(|table| table.binary_search(&address).is_ok())
    }
}

fn read(root: &Path, path: &str, limit: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(root.join(path))?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn release(root: &Path) -> Result<String> {
    let text = read(root, "proc/sys/kernel/osrelease", SMALL);
    let text = text.context("/proc/sys/kernel/osrelease cannot be read; is procfs mounted?")?;
    let release = String::from_utf8_lossy(&text).trim().to_owned();
    // It becomes part of paths.
    ensure!(!release.is_empty() && !release.contains('/'), "{release:?} is no release of a kernel");
    Ok(release)
}

pub(super) fn running_build_id(root: &Path) -> Option<Vec<u8>> {
    modules::build_id(&read(root, "sys/kernel/notes", SMALL).ok()?)
}

/// The vmlinux of the running kernel, or why there is none.
pub(super) fn running_kernel(options: &Options, release: &str) -> Result<Result<Opened, String>> {
    let build_id = running_build_id(&options.root);
    if let Some(path) = &options.vmlinux {
        let opened = Opened::kernel(path)?;
        ensure_same(&opened.image, build_id.as_deref(), "the running kernel")?;
        return Ok(Ok(opened));
    }
    let search = search(options);
    let mut reason = format!(
        "no vmlinux with debug information of {release} is found; install the kernel's debug \
         package, or give --vmlinux or --debug-dir"
    );
    for path in search.kernels(release, build_id.as_deref()) {
        let opened = Opened::kernel(&path).and_then(|opened| {
            ensure_same(&opened.image, build_id.as_deref(), "the running kernel")?;
            ensure!(opened.image.has_debug_info(), "{} has no debug information", path.display());
            Ok(opened)
        });
        match opened {
            Ok(opened) => return Ok(Ok(opened)),
            Err(error) => reason = format!("{error:#}"),
        }
    }
    Ok(Err(reason))
}

/// Refuses an image of another build than `build_id`, or one that cannot be told to be the same.
fn ensure_same(image: &Image, build_id: Option<&[u8]>, what: &str) -> Result<()> {
    let shown = image.path().display();
    let build_id =
        build_id.with_context(|| format!("{what} shows no build id, so {shown} may be another"))?;
    let other = image.build_id().with_context(|| format!("{shown} has no build id"))?;
    ensure!(
        other == build_id,
        "{shown} is of another build than {what}: build id {} and not {}",
        modules::hex(other),
        modules::hex(build_id)
    );
    Ok(())
}

fn search(options: &Options) -> Search {
    Search { root: options.root.clone(), debug_dirs: options.debug_dirs.clone() }
}

/// The file of a module, the one that is loaded if `live`.
pub(super) fn module(
    options: &Options,
    release: &str,
    name: &str,
    live: bool,
) -> Result<Opened, String> {
    let note = format!("sys/module/{name}/notes/.note.gnu.build-id");
    let is_odd = name.is_empty() || name.contains(['/', '.']);
    let build_id = (live && !is_odd)
        .then(|| modules::build_id(&read(&options.root, &note, SMALL).ok()?))
        .flatten();
    let mut reason = format!(
        "no file with debug information of the module {name} is found; install the kernel's debug \
         package, or give --debug-dir"
    );
    if is_odd {
        return Err(reason);
    }
    let given = options.modules.iter().filter(|path| is_called(path, name)).cloned();
    for path in given.chain(search(options).modules(release, name, build_id.as_deref())) {
        let opened = Image::open(&path).and_then(|image| {
            ensure!(image.is_module(), "{} is no module", path.display());
            if live {
                ensure_same(&image, build_id.as_deref(), &format!("the module {name}"))?;
            } else if let Some(other) = image.release().filter(|_| !release.is_empty()) {
                let shown = path.display();
                ensure!(other == release, "{shown} is of Linux {other} and not of {release}");
            }
            Ok(Opened::new(image))
        });
        match opened {
            Ok(opened) if opened.image.has_debug_info() => return Ok(opened),
            Ok(opened) if !live => return Ok(opened),
            Ok(_) => reason = format!("{} has no debug information", path.display()),
            Err(error) => reason = format!("{error:#}"),
        }
    }
    Err(reason)
}

/// Whether `path` is a file of the module `name`.
fn is_called(path: &Path, name: &str) -> bool {
    let file = path.file_name().and_then(|file| file.to_str()).unwrap_or_default();
    file.split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == name)
}

/// The site of a loaded module's code at `address` of the running kernel.
pub(super) fn in_module(
    root: &Path,
    name: &str,
    opened: Option<&Result<Opened, String>>,
    address: u64,
    function: Option<(String, u64)>,
) -> Site {
    let opened = match opened {
        Some(Ok(opened)) => opened,
        Some(Err(reason)) => return Site { note: Some(reason.clone()), ..Site::default() },
        None => return Site::default(),
    };
    let by_section = opened.image.sections().iter().find_map(|section| {
        let path = format!("sys/module/{name}/sections/{}", section.name);
        let text = read(root, &path, SMALL).ok()?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let begin = u64::from_str_radix(text.strip_prefix("0x")?, 16).ok().filter(|at| *at != 0)?;
        let offset = address.checked_sub(begin)?;
        let inside = section.addresses.start.checked_add(offset)?;
        section.addresses.contains(&inside).then_some(inside)
    });
    // Without root no section has an address; a function whose name is unique tells as well.
    let by_function = || {
        let (function, offset) = function?;
        match opened.symbols().named(&function, None)[..] {
            [only] => only.address.checked_add(offset),
            _ => None,
        }
    };
    match by_section.or_else(by_function) {
        Some(inside) => opened.site(inside),
        None => {
            let note = format!("it is not known where the sections of {name} are; run as root");
            Site { note: Some(note), ..Site::default() }
        }
    }
}
