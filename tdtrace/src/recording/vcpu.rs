//! A vCPU as rows and back.

use tdtrace_common::{
    counters::{COUNTS, KvmStat, Place},
    latency::PARTS,
};

use super::{
    durations::{self, Durations},
    kind::Kind,
    row::{Key, Malformed, Row},
};
use crate::model::{
    counts::Counts,
    latency::Times,
    sample::{VcpuKey, VcpuSample, VmKey},
};

/// Counters of [`KvmStat`].
const KVM_STATS: usize = size_of::<KvmStat>() / size_of::<u64>();

/// The rows of `vcpu`.
pub(super) fn rows(vcpu: &VcpuSample) -> Vec<Row> {
    let mut rows = vec![
        Row::number(Kind::VcpuKey, 0, packed(vcpu.key.index, vcpu.key.life)),
        Row::number(Kind::VcpuVmKey, 0, packed(vcpu.vm.index, vcpu.vm.life)),
        Row::number(Kind::VcpuId, 0, vcpu.id.into()),
        Row::number(Kind::Tid, 0, vcpu.tid.into()),
    ];
    let number = |kind| move |(index, count)| Row::number(kind, index, count);
    let nonzero = |(_, count): &(u32, u64)| *count > 0;
    let counts = (0..).zip(vcpu.counts.as_array().iter().copied());
    rows.extend(counts.filter(nonzero).map(number(Kind::Count)));
    rows.extend(vcpu.reasons.iter().copied().map(number(Kind::Reason)));
    rows.extend(vcpu.userspace.iter().copied().map(number(Kind::Userspace)));
    rows.extend(vcpu.hotspots.iter().map(|(place, count)| Row {
        key: Key {
            kind: Kind::Place,
            // The number of the class, as in other rows: a place has it plus one.
            index: place.class.wrapping_sub(1),
            address: place.address,
            size: place.size,
        },
        value: *count,
        text: None,
    }));
    if let Some((first, last)) = &vcpu.kvm {
        for (kind, stat) in [(Kind::KvmFirst, first), (Kind::KvmLast, last)] {
            let counters = (0..).zip(kvm_counters(stat));
            // The first one is always there: it says that there are any.
            rows.extend(counters.filter(|row| row.0 == 0 || nonzero(row)).map(number(kind)));
        }
    }
    if let Some(times) = &vcpu.times {
        rows.push(Row::number(Kind::Time, 0, times.guest));
        rows.extend((1..).zip(times.parts).filter(nonzero).map(number(Kind::Time)));
    }
    durations::push_rows(&vcpu.latency, &mut rows);
    rows
}

/// The vCPU of `rows`.
pub(super) fn from_rows(rows: &[Row]) -> Result<VcpuSample, Malformed> {
    let mut found = Found::default();
    for row in rows {
        found.take(row)?;
    }
    let (index, life) = found.key.ok_or(Malformed("a vCPU without its key"))?;
    let (vm, vm_life) = found.vm.ok_or(Malformed("a vCPU without its VM"))?;
    let kvm = match (found.first, found.last) {
        (Some(first), Some(last)) => Some((kvm_stat(&first), kvm_stat(&last))),
        (None, None) => None,
        _ => return Err(Malformed("one reading of KVM's counters where two belong")),
    };
    Ok(VcpuSample {
        key: VcpuKey { index, life },
        vm: VmKey { index: vm, life: vm_life },
        id: found.id,
        tid: found.tid,
        counts: Counts::new(found.counts),
        reasons: found.reasons,
        userspace: found.userspace,
        hotspots: found.hotspots,
        kvm,
        times: found.times.map(|[guest, parts @ ..]| Times { guest, parts }),
        latency: found.latency.finish(),
    })
}

