//! Which processes are still there, and who they are. A VM whose process is gone has ended, and its
//! slots can be used again.

use std::{collections::HashMap, fs, path::Path};

use super::identity;
use crate::source::owner::{Identity, Owners};

/// How often a process may become another by an exec before its identity is read no more: a process
/// can also rename itself as often as it likes.
const IDENTITY_READS: u32 = 2;

struct Process {
    /// Ticks since boot at which it began; tells it from a later process of the same number.
    start: Option<u64>,
    gone: bool,
    /// Its name when the identity was read; another one means that it has exec'd since.
    comm: String,
    /// `None` if it was gone before it could be asked.
    identity: Option<Identity>,
    reads: u32,
}

impl Process {
    fn identify(&mut self, root: &Path, pid: u32, comm: String) {
        let identity = identity::read(root, pid);
        // It may have gone while it was read; what was known of it before is better than nothing.
        if self.identity.is_none() || !identity.name.is_empty() {
            self.identity = Some(identity);
        }
        self.comm = comm;
        self.reads += 1;
    }

    /// Takes in what was found under its number now.
    fn update(&mut self, root: &Path, pid: u32, now: Seen) {
        match now {
            Seen::Gone => self.gone = true,
            Seen::Unknown => {}
            Seen::At { start, .. } if self.start.is_some_and(|first| first != start) => {
                self.gone = true;
            }
            Seen::At { comm, .. } => {
                if comm != self.comm && self.reads < IDENTITY_READS {
                    self.identify(root, pid, comm);
                }
            }
        }
    }
}

/// The processes that own VMs.
pub(super) struct Processes {
    /// `/proc`.
    root: Box<Path>,
    by_pid: HashMap<u32, Process>,
    all_seen: bool,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self { all_seen: sees_all_processes(), ..Self::below(Path::new("/proc")) }
    }

    fn below(root: &Path) -> Self {
        Self { root: root.into(), by_pid: HashMap::new(), all_seen: true }
    }

    fn get(&mut self, pid: u32) -> &mut Process {
        let root = &self.root;
        self.by_pid.entry(pid).or_insert_with(|| {
            let mut process =
                Process { start: None, gone: false, comm: String::new(), identity: None, reads: 0 };
            match look_up(root, pid) {
                Seen::At { start, comm } => {
                    process.start = Some(start);
                    process.identify(root, pid, comm);
                }
                Seen::Unknown => {}
                Seen::Gone => process.gone = true,
            }
            process
        })
    }
}

impl Owners for Processes {
    /// Who process `pid` is, or was; nothing if it was gone before it was first asked for.
    fn identity(&mut self, pid: u32) -> Identity {
        if pid == 0 {
            return Identity::default();
        }
        self.get(pid).identity.clone().unwrap_or_default()
    }

    /// Whether process `pid`, as it was when first asked for, is gone. Number 0 means unknown and is
    /// never gone; neither is any that a container hides.
    fn is_gone(&mut self, pid: u32) -> bool {
        if pid == 0 || !self.all_seen {
            return false;
        }
        if !self.get(pid).gone {
            let now = look_up(&self.root, pid);
            if let Some(process) = self.by_pid.get_mut(&pid) {
                process.update(&self.root, pid, now);
            }
        }
        self.get(pid).gone
    }

    fn forget(&mut self, pid: u32) {
        self.by_pid.remove(&pid);
    }
}

enum Seen {
    /// It is there and began `start` ticks after boot.
    At {
        start: u64,
        comm: String,
    },
    Gone,
    Unknown,
}

