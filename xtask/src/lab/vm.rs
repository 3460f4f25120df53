//! One boot of a lab VM under QEMU's software emulation: bounded in time, killed at its limit, and
//! what it reported.
//!
//! The first serial port is the console. The second carries the report that `init.sh` writes, lines
//! with file contents between them, all of it counted so that a cut report cannot pass:
//! `mark <name> <uptime in s>`, `file <bytes> <path>` and then the bytes, at last `done <status>`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Component, Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// The console, so that boot messages and panics are kept; addresses as they are, for scripts. On a busy
/// machine the emulated timer is too late for the kernel's check of it, which ends in a panic.
const COMMAND_LINE: &str = "no_hash_pointers no_timer_check quiet panic=-1 console=ttyS0";

/// One thread for all CPUs of the VM. With a thread each, QEMU 7.2 sometimes runs code that the
/// kernel has just patched (an Oops at a static key that creating a VM flips), and 4 of 60 nested
/// workloads lost their instruction pointer; with one thread none of 290 runs failed.
const ACCELERATOR: &str = "tcg,thread=single";

/// Lines of the console that an error shows.
const TAIL: usize = 30;

/// A VM to be booted once.
#[derive(Clone, Debug)]
pub(super) struct Vm {
    /// The bzImage.
    pub(super) vmlinuz: PathBuf,
    /// Archives that the kernel unpacks one after the other.
    pub(super) initramfs: Vec<Vec<u8>>,
    /// Where the console, the report and what it held are left.
    pub(super) dir: PathBuf,
    /// When QEMU is killed.
    pub(super) limit: Duration,
}

/// What a VM reported.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Report {
    /// Uptime of the VM by name of the moment.
    pub(super) marks: BTreeMap<String, Duration>,
    /// Contents of the files in `/out` by their path there.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Exit code of the scenario.
    pub(super) status: i32,
    /// How long QEMU ran.
    pub(super) wall: Duration,
}

