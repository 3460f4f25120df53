//! What the numbers of rows are called, for readers without our tables. Our own reader goes by the
//! numbers.

use std::borrow::Cow;

use tdtrace_common::{
    counters::Class,
    latency::{LATENCY_RETURNS, Part},
    ledger::LEDGER_NAMES,
    poison::PoisonSource,
    seam::WRAPPERS,
};

use super::{
    kind::{Kind, Record},
    ledger::REGION_NAMES,
    row::Key,
    vcpu::KVM_STAT_NAMES,
};
use crate::model::{
    sample::Isa,
    seam::{LEVEL_NAMES, status_text},
    snapshot::{latency_name, reason_name, userspace_name},
};

/// What `key.index` is called; empty where it is no number of a table.
pub(super) fn name(key: &Key, isa: Isa) -> Cow<'static, str> {
    let class = || Class::ALL.get(key.index as usize).map_or("", |class| class.name());
    match key.kind {
        Kind::Count | Kind::Place | Kind::Outside => class().into(),
        Kind::Reason => reason_name(key.index, isa).into(),
        Kind::Userspace => userspace_name(key.index).into(),
        Kind::KvmFirst | Kind::KvmLast => {
            KVM_STAT_NAMES.get(key.index as usize).copied().unwrap_or_default().into()
        }
        Kind::Ledger => LEDGER_NAMES.get(key.index as usize).copied().unwrap_or_default().into(),
        Kind::Region => REGION_NAMES.get(key.index as usize).copied().unwrap_or_default().into(),
        Kind::MemoryPages | Kind::MemoryFaultGpa => "".into(),
        Kind::MemoryFault => ["shared", "private"][usize::from(key.index != 0)].into(),
        Kind::Time => match key.index.checked_sub(1) {
            None => "guest".into(),
            Some(part) => Part::ALL.get(part as usize).map_or("", |part| part.name()).into(),
        },
        Kind::SlowPart => Part::ALL.get(key.index as usize).map_or("", |part| part.name()).into(),
        kind if kind == Kind::Slow || kind.group() == Kind::DurationMax => {
            let span = if key.index < LATENCY_RETURNS { "exit" } else { "return" };
            format!("{span} {}", latency_name(key.index, isa).1).into()
        }
        Kind::LostUnattributed | Kind::LostSlotsFull | Kind::LostMapFull | Kind::LostOutside => {
            class().into()
        }
        Kind::SeamStatus => {
            format!("{} {}", wrapper(key), status_text(key.address, ANY_LEAF)).into()
        }
        Kind::SeamLevel => {
            let level = LEVEL_NAMES.get(key.size as usize).copied().unwrap_or_default();
            format!("{} {level}", wrapper(key)).into()
        }
        Kind::PoisonMissing | Kind::PoisonPage => {
            PoisonSource::ALL.get(key.index as usize).map_or("", |source| source.name()).into()
        }
        kind if kind.group() == Kind::SeamFunction => wrapper(key).into(),
        kind => {
            debug_assert!(kind.record() != Record::Counter, "{kind:?} has numbers without names");
            Cow::Borrowed("")
        }
    }
}

/// Any SEAMCALL leaf but VP.ENTER, whose statuses say more.
const ANY_LEAF: u32 = 0xffff;

/// The SEAMCALL wrapper that a row is about.
fn wrapper(key: &Key) -> &'static str {
    WRAPPERS.get(key.index as usize).map_or("", |wrapper| wrapper.name)
}