fn look_up(root: &Path, pid: u32) -> Seen {
    match fs::read(root.join(format!("{pid}/stat"))) {
        Ok(stat) => parse_stat(&String::from_utf8_lossy(&stat)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Seen::Gone,
        // ESRCH: it went between the opening and the reading.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Seen::Gone,
        Err(_) => Seen::Unknown,
    }
}

/// Name, state, number of threads and start time from `/proc/PID/stat`
/// (`fs/proc/array.c:do_task_stat`: fields 2, 3, 20 and 22). The name may contain anything, so fields
/// count from the last parenthesis.
fn parse_stat(stat: &str) -> Seen {
    let Some((before, rest)) = stat.rsplit_once(')') else { return Seen::Unknown };
    let Some((_, comm)) = before.split_once('(') else { return Seen::Unknown };
    let mut fields = rest.split_whitespace();
    let (state, threads, start) = (fields.next(), fields.nth(16), fields.nth(1));
    let (Some(state), Some(Ok(threads)), Some(Ok(start))) =
        (state, threads.map(str::parse::<u32>), start.map(str::parse))
    else {
        return Seen::Unknown;
    };
    // A zombie has closed its files, so its VMs are gone; but the first thread of a process may end
    // before those that run vCPUs.
    if matches!(state, "Z" | "X") && threads <= 1 {
        Seen::Gone
    } else {
        Seen::At { start, comm: comm.to_owned() }
    }
}

/// Whether `/proc` shows every process, by the number that the programs see: in another PID namespace
/// than the initial one (`PID_NS_INIT_INO`, include/uapi/linux/nsfs.h) it does neither.
fn sees_all_processes() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == "pid:[4026531836]")
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        assert!(matches!(parse_stat(STAT), Seen::At { start: 12345, comm } if comm == "a) b"));
        let zombie = STAT.replace(" S ", " Z ");
        assert!(matches!(parse_stat(&zombie), Seen::Gone));
        let led = zombie.replace(" 20 0 1 ", " 20 0 3 ");
        assert!(matches!(parse_stat(&led), Seen::At { start: 12345, .. }));
        assert!(matches!(parse_stat("nonsense"), Seen::Unknown));
        assert!(matches!(parse_stat("7 (a) S 1"), Seen::Unknown));
    }

    #[test]
    fn where_processes_are_hidden_none_is_gone() {
        let mut processes = Processes { all_seen: false, ..Processes::below(Path::new("/proc")) };
        assert!(!processes.is_gone(u32::MAX));
    }

    #[test]
    fn this_process_is_there_and_an_impossible_one_is_not() {
        let mut processes = Processes::below(Path::new("/proc"));
        assert!(!processes.is_gone(std::process::id()));
        assert!(processes.is_gone(u32::MAX));
        assert!(!processes.is_gone(0));
    }

    /// A `/proc` in which process 7 is called `comm`, began at `start` and has the arguments `line`.
    fn put(root: &Path, comm: &str, start: u32, line: &str) {
        let dir = root.join("7");
        fs::create_dir_all(&dir).unwrap();
        let stat = STAT.replace("a) b", comm).replace("12345", &start.to_string());
        fs::write(dir.join("stat"), stat).unwrap();
        fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
        fs::write(dir.join("cmdline"), line.replace(' ', "\0")).unwrap();
    }

    /// Name of process 7 once it has been looked up again.
    fn name(processes: &mut Processes) -> String {
        processes.is_gone(7);
        processes.identity(7).name.to_string()
    }

    #[test]
    fn an_identity_is_read_once_and_once_more_after_an_exec() {
        let root = tempfile::tempdir().unwrap();
        let mut processes = Processes::below(root.path());
        put(root.path(), "sh", 1, "sh");
        assert_eq!(name(&mut processes), "sh");
        put(root.path(), "sh", 1, "sh -c other");
        assert_eq!(name(&mut processes), "sh");
        assert_eq!(processes.by_pid[&7].reads, 1);
        put(root.path(), "qemu-kvm", 1, "qemu-kvm -name vm7");
        assert_eq!(name(&mut processes), "vm7");
        put(root.path(), "flicker", 1, "flicker");
        assert_eq!(name(&mut processes), "vm7");
        assert_eq!(processes.by_pid[&7].reads, 2);
    }

    #[test]
    fn an_identity_is_kept_when_its_process_goes_while_it_is_read_again() {
        let root = tempfile::tempdir().unwrap();
        let mut processes = Processes::below(root.path());
        put(root.path(), "qemu-kvm", 1, "qemu-kvm -name vm7");
        assert_eq!(name(&mut processes), "vm7");
        put(root.path(), "renamed", 1, "");
        fs::remove_file(root.path().join("7/comm")).unwrap();
        fs::remove_file(root.path().join("7/cmdline")).unwrap();
        assert_eq!(name(&mut processes), "vm7");
        assert_eq!(processes.by_pid[&7].reads, 2);
    }

    #[test]
    fn an_identity_outlives_its_process_and_is_not_taken_from_the_next_of_its_number() {
        let root = tempfile::tempdir().unwrap();
        let mut processes = Processes::below(root.path());
        assert!(processes.is_gone(7));
        assert_eq!(processes.identity(7), Identity::default());
        processes.forget(7);
        put(root.path(), "qemu-kvm", 1, "qemu-kvm -name vm7");
        assert_eq!(name(&mut processes), "vm7");
        put(root.path(), "lkvm", 2, "lkvm run --name other");
        assert_eq!(name(&mut processes), "vm7");
        assert!(processes.is_gone(7));
        fs::remove_dir_all(root.path().join("7")).unwrap();
        assert_eq!(name(&mut processes), "vm7");
        assert_eq!(processes.identity(0), Identity::default());
    }
}
