//! tracefs: where it is mounted, which events of KVM it lists, and the fields of an event's record.
//!
//! Reads below a root that the caller names; the parsers are pure.

use std::{
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::seen::{self, Seen};

/// tracefs of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracefs {
    /// Where it is mounted.
    pub mount: Seen<PathBuf>,
    /// The events of the systems `kvm` and `kvmmmu`; absent if tracefs is not mounted or KVM is not there.
    pub kvm_events: Seen<Vec<String>>,
    /// Whether it tells which functions can be attached to (`available_filter_functions`): a kernel that keeps
    /// even root from that refuses programs on functions.
    pub functions: Seen<()>,
}

impl Tracefs {
    pub(super) fn read(root: &Path) -> Self {
        let mount = match seen::text(root, "proc/self/mounts") {
            Seen::Is(mounts) => mount_point(&mounts).map_or(Seen::Absent, Seen::Is),
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason),
        };
        let (kvm_events, functions) = match &mount {
            Seen::Is(path) => {
                let path = below(root, path);
                (events_of_kvm(&path), opens(&path.join("available_filter_functions")))
            }
            Seen::Absent => (Seen::Absent, Seen::Absent),
            Seen::Unreadable(reason) => {
                (Seen::Unreadable(reason.clone()), Seen::Unreadable(reason.clone()))
            }
        };
        Self { mount, kvm_events, functions }
    }

    /// The record format of the event `name` of `system`, of a tracefs below `root`.
    #[must_use]
    pub fn format(&self, root: &Path, system: &str, name: &str) -> Seen<EventFormat> {
        match &self.mount {
            Seen::Is(path) => {
                seen::text(&below(root, path), &format!("events/{system}/{name}/format"))
                    .parse(EventFormat::parse)
            }
            Seen::Absent => Seen::Absent,
            Seen::Unreadable(reason) => Seen::Unreadable(reason.clone()),
        }
    }
}

/// Whether a file can be opened; this one is too large to be read for nothing.
fn opens(path: &Path) -> Seen<()> {
    fs::File::open(path).map_or_else(|error| seen::unreadable(&error), |_| Seen::Is(()))
}

/// The mount point of tracefs in the text of `/proc/self/mounts`; else where debugfs has it.
fn mount_point(mounts: &str) -> Option<PathBuf> {
    let of_type = |wanted: &str| {
        mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (path, kind) = (words.nth(1)?, words.next()?);
            (kind == wanted).then(|| unescape(path))
        })
    };
    of_type("tracefs").or_else(|| Some(of_type("debugfs")?.join("tracing")))
}

/// Undoes the octal escapes (`\040`) of paths in `/proc/self/mounts`.
fn unescape(path: &str) -> PathBuf {
    let bytes = path.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = bytes
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 8).ok());
        plain.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(plain).into()
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

/// The events of KVM, in the order of their names; those of its page tables are a system of their own.
fn events_of_kvm(tracefs: &Path) -> Seen<Vec<String>> {
    let mut all = events(tracefs, "kvm");
    if let (Seen::Is(names), Seen::Is(of_tables)) = (&mut all, events(tracefs, "kvmmmu")) {
        names.extend(of_tables);
        names.sort_unstable();
    }
    all
}

/// The events of one system: its directories, else its lines in `available_events`.
fn events(tracefs: &Path, system: &str) -> Seen<Vec<String>> {
    let entries = match fs::read_dir(tracefs.join("events").join(system)) {
        Ok(entries) => entries,
        Err(error) => {
            let listed =
                seen::text(tracefs, "available_events").map(|text| of_system(&text, system));
            return match (seen::unreadable(&error), listed) {
                (_, Seen::Is(names)) if !names.is_empty() => Seen::Is(names),
                (first, _) => first,
            };
        }
    };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Seen::Is(names)
}

/// The events of `system` in the text of `available_events` (`system:event` lines).
fn of_system(text: &str, system: &str) -> Vec<String> {
    let mut names: Vec<String> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .filter(|(of, _)| *of == system)
        .map(|(_, name)| name.trim().to_owned())
        .collect();
    names.sort_unstable();
    names
}

/// The record of an event, as its `format` file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFormat {
    /// The event's number.
    pub id: u32,
    /// The fields in the order of the file, the common ones included.
    pub fields: Vec<EventField>,
}

/// A field of an event's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventField {
    /// Its name.
    pub name: String,
    /// Its C type, with the length of an array.
    pub kind: String,
    /// Bytes from the start of the record.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
    /// Whether it is a signed number.
    pub signed: bool,
}

impl EventFormat {
    /// Reads the text of a `format` file.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = text.lines().find_map(|line| line.strip_prefix("ID:"))?.trim().parse().ok()?;
        let fields = text
            .lines()
            .filter_map(|line| line.trim_start().strip_prefix("field:"))
            .map(EventField::parse)
            .collect::<Option<Vec<_>>>()?;
        Some(Self { id, fields })
    }

    /// The field called `name`.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&EventField> {
        self.fields.iter().find(|field| field.name == name)
    }
}

