//! Which rows to show: one grammar for the terminal and `--filter`.
//!
//! ```text
//! or    = and { ("or" | "|") and }
//! and   = not { ["and" | "&"] not }
//! not   = ("!" | "not") not | "(" or ")" | term
//! term  = KEY ("=" | "!=" | "<" | "<=" | ">" | ">=") VALUE | WORD
//! ```
//!
//! A KEY is a column of the registry; `_ns` and `_pct` at its end may be left out. Text is compared
//! without case, `*` and `?` stand for any characters. Numbers may be hexadecimal and end in `k`, `M`,
//! `G`, `%`, `ns`, `us`, `ms` or `s`. A WORD is looked for in every text of a row.
//!
//! A row that belongs to a VM has the columns of that VM too, its own first. A term on a column that a
//! row does not have is as if it were not there.

mod glob;
mod parse;

use thiserror::Error;

use super::{
    field::{self, Row, Value},
    snapshot::Vm,
};

/// Why an expression is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} (character {at})")]
pub struct FilterError {
    /// Which character, from 1.
    pub at: usize,
    /// One sentence, with the next step.
    pub message: String,
}

/// A parsed expression.
#[derive(Clone, Debug, PartialEq)]
pub struct Filter {
    root: Node,
    text: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    Word(String),
    Term(Term),
}

#[derive(Clone, Debug, PartialEq)]
struct Term {
    key: String,
    relation: Relation,
    /// As it was given, in lower case.
    text: String,
    number: Option<Number>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Relation {
    fn holds<T: PartialOrd>(self, left: &T, right: &T) -> bool {
        match self {
            Self::Equal => left == right,
            Self::NotEqual => left != right,
            Self::Less => left < right,
            Self::LessOrEqual => left <= right,
            Self::Greater => left > right,
            Self::GreaterOrEqual => left >= right,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    None,
    Time,
    Percent,
}

/// What a number in a term stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number {
    /// Exact where it is a whole number without a unit.
    whole: Option<u64>,
    value: f64,
    unit: Unit,
}

impl Filter {
    /// Reads an expression.
    ///
    /// # Errors
    /// When it is none, or names a column that no table has; with the place and the next step.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        Self::parse_with(text, &field::keys())
    }

    /// Reads an expression whose columns are among `columns`, keys with their help.
    ///
    /// # Errors
    /// As [`Filter::parse`].
    pub fn parse_with(text: &str, columns: &[(&str, &str)]) -> Result<Self, FilterError> {
        parse::parse(text, columns).map(|root| Self { root, text: text.trim().to_owned() })
    }

    /// The expression as it was given.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `row`, which belongs to `vm`, is to be shown.
    pub fn keeps<R: Row>(&self, row: &R, vm: Option<&Vm>) -> bool {
        self.root.holds(&Cells { row, vm }).unwrap_or(true)
    }
}

/// Whether `filter`, if there is one, keeps `row`.
pub fn keeps<R: Row>(filter: Option<&Filter>, row: &R, vm: Option<&Vm>) -> bool {
    filter.is_none_or(|filter| filter.keeps(row, vm))
}

/// A row and the VM that it belongs to.
struct Cells<'a, R> {
    row: &'a R,
    vm: Option<&'a Vm>,
}

impl<R: Row> Cells<'_, R> {
    /// Values of the columns that `key` may mean, the row's own first.
    fn values(&self, key: &str) -> impl Iterator<Item = Value> {
        let of_vm = self.vm.into_iter().flat_map(move |vm| values(vm, key));
        values(self.row, key).chain(of_vm)
    }

    fn has_text(&self, word: &str) -> bool {
        has_text(self.row, word) || self.vm.is_some_and(|vm| has_text(vm, word))
    }
}

fn values<R: Row>(row: &R, key: &str) -> impl Iterator<Item = Value> {
    let fields = R::FIELDS.iter().filter(move |field| means(key, field.key));
    fields.map(move |field| (field.value)(row))
}

