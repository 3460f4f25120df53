//! The registry of columns: one entry names a column on the terminal, in the text tables and in JSON.
//!
//! A [`Field`] knows how to get its [`Value`] from a row and how wide it is; where it is drawn is the
//! views' business.

mod boot;
mod exit;
mod finding;
mod hotspot;
mod region;
mod seam;
mod slow;
mod vcpu;
mod vm;

use tdtrace_common::latency::Part;

pub use self::{
    boot::{BOOT_FIELDS, boot_keys},
    exit::EXIT_FIELDS,
    finding::FINDING_FIELDS,
    hotspot::HOTSPOT_FIELDS,
    region::REGION_FIELDS,
    seam::SEAM_FIELDS,
    slow::SLOW_FIELDS,
    vcpu::VCPU_FIELDS,
    vm::VM_FIELDS,
};
use super::{
    figure,
    latency::Times,
    sample::Isa,
    snapshot::{Audit, Hotspot, Snapshot, Tally, TimeSplit, Vcpu},
};

/// What stands in a cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A name.
    Text(String),
    /// A number that is no quantity: an id.
    Id(u64),
    /// A quantity.
    Count(u64),
    /// Per second; `None` while there is no interval.
    Rate(Option<f64>),
    /// An address, port or index.
    Hex(u64),
    /// Percent.
    Percent(f64),
    /// A duration in nanoseconds.
    Nanos(u64),
    /// A duration of which only a bound is known, in nanoseconds.
    AtMost(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A difference in bytes.
    Balance(i64),
    /// A mark: the word stands in the cell if it is set.
    Flag(bool, &'static str),
    /// A figure, for the eye only: no sorting, no filter, no JSON.
    Figure(String),
    /// Not known, or not there.
    None,
}

impl Value {
    /// As a cell of a table: thousands separated, rates rounded, `–` for what is not known.
    #[must_use]
    pub fn to_cell(&self) -> String {
        match self {
            Self::Text(text) | Self::Figure(text) => text.clone(),
            Self::Id(number) => number.to_string(),
            Self::Count(count) => thousands(*count),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a rate is not negative, and beyond 2^64 it saturates"
            )]
            Self::Rate(Some(rate)) => thousands(rate.round() as u64),
            Self::Rate(None) | Self::None => "–".to_owned(),
            Self::Hex(number) => format!("{number:#x}"),
            Self::Percent(percent) => format!("{percent:.1}"),
            Self::Nanos(ns) => figure::duration(*ns),
            Self::Bytes(bytes) => figure::bytes(*bytes),
            Self::Balance(0) => "0".to_owned(),
            Self::Balance(bytes) => {
                let sign = if *bytes < 0 { '−' } else { '+' };
                format!("{sign}{}", figure::bytes(bytes.unsigned_abs()))
            }
            Self::AtMost(ns) => format!("≤ {}", figure::duration(*ns)),
            Self::Flag(set, word) => if *set { *word } else { "" }.to_owned(),
        }
    }

    /// As JSON; an address is a number there.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Text(text) => text.as_str().into(),
            Self::Id(number)
            | Self::Count(number)
            | Self::Hex(number)
            | Self::Bytes(number)
            | Self::Nanos(number)
            | Self::AtMost(number) => (*number).into(),
            Self::Balance(bytes) => (*bytes).into(),
            Self::Rate(Some(value)) | Self::Percent(value) => {
                ((value * 10.0).round() / 10.0).into()
            }
            Self::Flag(set, _) => (*set).into(),
            Self::Rate(None) | Self::None | Self::Figure(_) => serde_json::Value::Null,
        }
    }

    /// For sorting: what is not known comes last when the largest comes first.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "only the order matters")]
    pub fn order(&self) -> f64 {
        match self {
            Self::Text(_) | Self::Figure(_) | Self::Rate(None) | Self::None => -1.0,
            Self::Id(number)
            | Self::Count(number)
            | Self::Hex(number)
            | Self::Bytes(number)
            | Self::Nanos(number)
            | Self::AtMost(number) => *number as f64,
            Self::Balance(bytes) => *bytes as f64,
            Self::Rate(Some(value)) | Self::Percent(value) => *value,
            Self::Flag(set, _) => f64::from(u8::from(*set)),
        }
    }
}