/// QEMU, which does not outlive this process's interest in it.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Vm {
    /// Boots it, waits for it to power off, and reads its report; the files in it are also left in
    /// `out` of its directory.
    ///
    /// # Errors
    /// When QEMU does not run or reaches the limit, when the report is not complete, or when the
    /// scenario failed: all with the last lines of the console and where the rest is.
    pub(super) fn run(&self) -> Result<Report> {
        self.run_with(&[], "")
    }

    /// The same with more of QEMU's arguments, for devices, and with more kernel parameters.
    pub(super) fn run_with(&self, devices: &[&str], parameters: &str) -> Result<Report> {
        let report = self
            .boot(devices, parameters, Report::parse)
            .map_err(|error| self.with_console(&error))?;
        self.leave(&report)?;
        if report.status != 0 {
            let error = anyhow!("the scenario ended with exit code {}", report.status);
            return Err(self.with_console(&error));
        }
        Ok(report)
    }

    /// Boots it and waits for the kernel's panic with `message`; the report is what was sent until
    /// then, without anything that was cut.
    ///
    /// # Errors
    /// When QEMU does not run or reaches the limit, when the VM ends in another way, or when a line
    /// of the report is strange: all with the last lines of the console and where the rest is.
    pub(super) fn run_to_panic(&self, message: &str) -> Result<Report> {
        let report =
            self.boot(&[], "", Report::parse_cut).map_err(|error| self.with_console(&error))?;
        let console = fs::read(self.console()).unwrap_or_default();
        let panic = format!("Kernel panic - not syncing: {message}");
        if !String::from_utf8_lossy(&console).contains(&panic) {
            return Err(self.with_console(&anyhow!("the VM ended without the panic \"{message}\"")));
        }
        self.leave(&report)?;
        Ok(report)
    }

    /// Writes the files of `report` to `out`.
    fn leave(&self, report: &Report) -> Result<()> {
        let out = self.dir.join("out");
        if out.exists() {
            fs::remove_dir_all(&out).with_context(|| format!("{} stays", out.display()))?;
        }
        fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
        for (path, contents) in &report.files {
            let file = out.join(path);
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)
                    .with_context(|| format!("{} cannot be made", parent.display()))?;
            }
            fs::write(&file, contents).with_context(|| format!("no {}", file.display()))?;
        }
        Ok(())
    }

    fn boot(
        &self,
        devices: &[&str],
        parameters: &str,
        parse: fn(&[u8]) -> Result<Report>,
    ) -> Result<Report> {
        fs::create_dir_all(&self.dir)
            .with_context(|| format!("{} cannot be made", self.dir.display()))?;
        let initramfs = self.dir.join("initramfs.cpio");
        fs::write(&initramfs, self.initramfs.concat())
            .with_context(|| format!("{} cannot be written", initramfs.display()))?;
        let (console, report) = (self.console(), self.dir.join("report"));
        for stale in [&console, &report] {
            fs::write(stale, []).with_context(|| format!("no {}", stale.display()))?;
        }
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", ACCELERATOR, "-cpu", "max,+svm,+npt", "-M", "q35"])
            .args(["-m", "1G", "-smp", "2", "-no-reboot", "-nodefaults", "-display", "none"])
            .arg("-serial")
            .arg(file_option(&console)?)
            .arg("-serial")
            .arg(file_option(&report)?)
            .arg("-kernel")
            .arg(&self.vmlinuz)
            .arg("-initrd")
            .arg(&initramfs)
            .args(["-append", &format!("{COMMAND_LINE} {parameters}")])
            .args(devices)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(self.dir.join("qemu.log")).context("no qemu.log")?);
        let started = Instant::now();
        let status = wait(command.spawn().context("qemu-system-x86_64 does not run")?, self.limit)?;
        if !status.success() {
            let said = fs::read_to_string(self.dir.join("qemu.log")).unwrap_or_default();
            bail!("QEMU ended with {status}: {}", said.trim());
        }
        let bytes = fs::read(&report).with_context(|| format!("no {}", report.display()))?;
        let wall = started.elapsed();
        Ok(Report { wall, ..parse(&bytes)? })
    }

    fn console(&self) -> PathBuf {
        self.dir.join("console.log")
    }

    fn with_console(&self, error: &anyhow::Error) -> anyhow::Error {
        let console = self.console();
        let log = fs::read(&console).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().map(str::trim_end).collect();
        let tail = lines[lines.len().saturating_sub(TAIL)..].join("\n  | ");
        anyhow!("{error:#}\n  | {tail}\nthe whole console is in {}", console.display())
    }
}

/// `-serial file:` ends the file name at a comma unless it is doubled.
fn file_option(path: &Path) -> Result<String> {
    let path = path.to_str().ok_or_else(|| anyhow!("{} is not UTF-8", path.display()))?;
    Ok(format!("file:{}", path.replace(',', ",,")))
}

fn wait(child: Child, limit: Duration) -> Result<ExitStatus> {
    let started = Instant::now();
    let mut qemu = Qemu(child);
    while started.elapsed() < limit {
        if let Some(status) = qemu.0.try_wait().context("QEMU cannot be waited for")? {
            return Ok(status);
        }
        thread::sleep(Duration::from_millis(20));
    }
    bail!("the VM did not power off within {} s and was killed", limit.as_secs())
}

impl Report {
    /// Reads the bytes that `init.sh` sent.
    ///
    /// # Errors
    /// When a line is not of the format, or when the report ends before its last line.
    fn parse(bytes: &[u8]) -> Result<Self> {
        match Self::read(bytes)? {
            (report, None) => Ok(report),
            (_, Some(cut)) => bail!("the VM ended {cut}"),
        }
    }

    /// Reads what a VM sent that may have ended at any moment.
    ///
    /// # Errors
    /// When a line is not of the format.
    fn parse_cut(bytes: &[u8]) -> Result<Self> {
        Self::read(bytes).map(|(report, _)| report)
    }