/// Whether `key`, as typed, means the column `field`.
fn means(key: &str, field: &str) -> bool {
    let rest = field.strip_prefix(key);
    rest.is_some_and(|rest| matches!(rest, "" | "_ns" | "_pct"))
}

fn has_text<R: Row>(row: &R, word: &str) -> bool {
    // Columns on the right are numbers, and some of them take long to find.
    let mut texts = R::FIELDS.iter().filter(|field| !field.right);
    texts.any(|field| match (field.value)(row) {
        Value::Text(text) => glob::contains(&text.to_lowercase(), word),
        Value::Flag(true, text) => glob::contains(&text.to_lowercase(), word),
        _ => false,
    })
}

impl Node {
    /// `None` if it says nothing about the row.
    fn holds<R: Row>(&self, cells: &Cells<'_, R>) -> Option<bool> {
        match self {
            Self::All(nodes) => nodes.iter().filter_map(|node| node.holds(cells)).reduce(and),
            Self::Any(nodes) => nodes.iter().filter_map(|node| node.holds(cells)).reduce(or),
            Self::Not(node) => node.holds(cells).map(|holds| !holds),
            Self::Word(word) => Some(cells.has_text(word)),
            Self::Term(term) => term.holds(cells.values(&term.key)),
        }
    }
}

fn and(one: bool, other: bool) -> bool {
    one && other
}

fn or(one: bool, other: bool) -> bool {
    one || other
}

impl Term {
    /// By the first of `values` that can be compared; not at all if none can.
    fn holds(&self, values: impl Iterator<Item = Value>) -> Option<bool> {
        let mut unlike = None;
        for value in values {
            if let Some(holds) = self.compare(&value) {
                return Some(holds);
            }
            unlike = Some(self.relation == Relation::NotEqual);
        }
        unlike
    }

    /// `None` where `value` is of another kind.
    fn compare(&self, value: &Value) -> Option<bool> {
        let units = |unit| {
            self.number.filter(|number| matches!(number.unit, Unit::None) || number.unit == unit)
        };
        match value {
            Value::Text(text) => self.compare_text(text),
            Value::Flag(set, word) => self.compare_text(if *set { word } else { "" }),
            Value::Id(whole) | Value::Count(whole) | Value::Hex(whole) | Value::Bytes(whole) => {
                let plain = || match value {
                    Value::Hex(number) => format!("{number:#x}"),
                    _ => whole.to_string(),
                };
                match self.number {
                    Some(number) if number.unit == Unit::None => {
                        Some(self.compare_whole(*whole, number))
                    }
                    Some(_) => None,
                    None => self.compare_text(&plain()),
                }
            }
            Value::Rate(Some(rate)) => {
                units(Unit::None).map(|number| self.relation.holds(rate, &number.value))
            }
            #[expect(clippy::cast_precision_loss, reason = "compared with what is no whole number")]
            Value::Balance(bytes) => {
                let bytes = *bytes as f64;
                units(Unit::None).map(|number| self.relation.holds(&bytes, &number.value))
            }
            Value::Percent(percent) => {
                units(Unit::Percent).map(|number| self.relation.holds(percent, &number.value))
            }
            Value::Nanos(ns) | Value::AtMost(ns) => {
                units(Unit::Time).map(|number| self.compare_whole(*ns, number))
            }
            Value::Rate(None) | Value::None | Value::Figure(_) => None,
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "compared with what is no whole number")]
    fn compare_whole(&self, whole: u64, number: Number) -> bool {
        match number.whole {
            Some(other) => self.relation.holds(&whole, &other),
            None => self.relation.holds(&(whole as f64), &number.value),
        }
    }

    fn compare_text(&self, text: &str) -> Option<bool> {
        let equal = || glob::matches(&text.to_lowercase(), &self.text);
        match self.relation {
            Relation::Equal => Some(equal()),
            Relation::NotEqual => Some(!equal()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
