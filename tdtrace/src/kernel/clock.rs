//! The clocksource: what a timestamp in a probe costs, and whether one may be taken at all.
//!
//! Pure over text. Reading ktime under hpet inside a #VE of the HPET page waits for a lock that its
//! own CPU holds.

use std::path::Path;

use super::seen::{self, Seen};

/// The clocksource of the running kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The one in use.
    pub current: Seen<String>,
    /// All that it could use, best first.
    pub available: Seen<Vec<String>>,
}

impl Clock {
    pub(super) fn read(root: &Path) -> Self {
        let file =
            |name| seen::line(root, &format!("sys/devices/system/clocksource/clocksource0/{name}"));
        Self {
            current: file("current_clocksource"),
            available: file("available_clocksource")
                .map(|line| line.split_ascii_whitespace().map(str::to_owned).collect()),
        }
    }

    /// Whether a timestamp is a register read and some arithmetic: no MMIO, no port, no lock.
    #[must_use]
    pub fn is_cheap(&self) -> Option<bool> {
        self.current.known().map(|name| Self::is_register(name))
    }

    /// Whether the clocksource `name` is read from a register.
    #[must_use]
    pub fn is_register(name: &str) -> bool {
        matches!(name, "tsc" | "kvm-clock")
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_clocksource_is_read_and_judged() {
        let root = tempfile::tempdir().unwrap();
        assert_eq!(Clock::read(root.path()).current, Seen::Absent);
        assert_eq!(Clock::read(root.path()).is_cheap(), None);

        let directory = root.path().join("sys/devices/system/clocksource/clocksource0");
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("current_clocksource"), "hpet\n").unwrap();
        fs::write(directory.join("available_clocksource"), "tsc hpet acpi_pm \n").unwrap();
        let clock = Clock::read(root.path());
        assert_eq!(clock.is_cheap(), Some(false));
        assert_eq!(clock.available.known().unwrap(), &["tsc", "hpet", "acpi_pm"]);
        assert!(Clock::is_register("kvm-clock") && !Clock::is_register("acpi_pm"));
    }
}
