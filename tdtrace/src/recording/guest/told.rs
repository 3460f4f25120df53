//! What is said once: of a stack, of an address of code, of a device. If it is another one later, or
//! gone, all that was said of its like is taken back and said anew.

use std::{collections::BTreeMap, io::Write};

use super::super::{
    Error,
    kind::Kind,
    output::{Output, Subject},
    row::{Malformed, Row},
};

/// Bytes that a reader keeps of a thing, beside its rows.
const THING: usize = 384;
/// The same of a row, beside its text.
const ROW: usize = 64;

/// Something about which several rows may be said.
pub(super) trait Told: Sized {
    /// What it is said of.
    type Key: Copy + Ord;
    /// It while rows are still to come.
    type Begun;
    /// It when all rows are there.
    type Value: Clone + PartialEq + From<Self::Begun>;
    /// What takes back all that was said.
    const CLEARED: Kind;

    /// The rows that say it. The first one begins.
    fn rows(key: &Self::Key, value: &Self::Value) -> Result<Vec<Row>, Error>;

    /// What `row` begins; `None` if it does not begin anything.
    fn begin(row: &Row) -> Result<Beginning<Self>, Malformed>;

    /// Adds `row` to what has begun; whether it can be said of it.
    fn take(key: &Self::Key, begun: &mut Self::Begun, row: &Row) -> Result<bool, Malformed>;

    /// What the index of a row is called.
    fn name(_row: &Row) -> &'static str {
        ""
    }
}

/// What a row may begin.
pub(super) type Beginning<T> = Option<(<T as Told>::Key, <T as Told>::Begun)>;

/// Things as a sample has them.
pub(super) type Things<T> = BTreeMap<<T as Told>::Key, <T as Told>::Value>;

/// Writes what turns `before` into `now`.
pub(super) fn write<T: Told, W: Write>(
    before: &mut Things<T>,
    now: &Things<T>,
    output: &mut Output<W>,
) -> Result<(), Error> {
    if before == now {
        return Ok(());
    }
    if before.iter().any(|(key, value)| now.get(key) != Some(value)) {
        output.row(Subject::default(), &Row::number(T::CLEARED, 0, 0), "")?;
        before.clear();
    }
    for (key, value) in now.iter().filter(|(key, _)| !before.contains_key(key)) {
        for row in T::rows(key, value)? {
            output.row(Subject::default(), &row, T::name(&row))?;
        }
    }
    *before = now.clone();
    Ok(())
}

/// What has been read.
pub(super) struct Read<T: Told> {
    things: Things<T>,
    begun: Option<(T::Key, T::Begun)>,
    weight: usize,
}

impl<T: Told> Default for Read<T> {
    fn default() -> Self {
        Self { things: BTreeMap::new(), begun: None, weight: 0 }
    }
}

impl<T: Told> Read<T> {
    /// Takes `row` if it is about these things.
    pub(super) fn take(&mut self, row: &Row) -> Result<bool, Malformed> {
        if row.key.kind == T::CLEARED {
            *self = Self::default();
            return Ok(true);
        }
        if let Some(begun) = T::begin(row)? {
            self.end()?;
            self.begun = Some(begun);
            self.weight += THING;
        } else {
            let Some((key, begun)) = &mut self.begun else { return Ok(false) };
            if !T::take(key, begun, row)? {
                return Ok(false);
            }
        }
        self.weight += ROW + 2 * row.as_text().len();
        Ok(true)
    }

    /// What has begun is whole.
    fn end(&mut self) -> Result<(), Malformed> {
        let Some((key, begun)) = self.begun.take() else { return Ok(()) };
        match self.things.insert(key, begun.into()) {
            None => Ok(()),
            Some(_) => Err(Malformed("something said twice")),
        }
    }

    /// Bytes that are kept, and that a sample takes.
    pub(super) const fn weight(&self) -> usize {
        self.weight
    }

    /// All of them.
    pub(super) fn finish(&mut self) -> Result<Things<T>, Malformed> {
        self.end()?;
        Ok(self.things.clone())
    }
}
