//! Lists of things with numbers: which there are, in which order, and of each the numbers that moved.
//!
//! A thing has a number in the order of appearance, in the column `slot`. The list is written when it is
//! another one than in the sample before; a number when it is another one, first of all when it is not 0.

use std::{borrow::Cow, collections::HashMap, hash::Hash, io::Write};

use super::super::{
    Error,
    kind::Kind,
    output::{Output, Subject, next},
    row::{Key, Malformed, Row},
};

/// A kind of thing.
pub(super) trait Counted {
    /// What tells one from another.
    type Key: Copy + Eq + Hash;
    /// Its numbers.
    type Value: Copy + PartialEq;
    /// What begins the list.
    const LIST: Kind;

    /// The numbers of one that has not been counted yet.
    fn nothing() -> Self::Value;

    /// The row of one in the list, of the kind that follows [`Counted::LIST`].
    fn item(key: Self::Key) -> Result<Row, Error>;

    /// What `row` lists; `None` if it is of another kind.
    fn listed(row: &Row) -> Result<Option<Self::Key>, Malformed>;

    /// Appends the numbers of `new` that are others than those of `old`.
    fn rows(key: Self::Key, old: &Self::Value, new: &Self::Value, rows: &mut Vec<Row>);

    /// Puts the number of `row` into `value`; whether it is one of them.
    fn take(value: &mut Self::Value, row: &Row) -> Result<bool, Malformed>;

    /// What the index of a row is called.
    fn name(index: u32) -> Cow<'static, str>;
}

/// What has been written.
pub(super) struct Written<T: Counted> {
    of: HashMap<T::Key, (u32, T::Value)>,
    listed: Vec<u32>,
    last: u32,
}

impl<T: Counted> Default for Written<T> {
    fn default() -> Self {
        Self { of: HashMap::new(), listed: Vec::new(), last: 0 }
    }
}

impl<T: Counted> Written<T> {
    /// Writes what turns the things before into `now`.
    pub(super) fn write<W: Write>(
        &mut self,
        now: &[(T::Key, T::Value)],
        output: &mut Output<W>,
    ) -> Result<(), Error> {
        let mut of = HashMap::with_capacity(now.len());
        let mut listed = Vec::with_capacity(now.len());
        let mut moved = Vec::new();
        for (key, value) in now {
            let (slot, old) = match self.of.remove(key) {
                Some(known) => known,
                None => (next(&mut self.last)?, T::nothing()),
            };
            if old != *value {
                moved.push((slot, *key, old, *value));
            }
            of.insert(*key, (slot, *value));
            listed.push(slot);
        }
        self.of = of;
        let row = |output: &mut Output<W>, slot, row: &Row| {
            let name = T::name(row.key.index);
            output.row(Subject { slot, ..Subject::default() }, row, &name)
        };
        if self.listed != listed {
            let count = Row::number(T::LIST, 0, listed.len() as u64);
            output.row(Subject::default(), &count, "")?;
            for (slot, (key, _)) in listed.iter().zip(now) {
                row(output, *slot, &T::item(*key)?)?;
            }
            self.listed = listed;
        }
        let mut rows = Vec::new();
        for (slot, key, old, new) in moved {
            T::rows(key, &old, &new, &mut rows);
            rows.drain(..).try_for_each(|moved| row(output, slot, &moved))?;
        }
        Ok(())
    }
}

/// What has been read.
pub(super) struct Read<T: Counted> {
    now: Vec<(T::Key, T::Value)>,
    /// Where in `now` a number is.
    at: HashMap<u32, usize>,
    /// Those of the list before that are not in this one so far.
    before: HashMap<u32, (T::Key, T::Value)>,
}

impl<T: Counted> Default for Read<T> {
    fn default() -> Self {
        Self { now: Vec::new(), at: HashMap::new(), before: HashMap::new() }
    }
}

impl<T: Counted> Read<T> {
    /// Takes `row` of `slot` if it is about these things.
    pub(super) fn take(&mut self, slot: u32, row: &Row) -> Result<bool, Malformed> {
        if row.key.kind == T::LIST {
            let all = std::mem::take(&mut self.now);
            let known = self.at.drain().filter_map(|(slot, at)| Some((slot, *all.get(at)?)));
            self.before = known.collect();
            return Ok(true);
        }
        if let Some(key) = T::listed(row)? {
            let (known, value) = self.before.remove(&slot).unwrap_or_else(|| (key, T::nothing()));
            if known != key {
                return Err(Malformed("one number for two things"));
            }
            if self.at.insert(slot, self.now.len()).is_some() {
                return Err(Malformed("a list that has one thing twice"));
            }
            self.now.push((key, value));
            return Ok(true);
        }
        let mut other = T::nothing();
        let found = self.at.get(&slot).and_then(|at| self.now.get_mut(*at));
        let is_listed = found.is_some();
        let is_ours = T::take(found.map_or(&mut other, |(_, value)| value), row)?;
        if is_ours && !is_listed {
            return Err(Malformed("a number of something that is not listed"));
        }
        Ok(is_ours)
    }

    /// Bytes that are kept, and that a sample takes.
    pub(super) fn weight(&self) -> usize {
        let each = 3 * size_of::<(T::Key, T::Value)>() + 64;
        each * (self.now.len() + self.before.len())
    }

    /// All of them, in the order of the list.
    pub(super) fn finish(&mut self) -> Vec<(T::Key, T::Value)> {
        self.before = HashMap::new();
        self.now.clone()
    }
}

/// A number as the column `value` has it.
pub(super) trait Number: Copy + PartialEq {
    /// As 64 bits.
    fn wide(self) -> u64;
    /// The number of 64 bits, if they are one.
    fn narrow(value: u64) -> Option<Self>;
}

impl Number for u64 {
    fn wide(self) -> u64 {
        self
    }

    fn narrow(value: u64) -> Option<Self> {
        Some(value)
    }
}

impl Number for u32 {
    fn wide(self) -> u64 {
        self.into()
    }

    fn narrow(value: u64) -> Option<Self> {
        Self::try_from(value).ok()
    }
}

impl Number for i32 {
    fn wide(self) -> u64 {
        self.cast_unsigned().into()
    }

    fn narrow(value: u64) -> Option<Self> {
        u32::try_from(value).ok().map(u32::cast_signed)
    }
}

/// Appends the row of a number that is another one than before.
pub(super) fn push<N: Number>(rows: &mut Vec<Row>, key: Key, old: N, new: N) {
    if old != new {
        rows.push(Row { key, value: new.wide(), text: None });
    }
}

/// Puts the number of `row` where it belongs.
pub(super) fn put<N: Number>(number: &mut N, row: &Row) -> Result<(), Malformed> {
    *number = N::narrow(row.value).ok_or(Malformed("a number that is too large"))?;
    Ok(())
}
