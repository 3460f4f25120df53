//! Small text files of procfs and sysfs, and whether they could be read.
//!
//! Reads below a root that the caller names, so that tests can lay out a machine of their own.

use std::{
    fs::File,
    io::{ErrorKind, Read},
    path::Path,
};

/// Bytes that are read of one file. `/proc/cpuinfo` grows by some 1.5 kB a CPU; its first entry is
/// enough.
const LIMIT: u64 = 1 << 20;

/// A fact, or why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// It was read.
    Is(T),
    /// What would tell it is not there.
    Absent,
    /// What would tell it is there and cannot be read or understood; the reason.
    Unreadable(String),
}

impl<T> Seen<T> {
    /// The fact, if it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Absent | Self::Unreadable(_) => None,
        }
    }

    /// The same with its value changed.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Is(value) => Seen::Is(change(value)),
            Self::Absent => Seen::Absent,
            Self::Unreadable(reason) => Seen::Unreadable(reason),
        }
    }
}

impl Seen<String> {
    /// What `parse` makes of the text; a text that it makes nothing of counts as unreadable.
    pub fn parse<U>(self, parse: impl FnOnce(&str) -> Option<U>) -> Seen<U> {
        match self {
            Self::Is(text) => match parse(&text) {
                Some(value) => Seen::Is(value),
                None => Seen::Unreadable(format!("unexpected text `{}`", first_line(&text))),
            },
            Self::Absent => Seen::Absent,
            Self::Unreadable(reason) => Seen::Unreadable(reason),
        }
    }
}

/// The text of the file at `path` below `root`, up to a megabyte.
pub(super) fn text(root: &Path, path: &str) -> Seen<String> {
    let mut bytes = Vec::new();
    let read =
        File::open(root.join(path)).and_then(|file| file.take(LIMIT).read_to_end(&mut bytes));
    match read {
        Ok(_) => Seen::Is(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => unreadable(&error),
    }
}

/// The first line of the file at `path` below `root`, fit to be printed.
pub(super) fn line(root: &Path, path: &str) -> Seen<String> {
    text(root, path).map(|text| first_line(&text))
}

/// Why something was not read.
pub(super) fn unreadable<T>(error: &std::io::Error) -> Seen<T> {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Seen::Absent,
        kind => Seen::Unreadable(kind.to_string()),
    }
}

/// The first line without what could steer a terminal, at most 200 characters.
pub(crate) fn first_line(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default().trim();
    line.chars().map(|c| if c.is_control() { '?' } else { c }).take(200).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_is_its_text_absent_or_unreadable() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), " 42 \nmore").unwrap();
        fs::create_dir(root.path().join("directory")).unwrap();
        assert_eq!(line(root.path(), "file"), Seen::Is("42".into()));
        assert_eq!(line(root.path(), "nothing"), Seen::Absent);
        assert_eq!(line(root.path(), "file/below"), Seen::Absent);
        assert!(matches!(line(root.path(), "directory"), Seen::Unreadable(_)));
    }

    #[test]
    fn what_could_steer_a_terminal_is_taken_out() {
        assert_eq!(first_line("6.1\x1b[31m red\nsecond"), "6.1?[31m red");
        assert_eq!(first_line(&"x".repeat(1000)).len(), 200);
    }

    #[test]
    fn text_that_means_nothing_is_unreadable_and_quoted() {
        let seen: Seen<u32> = Seen::Is("many\n".to_owned()).parse(|text| text.parse().ok());
        assert_eq!(seen, Seen::Unreadable("unexpected text `many`".into()));
    }
}
