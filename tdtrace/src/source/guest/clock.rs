//! The clocksource, watched: the programs may read the clock only while that is a register.

use std::path::Path;

use crate::{kernel::clock::Clock, model::guest::sample::ClockState};

/// Looks at the clocksource below a root.
pub(super) struct Watch {
    path: Box<Path>,
    state: ClockState,
}

impl Watch {
    pub(super) fn new(root: &Path) -> Self {
        let path = root.join("sys/devices/system/clocksource/clocksource0/current_clocksource");
        let mut watch = Self { path: path.into(), state: ClockState::default() };
        watch.look();
        watch.state.changes = 0;
        watch
    }

    /// Looks again; whether the programs are to be told something else than before.
    pub(super) fn look(&mut self) -> bool {
        let name = std::fs::read_to_string(&self.path).unwrap_or_default();
        let name = name.trim();
        if name == self.state.name {
            return false;
        }
        let used = Clock::is_register(name);
        let changed = used != self.state.used;
        self.state.changes += 1;
        self.state.used = used;
        self.state.name = name.chars().filter(|c| !c.is_control()).collect();
        changed
    }

    /// What was seen last.
    pub(super) fn state(&self) -> &ClockState {
        &self.state
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_change_to_a_slow_clocksource_is_noticed_and_a_missing_one_is_not_used() {
        let root = tempfile::tempdir().unwrap();
        assert!(!Watch::new(root.path()).state().used);
        let directory = root.path().join("sys/devices/system/clocksource/clocksource0");
        fs::create_dir_all(&directory).unwrap();
        let set = |name: &str| fs::write(directory.join("current_clocksource"), name).unwrap();
        set("tsc\n");
        let mut watch = Watch::new(root.path());
        assert!(watch.state().used && !watch.look());
        set("kvm-clock\n");
        assert!(!watch.look() && watch.state().used);
        set("hpet\n");
        assert!(watch.look());
        let expected = ClockState { name: "hpet".into(), used: false, changes: 2 };
        assert_eq!(watch.state(), &expected);
    }
}
