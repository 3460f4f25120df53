//! The licences of what tdtrace is linked from, held against the list in `deny.toml`.
//!
//! The file is cargo-deny's format, so that tool reads the same list; here only `allow` is read,
//! because building cargo-deny takes longer than all of tdtrace.

use std::fs;

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::Value;

use crate::workspace;

/// Longer expressions are refused before they are read.
const EXPRESSION_MAX: usize = 1000;

/// What the check found.
#[derive(Debug)]
pub(crate) struct Found {
    /// Packages looked at, those of the workspace included.
    pub(crate) packages: usize,
    /// One line for each package whose licence is not allowed.
    pub(crate) refused: Vec<String>,
}

/// Checks every package that is built for `metadata`'s platform.
///
/// # Errors
/// When `deny.toml` or the metadata cannot be read.
pub(crate) fn check(metadata: &Value) -> Result<Found> {
    let file = workspace::root().join("deny.toml");
    let text =
        fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let allowed = allow_list(&text)?;
    // The packages list also names those of other platforms; the resolved nodes do not.
    let resolve =
        metadata.get("resolve").ok_or_else(|| anyhow!("cargo metadata did not resolve"))?;
    let built: Vec<&str> =
        workspace::list(resolve, "nodes")?.iter().map(|node| workspace::text(node, "id")).collect();
    let mut found = Found { packages: 0, refused: Vec::new() };
    for package in workspace::list(metadata, "packages")? {
        if !built.contains(&workspace::text(package, "id")) {
            continue;
        }
        found.packages += 1;
        let licence = workspace::text(package, "license");
        let why = match satisfied(licence, &allowed) {
            Ok(true) => continue,
            Ok(false) => format!("`{licence}` is not in deny.toml"),
            Err(error) => error.to_string(),
        };
        let (name, version) =
            (workspace::text(package, "name"), workspace::text(package, "version"));
        found.refused.push(format!("{name} {version}: {why}"));
    }
    Ok(found)
}

/// The strings of `allow = [...]` in the table `[licenses]`.
fn allow_list(text: &str) -> Result<Vec<String>> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    let table: String = lines
        .skip_while(|line| *line != "[licenses]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect::<Vec<_>>()
        .join("\n");
    let list = table
        .split("\n")
        .skip_while(|line| !line.starts_with("allow"))
        .collect::<Vec<_>>()
        .join(" ");
    let inner = list
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'))
        .map(|(inner, _)| inner)
        .ok_or_else(|| anyhow!("deny.toml has no `allow` list in [licenses]"))?;
    let allowed: Vec<String> = inner
        .split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect();
    if allowed.is_empty() {
        bail!("deny.toml allows no licence");
    }
    Ok(allowed)
}

/// Whether an SPDX expression can be met with the allowed licences alone.
fn satisfied(expression: &str, allowed: &[String]) -> Result<bool> {
    if expression.is_empty() {
        bail!("no licence is declared");
    }
    if expression.len() > EXPRESSION_MAX {
        bail!("the licence expression has {} characters", expression.len());
    }
    // Old crates separate alternatives with a slash.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut words = spaced.split_whitespace().peekable();
    let met = either(&mut words, allowed)?;
    match words.next() {
        None => Ok(met),
        Some(word) => bail!("`{expression}` is no licence expression at `{word}`"),
    }
}

type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

/// `both { OR both }`
fn either(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut met = both(words, allowed)?;
    while words.next_if_eq(&"OR").is_some() {
        met |= both(words, allowed)?;
    }
    Ok(met)
}

/// `single { AND single }`
fn both(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    let mut met = single(words, allowed)?;
    while words.next_if_eq(&"AND").is_some() {
        met &= single(words, allowed)?;
    }
    Ok(met)
}

/// A licence, one with its exception, or an expression in parentheses.
fn single(words: &mut Words<'_>, allowed: &[String]) -> Result<bool> {
    match words.next() {
        Some("(") => {
            let met = either(words, allowed)?;
            match words.next() {
                Some(")") => Ok(met),
                _ => bail!("a parenthesis of the licence expression is not closed"),
            }
        }
        Some(word) if !matches!(word, ")" | "OR" | "AND" | "WITH") => {
            let mut name = word.to_owned();
            if words.next_if_eq(&"WITH").is_some() {
                name = format!("{name} WITH {}", words.next().unwrap_or_default());
            }
            Ok(allowed.contains(&name))
        }
        word => bail!("the licence expression lacks a name before `{}`", word.unwrap_or("its end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed() -> Vec<String> {
        ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]
            .map(Into::into)
            .into()
    }

    fn met(expression: &str) -> bool {
        satisfied(expression, &allowed()).unwrap()
    }

    #[test]
    fn one_allowed_alternative_is_enough() {
        assert!(met("MIT OR GPL-2.0-only"));
        assert!(met("GPL-2.0-only OR MIT"));
        assert!(met("GPL-2.0-only/MIT"));
        assert!(!met("GPL-2.0-only OR LGPL-2.1-or-later"));
    }

    #[test]
    fn of_a_conjunction_every_part_must_be_allowed() {
        assert!(met("(MIT OR GPL-2.0-only) AND Unicode-3.0"));
        assert!(!met("MIT AND GPL-2.0-only"));
    }

    #[test]
    fn and_binds_closer_than_or() {
        assert!(met("MIT OR Apache-2.0 AND GPL-2.0-only"));
        assert!(!met("(MIT OR Apache-2.0) AND GPL-2.0-only"));
    }

    #[test]
    fn a_licence_with_an_exception_is_another_licence() {
        assert!(met("Apache-2.0 WITH LLVM-exception"));
        assert!(!met("MIT WITH LLVM-exception"));
    }

    #[test]
    fn what_is_no_expression_is_an_error() {
        for text in ["", "MIT OR", "(MIT", "MIT)", "OR MIT", "MIT Apache-2.0"] {
            assert!(satisfied(text, &allowed()).is_err(), "{text}");
        }
        assert!(satisfied(&"(".repeat(100_000), &allowed()).is_err());
    }

    #[test]
    fn the_list_is_read_from_its_own_table() {
        let text = "[bans]\nallow = [\"x\"]\n[licenses]\n# allow = [\"y\"]\nallow = [\n  \"MIT\", # why\n  \
                    \"ISC\",\n]\nunused = 1\n[sources]\nallow = [\"z\"]\n";
        assert_eq!(allow_list(text).unwrap(), ["MIT", "ISC"]);
        assert!(allow_list("[bans]\nallow = [\"x\"]\n").is_err());
    }

    #[test]
    fn the_projects_own_list_has_no_gpl() {
        let text = fs::read_to_string(workspace::root().join("deny.toml")).unwrap();
        let list = allow_list(&text).unwrap();
        assert!(list.contains(&"MIT".to_owned()));
        assert!(!list.iter().any(|licence| licence.contains("GPL")), "{list:?}");
    }
}
