//! What is counted in a guest: reasons, places and calls with their numbers.

use std::borrow::Cow;

use tdtrace_common::{
    guest::{
        CallKey, CallValue, INSN_BYTES, Operation, VE_OTHER, VE_REASONS, VeKey, VeStats, VeValue,
    },
    latency::bucket_start,
    vmx,
};

use super::{
    super::{
        Error,
        durations::bucket_at,
        kind::Kind,
        row::{Key, Malformed, Row},
    },
    bytes::{escaped, from_hex, hex, unescaped},
    counted::{Counted, push, put},
};

/// A struct of numbers, each of which has a kind of its own.
trait Numbers {
    /// Appends the numbers that are others than in `old`, with `key` but for the kind.
    fn push_moved(&self, old: &Self, key: Key, rows: &mut Vec<Row>);

    /// Puts the number of `row` where it belongs; whether it is one of these.
    fn take_number(&mut self, row: &Row) -> Result<bool, Malformed>;
}

/// Says once which kind each field of a struct is written as. What stands behind `..` is written by
/// hand, or is room that holds nothing.
macro_rules! numbers {
    ($struct:ident { $($field:ident = $kind:ident,)* .. $($rest:ident)* }) => {
        impl Numbers for $struct {
            fn push_moved(&self, old: &Self, key: Key, rows: &mut Vec<Row>) {
                // A field that is new has to be named above.
                let Self { $($field,)* $($rest: _,)* } = *self;
                $(push(rows, Key { kind: Kind::$kind, ..key }, old.$field, $field);)*
            }

            fn take_number(&mut self, row: &Row) -> Result<bool, Malformed> {
                match row.key.kind {
                    $(Kind::$kind => put(&mut self.$field, row)?,)*
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

numbers! {
    VeStats {
        count = VeCount,
        failed = VeFailed,
        user = VeUser,
        own = VeOwn,
        unpaired = VeUnpaired,
        ns = VeNs,
        max_ns = DurationMax,
        ..
        buckets reserved
    }
}

numbers! {
    VeValue {
        count = PlaceCount,
        failed = PlaceFailed,
        timed = PlaceTimed,
        ns = PlaceNs,
        qualification = PlaceQualification,
        gpa = PlaceGpa,
        thread = PlaceThread,
        stack = PlaceStack,
        errno = PlaceErrno,
        ..
        bytes bytes_len comm reserved
    }
}

numbers! {
    CallValue {
        count = CallCount,
        failed = CallFailed,
        bytes = CallBytes,
        timed = CallTimed,
        ns = CallNs,
        max_ns = DurationMax,
        last_failure = CallLastFailure,
        ..
    }
}

/// #VEs by reason.
pub(super) struct Reasons;

impl Counted for Reasons {
    type Key = usize;
    type Value = VeStats;
    const LIST: Kind = Kind::VeReasons;

    fn nothing() -> VeStats {
        VeStats::NOTHING
    }

    fn item(index: usize) -> Result<Row, Error> {
        let known = u32::try_from(index).ok().filter(|_| index < VE_REASONS);
        let index = known.ok_or_else(|| Error::Unwritable(format!("it has reason {index}")))?;
        Ok(Row::number(Kind::VeReason, index, 1))
    }

    fn listed(row: &Row) -> Result<Option<usize>, Malformed> {
        if row.key.kind != Kind::VeReason {
            return Ok(None);
        }
        let index = usize::try_from(row.key.index).ok().filter(|index| *index < VE_REASONS);
        index.map(Some).ok_or(Malformed("a reason that is not known, perhaps of a newer tdtrace"))
    }

    fn rows(index: usize, old: &VeStats, new: &VeStats, rows: &mut Vec<Row>) {
        // What does not fit has been refused with the list.
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let key = Row::number(Kind::VeCount, index, 0).key;
        new.push_moved(old, key, rows);
        for (bucket, (old, new)) in old.buckets.iter().zip(&new.buckets).enumerate() {
            let address = bucket_start(bucket);
            push(rows, Key { kind: Kind::DurationCount, address, ..key }, *old, *new);
        }
    }

    fn take(value: &mut VeStats, row: &Row) -> Result<bool, Malformed> {
        if row.key.kind != Kind::DurationCount {
            return value.take_number(row);
        }
        let bucket = value.buckets.get_mut(bucket_at(row.key.address)?);
        put(bucket.ok_or(Malformed("a duration at which no bucket begins"))?, row)?;
        Ok(true)
    }

    fn name(index: u32) -> Cow<'static, str> {
        let is_other = index as usize == VE_OTHER;
        if is_other { "other" } else { vmx::exit_reason(index).unwrap_or_default() }.into()
    }
}

/// #VEs by place.
pub(super) struct Places;

impl Counted for Places {
    type Key = VeKey;
    type Value = VeValue;
    const LIST: Kind = Kind::VePlaces;

    fn nothing() -> VeValue {
        VeValue::default()
    }

    fn item(key: VeKey) -> Result<Row, Error> {
        let VeKey { reason, mode, ip, object } = key;
        let key = Key { kind: Kind::VePlace, index: reason, address: ip, size: mode };
        Ok(Row { key, value: object, text: None })
    }

    fn listed(row: &Row) -> Result<Option<VeKey>, Malformed> {
        let Key { kind, index: reason, address: ip, size: mode } = row.key;
        let key = VeKey { reason, mode, ip, object: row.value };
        Ok((kind == Kind::VePlace).then_some(key))
    }

    fn rows(place: VeKey, old: &VeValue, new: &VeValue, rows: &mut Vec<Row>) {
        let kind = Kind::PlaceCount;
        let key = Key { kind, index: place.reason, address: place.ip, size: 0 };
        new.push_moved(old, key, rows);
        let mut text = |kind, value, text: &str| {
            rows.push(Row { key: Key { kind, ..key }, value, ..Row::text(kind, 0, text) });
        };
        if (old.bytes, old.bytes_len) != (new.bytes, new.bytes_len) {
            text(Kind::PlaceBytes, new.bytes_len.into(), &hex(&new.bytes));
        }
        if old.comm != new.comm {
            let length = new.comm.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            text(Kind::PlaceComm, 0, &escaped(&new.comm[..length]));
        }
    }

    fn take(value: &mut VeValue, row: &Row) -> Result<bool, Malformed> {
        let too_long = Malformed("other bytes than there can be");
        match row.key.kind {
            Kind::PlaceBytes => {
                value.bytes_len = row.small()?;
                let bytes = from_hex(row.as_text())?;
                value.bytes = <[u8; INSN_BYTES]>::try_from(bytes).map_err(|_| too_long)?;
            }
            Kind::PlaceComm => {
                let bytes = unescaped(row.as_text())?;
                value.comm = [0; 16];
                value.comm.get_mut(..bytes.len()).ok_or(too_long)?.copy_from_slice(&bytes);
            }
            _ => return value.take_number(row),
        }
        Ok(true)
    }

    fn name(index: u32) -> Cow<'static, str> {
        vmx::exit_reason(index).unwrap_or_default().into()
    }
}

/// Conversions and the like, by operation and stack.
pub(super) struct Calls;

impl Counted for Calls {
    type Key = CallKey;
    type Value = CallValue;
    const LIST: Kind = Kind::Calls;

    fn nothing() -> CallValue {
        CallValue::default()
    }

    fn item(CallKey { operation, stack }: CallKey) -> Result<Row, Error> {
        Ok(Row::number(Kind::Call, operation, stack.cast_unsigned().into()))
    }

    fn listed(row: &Row) -> Result<Option<CallKey>, Malformed> {
        if row.key.kind != Kind::Call {
            return Ok(None);
        }
        let mut key = CallKey { operation: row.key.index, stack: 0 };
        put(&mut key.stack, row)?;
        Ok(Some(key))
    }

    fn rows(key: CallKey, old: &CallValue, new: &CallValue, rows: &mut Vec<Row>) {
        new.push_moved(old, Row::number(Kind::CallCount, key.operation, 0).key, rows);
    }

    fn take(value: &mut CallValue, row: &Row) -> Result<bool, Malformed> {
        value.take_number(row)
    }

    fn name(index: u32) -> Cow<'static, str> {
        Operation::ALL.get(index as usize).map_or("", |operation| operation.name()).into()
    }
}