/// `1234567` as `1,234,567`.
#[must_use]
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// One column of rows of type `R`.
pub struct Field<R: ?Sized> {
    /// Its name in JSON and on the command line.
    pub key: &'static str,
    /// Its head in tables.
    pub title: &'static str,
    /// Whether its cells are aligned to the right.
    pub right: bool,
    /// Columns with a higher number go first when there is not enough room.
    pub rank: u8,
    /// What it says, for help and documentation.
    pub help: &'static str,
    /// Its value in a row.
    pub value: fn(&R) -> Value,
}

/// Every hotspot of every VM, as rows.
pub fn hotspot_rows(snapshot: &Snapshot) -> impl Iterator<Item = &Hotspot> {
    snapshot.vms.iter().flat_map(|vm| &vm.hotspots)
}

/// Every vCPU of every VM, as rows.
pub fn vcpu_rows(snapshot: &Snapshot) -> impl Iterator<Item = &Vcpu> {
    snapshot.vms.iter().flat_map(|vm| &vm.vcpus)
}

pub(crate) const fn left<R>(
    key: &'static str,
    title: &'static str,
    rank: u8,
    help: &'static str,
    value: fn(&R) -> Value,
) -> Field<R> {
    Field { key, title, right: false, rank, help, value }
}

pub(crate) const fn right<R>(
    key: &'static str,
    title: &'static str,
    rank: u8,
    help: &'static str,
    value: fn(&R) -> Value,
) -> Field<R> {
    Field { key, title, right: true, rank, help, value }
}

/// The thread of a vCPU; before its first KVM_RUN ended it is not known.
fn thread(tid: u32) -> Value {
    if tid == 0 { Value::None } else { Value::Id(tid.into()) }
}

fn total(tally: Tally) -> Value {
    Value::Count(tally.total)
}

pub(crate) fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// A name; nothing where it is empty.
fn known(name: &str) -> Value {
    if name.is_empty() { Value::None } else { text(name) }
}

/// `agrees`, or how far KVM's count and ours are apart.
fn audit(audit: Option<Audit>) -> Value {
    match audit {
        None => Value::None,
        Some(audit) if audit.agrees() => text("ok"),
        Some(audit) => {
            let apart = |kvm: u64, seen: u64| i128::from(seen) - i128::from(kvm);
            let exits = audit.seen_exits.map_or(0, |seen| apart(audit.kvm_exits, seen));
            let runs = apart(audit.kvm_runs, audit.seen_runs);
            let hypercalls = apart(audit.kvm_hypercalls, audit.seen_hypercalls);
            let worst = [exits, runs, hypercalls].into_iter().max_by_key(|n| n.unsigned_abs());
            Value::Text(format!("{:+}", worst.unwrap_or(0)))
        }
    }
}

/// A row of a table with registered columns.
pub trait Row: Sized + 'static {
    /// Its columns.
    const FIELDS: &'static [Field<Self>];

    /// What tells it from every other row of its table, whatever its numbers are.
    fn id(&self) -> RowId;

    /// Whether there is more to see inside of it.
    fn opens(&self) -> bool {
        true
    }

    /// Rows of a higher group come after those of a lower one, however a table is sorted.
    fn group(&self) -> u8 {
        0
    }
}

/// See [`Row::id`].
pub type RowId = [u64; 3];

/// A column as a table shows it.
pub struct Column<R: 'static> {
    /// What it shows.
    pub field: &'static Field<R>,
    /// Columns with a higher number go first when there is not enough room.
    pub rank: u8,
}

impl<R> Clone for Column<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Column<R> {}

/// Every column of `R`, as registered.
#[must_use]
pub fn all<R: Row>() -> Vec<Column<R>> {
    R::FIELDS.iter().map(|field| Column { field, rank: field.rank }).collect()
}

/// The columns of these keys in this order, each with its rank. A key that is not registered is a
/// mistake, which debug builds do not let pass.
#[must_use]
pub fn pick<R: Row>(keys: &[(&str, u8)]) -> Vec<Column<R>> {
    let column = |(key, rank): &(&str, u8)| {
        let field = R::FIELDS.iter().find(|field| field.key == *key)?;
        Some(Column { field, rank: *rank })
    };
    let columns: Vec<Column<R>> = keys.iter().filter_map(column).collect();
    debug_assert_eq!(columns.len(), keys.len(), "a key of {keys:?} is not registered");
    columns
}