impl EventField {
    /// Reads what follows `field:`, such as `u32 isa;\toffset:24;\tsize:4;\tsigned:0;`.
    fn parse(text: &str) -> Option<Self> {
        let (declaration, rest) = text.split_once(';')?;
        let number = |key: &str| -> Option<u32> {
            let value = rest.split(';').find_map(|part| part.trim().strip_prefix(key))?;
            value.strip_prefix(':')?.trim().parse().ok()
        };
        let (kind, name) = declaration.trim().rsplit_once([' ', '\t'])?;
        let (name, length) = name.split_at(name.find('[').unwrap_or(name.len()));
        Some(Self {
            name: name.to_owned(),
            kind: format!("{}{length}", kind.trim()),
            offset: number("offset")?,
            size: number("size")?,
            signed: number("signed")? != 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMAT: &str = "name: kvm_exit\nID: 103\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:u32 isa;\toffset:24;\tsize:4;\tsigned:0;\n\
        \tfield:__data_loc char[] msg;\toffset:32;\tsize:4;\tsigned:0;\n\
        \tfield:char comm[16];\toffset:40;\tsize:16;\tsigned:0;\n\n\
        print fmt: \"vcpu %u\", REC->vcpu_id\n";

    #[test]
    fn a_format_gives_number_name_type_and_place_of_each_field() {
        let format = EventFormat::parse(FORMAT).unwrap();
        assert_eq!(format.id, 103);
        let names: Vec<&str> = format.fields.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["common_type", "common_pid", "isa", "msg", "comm"]);
        let isa = EventField {
            name: "isa".into(),
            kind: "u32".into(),
            offset: 24,
            size: 4,
            signed: false,
        };
        assert_eq!(format.field("isa"), Some(&isa));
        assert_eq!(format.field("comm").unwrap().kind, "char[16]");
        assert_eq!(format.field("msg").unwrap().kind, "__data_loc char[]");
        assert!(format.field("common_pid").unwrap().signed);
    }

    #[test]
    fn a_format_that_is_cut_off_or_strange_is_none() {
        for text in ["", "ID: x\n", "ID: 1\n\tfield:u32 isa;\toffset:24;", "ID: 1\nfield:u32;"] {
            assert_eq!(EventFormat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn tracefs_is_preferred_to_debugfs_and_escapes_are_undone() {
        let debugfs = "debugfs /sys/kernel/debug debugfs rw 0 0\n";
        assert_eq!(mount_point(debugfs), Some("/sys/kernel/debug/tracing".into()));
        let both = format!("{debugfs}t /mnt/a\\040b\\134c tracefs rw 0 0\n");
        assert_eq!(mount_point(&both), Some("/mnt/a b\\c".into()));
        assert_eq!(mount_point("proc /proc proc rw 0 0\nnonsense\n"), None);
        assert_eq!(mount_point("t /end\\04 tracefs"), Some("/end\\04".into()));
    }

    #[test]
    fn events_come_from_directories_or_from_the_list() {
        let root = tempfile::tempdir().unwrap();
        let tracefs = root.path().join("sys/kernel/tracing");
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        fs::create_dir_all(&tracefs).unwrap();
        assert_eq!(Tracefs::read(root.path()).kvm_events, Seen::Absent);

        let mounts = "tracefs /sys/kernel/tracing tracefs rw 0 0\n";
        fs::write(root.path().join("proc/self/mounts"), mounts).unwrap();
        assert_eq!(Tracefs::read(root.path()).kvm_events, Seen::Absent);

        let list = "kvmmmu:kvm_mmu_get_page\nkvm:kvm_fpu\nkvm:kvm_exit\n";
        fs::write(tracefs.join("available_events"), list).unwrap();
        let events = Tracefs::read(root.path()).kvm_events;
        let all = ["kvm_exit", "kvm_fpu", "kvm_mmu_get_page"].map(str::to_owned);
        assert_eq!(events, Seen::Is(all.into()));

        let event = tracefs.join("events/kvm/kvm_pio");
        fs::create_dir_all(&event).unwrap();
        fs::write(tracefs.join("events/kvm/enable"), "0").unwrap();
        fs::write(event.join("format"), FORMAT).unwrap();
        let tracefs = Tracefs::read(root.path());
        let all = ["kvm_mmu_get_page", "kvm_pio"].map(str::to_owned);
        assert_eq!(tracefs.kvm_events, Seen::Is(all.into()));
        let format = tracefs.format(root.path(), "kvm", "kvm_pio");
        assert_eq!(format.known().unwrap().id, 103);
        assert_eq!(tracefs.format(root.path(), "kvm", "kvm_mmio"), Seen::Absent);
    }
}
