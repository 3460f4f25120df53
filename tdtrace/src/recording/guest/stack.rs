//! Stacks by number, and names by address.

use std::sync::Arc;

use super::{
    super::{
        Error,
        kind::Kind,
        row::{Key, Malformed, Row},
    },
    told::Told,
};

/// Stacks.
pub(super) struct Stacks;

impl Told for Stacks {
    type Key = i32;
    type Begun = Vec<u64>;
    type Value = Arc<[u64]>;
    const CLEARED: Kind = Kind::StacksCleared;

    fn rows(number: &i32, frames: &Arc<[u64]>) -> Result<Vec<Row>, Error> {
        let index = number.cast_unsigned();
        let first = Row::number(Kind::Stack, index, frames.len() as u64);
        let frame = |(position, address): (u64, &u64)| Row {
            key: Key { kind: Kind::StackFrame, index, address: *address, size: 0 },
            value: position,
            text: None,
        };
        Ok(std::iter::once(first).chain((0..).zip(frames.iter()).map(frame)).collect())
    }

    fn begin(row: &Row) -> Result<Option<(i32, Vec<u64>)>, Malformed> {
        let begins = row.key.kind == Kind::Stack;
        Ok(begins.then(|| (row.key.index.cast_signed(), Vec::new())))
    }

    fn take(number: &i32, frames: &mut Vec<u64>, row: &Row) -> Result<bool, Malformed> {
        if row.key.kind != Kind::StackFrame {
            return Ok(false);
        }
        if row.key.index != number.cast_unsigned() || row.value != frames.len() as u64 {
            return Err(Malformed("a frame of another stack"));
        }
        frames.push(row.key.address);
        Ok(true)
    }
}

/// Names of code addresses.
pub(super) struct Names;

impl Told for Names {
    type Key = u64;
    type Begun = Arc<str>;
    type Value = Arc<str>;
    const CLEARED: Kind = Kind::CodeNamesCleared;

    fn rows(address: &u64, name: &Arc<str>) -> Result<Vec<Row>, Error> {
        let mut row = Row::text(Kind::CodeName, 0, name);
        row.key.address = *address;
        Ok(vec![row])
    }

    fn begin(row: &Row) -> Result<Option<(u64, Arc<str>)>, Malformed> {
        let begins = row.key.kind == Kind::CodeName;
        Ok(begins.then(|| (row.key.address, row.as_text().into())))
    }

    fn take(_: &u64, _: &mut Arc<str>, _: &Row) -> Result<bool, Malformed> {
        Ok(false)
    }
}