    /// The report, and where it ends if it is cut.
    fn read(mut rest: &[u8]) -> Result<(Self, Option<String>)> {
        let mut report = Self::default();
        loop {
            let Some(end) = rest.iter().position(|byte| *byte == b'\n') else {
                return Ok((report, Some("before its report was complete".into())));
            };
            let line = String::from_utf8_lossy(&rest[..end]).into_owned();
            rest = &rest[end + 1..];
            let strange = || anyhow!("the VM's report has the line {line:?}");
            let mut words = line.splitn(3, ' ');
            match (words.next(), words.next(), words.next()) {
                (Some("mark"), Some(name), Some(uptime)) => {
                    let uptime =
                        uptime.parse().ok().and_then(|s| Duration::try_from_secs_f64(s).ok());
                    report.marks.insert(name.into(), uptime.ok_or_else(strange)?);
                }
                (Some("file"), Some(bytes), Some(path)) if is_inside(path) => {
                    let size = bytes.parse().ok().ok_or_else(strange)?;
                    let Some((contents, behind)) = rest.split_at_checked(size) else {
                        return Ok((report, Some(format!("while it sent {path}"))));
                    };
                    report.files.insert(path.into(), contents.into());
                    rest = behind;
                }
                (Some("done"), Some(status), None) => {
                    report.status = status.parse().ok().ok_or_else(strange)?;
                    return Ok((report, None));
                }
                _ => return Err(strange()),
            }
        }
    }

    /// The text of file `path`.
    ///
    /// # Errors
    /// When the VM sent no such file, or not as text.
    pub(super) fn text(&self, path: &str) -> Result<&str> {
        let bytes = self.files.get(path).ok_or_else(|| anyhow!("the VM sent no {path}"))?;
        str::from_utf8(bytes).with_context(|| format!("{path} is not text"))
    }

    /// The contents of all files whose path begins with `prefix`.
    pub(super) fn below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let files = self.files.iter().filter(move |(path, _)| path.starts_with(prefix));
        files.map(|(_, contents)| contents.as_slice())
    }

    /// How long the VM took, in words.
    pub(super) fn times(&self) -> String {
        let at = |name: &str| self.marks.get(name).copied().unwrap_or_default();
        let took = at("end").saturating_sub(at("scenario"));
        let (init, took, wall) =
            (at("init").as_secs_f64(), took.as_secs_f64(), self.wall.as_secs_f64());
        format!("boot {init:.1} s, scenario {took:.1} s, VM {wall:.1} s")
    }
}

/// Whether `path` stays below the directory that it is joined to.
fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &[u8] = b"mark init 1.25\nfile 7 hist/kvm_exit\na\nb\nc\xff\ndone 3\n";

    #[test]
    fn a_report_gives_back_marks_file_bytes_and_the_exit_code() {
        let report = Report::parse(WHOLE).unwrap();
        assert_eq!(report.marks["init"], Duration::from_millis(1250));
        assert_eq!(report.files["hist/kvm_exit"], b"a\nb\nc\xff\n");
        assert_eq!(report.status, 3);
    }

    #[test]
    fn a_report_cut_anywhere_is_an_error() {
        for length in 0..WHOLE.len() {
            assert!(Report::parse(&WHOLE[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn of_a_report_that_a_panic_cut_the_whole_files_are_kept() {
        let report = Report::parse_cut(&WHOLE[..WHOLE.len() - 3]).unwrap();
        assert_eq!(report.files["hist/kvm_exit"], b"a\nb\nc\xff\n");
        let cut = WHOLE.len() - b"\ndone 3\n".len();
        assert!(Report::parse_cut(&WHOLE[..cut - 1]).unwrap().files.is_empty());
        assert!(Report::parse_cut(b"strange\n").is_err());
    }

    #[test]
    fn a_file_that_would_land_outside_is_an_error() {
        for path in ["../report", "/etc/passwd", "hist/../../x"] {
            let sent = format!("file 0 {path}\ndone 0\n");
            assert!(Report::parse(sent.as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn a_vm_that_does_not_end_is_killed_at_its_limit() {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = PathBuf::from(format!("/proc/{}", child.id()));
        let error = wait(child, Duration::from_millis(60)).unwrap_err().to_string();
        assert!(error.contains("killed"), "{error}");
        assert!(!process.exists());
    }
}
