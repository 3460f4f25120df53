//! The ledgers of VMs, read from the map that the programs add to.

use anyhow::Result;
use aya::maps::MapData;
use tdtrace_common::ledger::{
    Conversion, Direction, LEDGER_COUNTS, LedgerCount, REGION_SHIFT, VmLedger,
};

use super::slots::MappedArray;
use crate::model::ledger::{LedgerSample, MemoryFault, RegionSample};

/// The map of ledgers.
pub(super) struct Ledgers(MappedArray<VmLedger>);

impl Ledgers {
    pub(super) fn new(map: &MapData) -> Result<Self> {
        Ok(Self(MappedArray::new(map)?))
    }

    /// The ledger of VM entry `index` with what its vCPUs mapped; times are those of the programs' clock.
    pub(super) fn read<'v>(
        &self,
        index: u32,
        vcpus: impl Iterator<Item = &'v Conversion>,
    ) -> LedgerSample {
        let ledger = self.0.read(index);
        let mut counts: [u64; LEDGER_COUNTS] = ledger.counts;
        for vcpu in vcpus {
            counts[LedgerCount::Mapped4K as usize] += vcpu.mapped[0];
            counts[LedgerCount::Mapped2M as usize] += vcpu.mapped[1];
        }
        let region = |region: &tdtrace_common::ledger::Region| {
            // One that was taken, but not written to yet, has no direction.
            let last = match region.last {
                1 => Direction::ToShared,
                2 => Direction::ToPrivate,
                _ => return None,
            };
            Some(RegionSample {
                gpa: region.key.wrapping_sub(1) << REGION_SHIFT,
                calls: region.calls,
                bytes: region.bytes,
                turns: region.turns,
                last,
                last_at: region.last_at,
            })
        };
        let mut regions: Vec<RegionSample> = ledger.regions.iter().filter_map(region).collect();
        regions.sort_by_key(|region| region.gpa);
        let fault = (ledger.fault_at != 0).then_some(MemoryFault {
            gpa: ledger.fault & !1,
            private: ledger.fault & 1 != 0,
            at: ledger.fault_at,
        });
        LedgerSample { counts, memory_pages: ledger.memory_pages, fault, regions }
    }
}
