//! Which processes are still there. A VM whose process is gone has ended, and its slots can be used
//! again.

use std::{collections::HashMap, fs, time::Instant};

use super::PROCESS_CHECK;

struct Process {
    /// Ticks since boot at which it began; tells it from a later process of the same number.
    start: Option<u64>,
    gone: bool,
    checked: Instant,
}

/// The processes that own VMs.
#[derive(Default)]
pub(super) struct Processes {
    by_pid: HashMap<u32, Process>,
}

impl Processes {
    /// Whether process `pid`, as it was when first asked for, is gone. Number 0 means unknown and is
    /// never gone.
    pub(super) fn is_gone(&mut self, pid: u32) -> bool {
        if pid == 0 {
            return false;
        }
        let process = self.get(pid);
        if !process.gone && process.checked.elapsed() >= PROCESS_CHECK {
            process.checked = Instant::now();
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
            Process { start, gone, checked: Instant::now() }
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

/// State and start time from `/proc/PID/stat` (`fs/proc/array.c:do_task_stat`: fields 3 and 22). The
/// name, field 2, may contain anything, so fields count from the last parenthesis.
fn parse_stat(stat: &str) -> Start {
    let Some((_, rest)) = stat.rsplit_once(')') else { return Start::Unknown };
    let mut fields = rest.split_whitespace();
    match fields.next() {
        // A zombie has closed its files, so its VMs are gone.
        Some("Z" | "X") => return Start::Gone,
        Some(_) => {}
        None => return Start::Unknown,
    }
    fields.nth(18).and_then(|field| field.parse().ok()).map_or(Start::Unknown, Start::At)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1";

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        assert!(matches!(parse_stat(STAT), Start::At(12345)));
        assert!(matches!(parse_stat(&STAT.replace(" S ", " Z ")), Start::Gone));
        assert!(matches!(parse_stat("nonsense"), Start::Unknown));
        assert!(matches!(parse_stat("7 (a) S 1"), Start::Unknown));
    }

    #[test]
    fn this_process_is_there_and_an_impossible_one_is_not() {
        let mut processes = Processes::default();
        assert!(!processes.is_gone(std::process::id()));
        assert!(processes.is_gone(u32::MAX));
        assert!(!processes.is_gone(0));
    }
}