#[derive(Default)]
struct Found {
    key: Option<(u32, u32)>,
    vm: Option<(u32, u32)>,
    id: u32,
    tid: u32,
    counts: [u64; COUNTS],
    reasons: Vec<(u32, u64)>,
    userspace: Vec<(u32, u64)>,
    hotspots: Vec<(Place, u64)>,
    first: Option<[u64; KVM_STATS]>,
    last: Option<[u64; KVM_STATS]>,
    times: Option<[u64; PARTS + 1]>,
    latency: Durations,
}

impl Found {
    fn take(&mut self, row: &Row) -> Result<(), Malformed> {
        let Key { kind, index, address, size } = row.key;
        match kind {
            Kind::VcpuKey => self.key = Some(unpacked(row.value)),
            Kind::VcpuVmKey => self.vm = Some(unpacked(row.value)),
            Kind::VcpuId => self.id = row.small()?,
            Kind::Tid => self.tid = row.small()?,
            Kind::Count => put(&mut self.counts, row)?,
            Kind::Reason => self.reasons.push((index, row.value)),
            Kind::Userspace => self.userspace.push((index, row.value)),
            Kind::Place => {
                let place = Place { address, class: index.wrapping_add(1), size };
                self.hotspots.push((place, row.value));
            }
            Kind::KvmFirst => put(self.first.get_or_insert_default(), row)?,
            Kind::KvmLast => put(self.last.get_or_insert_default(), row)?,
            Kind::Time => put(self.times.get_or_insert_default(), row)?,
            _ if self.latency.take(row)? => {}
            _ => return Err(Malformed("a row of a vCPU that no vCPU has")),
        }
        Ok(())
    }
}

/// Puts the row's value where its index says.
fn put(values: &mut [u64], row: &Row) -> Result<(), Malformed> {
    let value = values.get_mut(row.key.index as usize);
    *value.ok_or(Malformed("a counter that is not known, perhaps of a newer tdtrace"))? = row.value;
    Ok(())
}

/// A place in the maps as one number.
pub(super) fn packed(index: u32, life: u32) -> u64 {
    u64::from(life) << 32 | u64::from(index)
}

/// Index and life of [`packed`].
pub(super) fn unpacked(key: u64) -> (u32, u32) {
    (key as u32, (key >> 32) as u32)
}

/// Says KVM's counters once: their names by index, and both ways between them and a list.
macro_rules! kvm_stat {
    ($($field:ident)*) => {
        /// The names of KVM's counters, by index.
        pub(super) const KVM_STAT_NAMES: &[&str] = &[$(stringify!($field)),*];

        fn kvm_counters(stat: &KvmStat) -> [u64; KVM_STATS] {
            let KvmStat { $($field),* } = *stat;
            [$($field),*]
        }

        fn kvm_stat(counters: &[u64; KVM_STATS]) -> KvmStat {
            let [$($field),*] = *counters;
            KvmStat { $($field),* }
        }
    };
}

kvm_stat! {
    exits fpu_reload io_exits mmio_exits irq_exits signal_exits hypercalls
    seen_exits seen_runs seen_hypercalls state
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_as_one_number() {
        for key in [(0, 0), (7, 1), (u32::MAX, 0), (3, u32::MAX)] {
            assert_eq!(unpacked(packed(key.0, key.1)), key);
        }
    }

    #[test]
    fn rows_that_no_vcpu_has_are_refused() {
        let key = Row::number(Kind::VcpuKey, 0, 1);
        let vm = Row::number(Kind::VcpuVmKey, 0, 1);
        assert!(from_rows(&[key.clone(), vm.clone()]).is_ok());
        assert!(from_rows(std::slice::from_ref(&key)).is_err());
        for odd in [
            Row::number(Kind::Count, COUNTS as u32, 1),
            Row::number(Kind::Time, 5, 1),
            Row::number(Kind::KvmFirst, 0, 1),
            Row::number(Kind::Pid, 0, 1),
            Row::number(Kind::Tid, 0, u64::MAX),
            Row::number(Kind::DurationKernel, 3, 1),
        ] {
            assert!(from_rows(&[key.clone(), vm.clone(), odd.clone()]).is_err(), "{odd:?}");
        }
    }
}
