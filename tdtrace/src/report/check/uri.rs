//! Source files as SARIF names them. Pure.

use std::fmt::Write as _;

/// A file as a URI, and whether that is relative to the root of the sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Uri {
    pub(super) uri: String,
    pub(super) is_relative: bool,
}

/// The URI of `file` as a compiler was given it. What lies below `root` is named relative to it.
pub(super) fn uri(file: &str, root: Option<&str>) -> Uri {
    let path = normal(file);
    let below = root.and_then(|root| {
        let root = normal(root);
        path.strip_prefix(&root)?.strip_prefix('/').map(str::to_owned)
    });
    match (below, path.starts_with('/')) {
        (Some(below), _) => Uri { uri: encoded(&below), is_relative: true },
        (None, true) => Uri { uri: format!("file://{}", encoded(&path)), is_relative: false },
        (None, false) => Uri { uri: encoded(&path), is_relative: true },
    }
}

/// `path` without `.`, doubled slashes and `..` behind a name.
fn normal(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let slash = if path.starts_with('/') { "/" } else { "" };
    format!("{slash}{}", parts.join("/"))
}

/// RFC 3986: all but unreserved characters and slashes as `%XX`.
fn encoded(path: &str) -> String {
    path.bytes().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            text.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_relative_or_below_the_root_is_named_relative_to_it() {
        for (file, root, expected) in [
            ("./drivers/net/acme.c", None, "drivers/net/acme.c"),
            ("drivers/net/../acme nic.c", None, "drivers/acme%20nic.c"),
            ("../acme.c", None, "../acme.c"),
            ("/home/ci/acme/main.c", Some("/home/ci/acme/"), "main.c"),
            ("/home/ci/acme/./sub//x.c", Some("/home/ci/./acme"), "sub/x.c"),
        ] {
            let expected = Uri { uri: expected.to_owned(), is_relative: true };
            assert_eq!(uri(file, root), expected, "{file}");
        }
    }

    #[test]
    fn what_is_elsewhere_is_absolute() {
        for (file, expected) in [
            ("/home/ci/acme2/x.c", "file:///home/ci/acme2/x.c"),
            ("/usr/src/a:b?#%.c", "file:///usr/src/a%3Ab%3F%23%25.c"),
        ] {
            let expected = Uri { uri: expected.to_owned(), is_relative: false };
            assert_eq!(uri(file, Some("/home/ci/acme")), expected, "{file}");
        }
    }
}
