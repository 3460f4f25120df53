//! Which processes are still there. A VM whose process is gone has ended, and its slots can be used
//! again.

use std::{collections::HashMap, fs};

struct Process {
    /// Ticks since boot at which it began; tells it from a later process of the same number.
    start: Option<u64>,
    gone: bool,
}

/// The processes that own VMs.
pub(super) struct Processes {
    by_pid: HashMap<u32, Process>,
    all_seen: bool,
}

impl Processes {
    pub(super) fn new() -> Self {
        Self { by_pid: HashMap::new(), all_seen: sees_all_processes() }
    }

    /// Whether process `pid`, as it was when first asked for, is gone. Number 0 means unknown and is
    /// never gone; neither is any that a container hides.
    pub(super) fn is_gone(&mut self, pid: u32) -> bool {
        if pid == 0 || !self.all_seen {
            return false;
        }
        let process = self.get(pid);
        if !process.gone {
            process.gone = match start_time(pid) {
                Start::Gone => true,
                Start::Unknown => false,
                Start::At(ticks) => process.start.is_some_and(|start| start != ticks),
            };
        }
        process.gone
    }

    /// Drops what is known of process `pid`.
    pub(super) fn forget(&mut self, pid: u32) {
        self.by_pid.remove(&pid);
    }

    fn get(&mut self, pid: u32) -> &mut Process {
        self.by_pid.entry(pid).or_insert_with(|| {
            let (start, gone) = match start_time(pid) {
                Start::At(ticks) => (Some(ticks), false),
                Start::Unknown => (None, false),
                Start::Gone => (None, true),
            };
            Process { start, gone }
        })
    }
}

enum Start {
    At(u64),
    Gone,
    Unknown,
}

fn start_time(pid: u32) -> Start {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => parse_stat(&stat),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Start::Gone,
        // ESRCH: it went between the opening and the reading.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Start::Gone,
        Err(_) => Start::Unknown,
    }
}

/// State, number of threads and start time from `/proc/PID/stat` (`fs/proc/array.c:do_task_stat`:
/// fields 3, 20 and 22). The name, field 2, may contain anything, so fields count from the last
/// parenthesis.
fn parse_stat(stat: &str) -> Start {
    let Some((_, rest)) = stat.rsplit_once(')') else { return Start::Unknown };
    let mut fields = rest.split_whitespace();
    let (state, threads, start) = (fields.next(), fields.nth(16), fields.nth(1));
    let (Some(state), Some(Ok(threads)), Some(Ok(start))) =
        (state, threads.map(str::parse::<u32>), start.map(str::parse))
    else {
        return Start::Unknown;
    };
    // A zombie has closed its files, so its VMs are gone; but the first thread of a process may end
    // before those that run vCPUs.
    if matches!(state, "Z" | "X") && threads <= 1 { Start::Gone } else { Start::At(start) }
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
        assert!(matches!(parse_stat(STAT), Start::At(12345)));
        let zombie = STAT.replace(" S ", " Z ");
        assert!(matches!(parse_stat(&zombie), Start::Gone));
        assert!(matches!(parse_stat(&zombie.replace(" 20 0 1 ", " 20 0 3 ")), Start::At(12345)));
        assert!(matches!(parse_stat("nonsense"), Start::Unknown));
        assert!(matches!(parse_stat("7 (a) S 1"), Start::Unknown));
    }

    #[test]
    fn where_processes_are_hidden_none_is_gone() {
        let mut processes = Processes { by_pid: HashMap::new(), all_seen: false };
        assert!(!processes.is_gone(u32::MAX));
    }

    #[test]
    fn this_process_is_there_and_an_impossible_one_is_not() {
        let mut processes = Processes { by_pid: HashMap::new(), all_seen: true };
        assert!(!processes.is_gone(std::process::id()));
        assert!(processes.is_gone(u32::MAX));
        assert!(!processes.is_gone(0));
    }
}