/// The key and the help of every column of every table, each key once.
#[must_use]
pub fn keys() -> Vec<(&'static str, &'static str)> {
    let vm = VM_FIELDS.iter().map(|field| (field.key, field.help));
    let vcpu = VCPU_FIELDS.iter().map(|field| (field.key, field.help));
    let exit = EXIT_FIELDS.iter().map(|field| (field.key, field.help));
    let hotspot = HOTSPOT_FIELDS.iter().map(|field| (field.key, field.help));
    let slow = SLOW_FIELDS.iter().map(|field| (field.key, field.help));
    let finding = FINDING_FIELDS.iter().map(|field| (field.key, field.help));
    let seam = SEAM_FIELDS.iter().map(|field| (field.key, field.help));
    let mut keys: Vec<(&str, &str)> = Vec::new();
    let region = REGION_FIELDS.iter().map(|field| (field.key, field.help));
    let boot = BOOT_FIELDS.iter().map(|field| (field.key, field.help));
    for (key, help) in vm
        .chain(exit)
        .chain(hotspot)
        .chain(vcpu)
        .chain(region)
        .chain(boot)
        .chain(slow)
        .chain(finding)
        .chain(seam)
    {
        if !FIGURES.contains(&key) && keys.iter().all(|(other, _)| *other != key) {
            keys.push((key, help));
        }
    }
    keys
}

/// Keys of columns that are figures.
pub const FIGURES: &[&str] =
    &["trend", "split", "mark", "bar", "mix", "mix_wide", "mix_full", "leads"];

/// Cells of a figure.
const FIGURE: usize = 12;

/// What of a vCPU's time.
#[derive(Clone, Copy)]
enum Share {
    /// In the guest; not known on a KVM without `kvm_entry`.
    Guest,
    /// In the kernel; not known on a KVM without `kvm_entry`.
    Kernel,
    /// Guest and kernel together, where they cannot be told apart.
    KvmRun,
    /// One of the others.
    Part(Part),
}

/// Percent of the time of the last interval.
#[expect(clippy::cast_precision_loss, reason = "a share needs no more than 53 bits")]
fn percent(times: Option<TimeSplit>, isa: Isa, share: Share) -> Value {
    let Some(recent) = times.and_then(|times| times.recent) else { return Value::None };
    let software = isa == Isa::Software;
    let ns = match share {
        Share::Guest if !software => recent.guest,
        Share::Kernel if !software => recent.part(Part::Kernel),
        Share::KvmRun if software => recent.guest.saturating_add(recent.part(Part::Kernel)),
        Share::Part(part) => recent.part(part),
        _ => return Value::None,
    };
    match recent.total() {
        0 => Value::None,
        total => Value::Percent(ns as f64 / total as f64 * 100.0),
    }
}

fn split(times: Option<TimeSplit>) -> Value {
    let recent = times.and_then(|times| times.recent);
    Value::Figure(recent.map_or_else(
        || "–".to_owned(),
        |times: Times| figure::split(figure::shares(&times), FIGURE),
    ))
}

pub(crate) fn nanos(ns: Option<u64>) -> Value {
    ns.map_or(Value::None, Value::Nanos)
}

/// A row as a JSON object of its fields; figures are left out.
pub fn to_json<R>(fields: &[Field<R>], row: &R) -> serde_json::Value {
    let fields = fields.iter().filter(|field| !FIGURES.contains(&field.key));
    let pairs = fields.map(|field| (field.key.to_owned(), (field.value)(row).to_json()));
    serde_json::Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique<R>(fields: &[Field<R>]) {
        for (index, field) in fields.iter().enumerate() {
            assert!(fields[..index].iter().all(|other| other.key != field.key), "{}", field.key);
        }
    }

    #[test]
    fn keys_are_unique() {
        unique(VM_FIELDS);
        unique(HOTSPOT_FIELDS);
        unique(SLOW_FIELDS);
        unique(VCPU_FIELDS);
        unique(EXIT_FIELDS);
        unique(REGION_FIELDS);
        unique(SEAM_FIELDS);
        unique(FINDING_FIELDS);
        unique(BOOT_FIELDS);
    }

    #[test]
    fn cells_are_read_by_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(999), "999");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(Value::Rate(Some(1234.6)).to_cell(), "1,235");
        assert_eq!(Value::Rate(None).to_cell(), "–");
        assert_eq!(Value::AtMost(153_000).to_cell(), "≤ 153 µs");
        assert_eq!(Value::Percent(4.06).to_cell(), "4.1");
        assert_eq!(Value::Bytes(3 << 29).to_cell(), "1.5 GiB");
        assert_eq!(Value::Balance(-(5 << 20)).to_cell(), "−5.0 MiB");
        assert_eq!(Value::Balance(0).to_cell(), "0");
        assert_eq!(Value::Hex(0xfd00_0000).to_cell(), "0xfd000000");
    }
}
