//! Places that events are about, with their counts: in a slot while there is room, else in the hotspot map.

/// What a hotspot is about: class, access size and the address, port, MSR index, CPUID leaf or
/// hypercall number.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Guest physical address, port, MSR index, CPUID leaf or hypercall number.
    pub address: u64,
    /// Bytes accessed, 0 where the class has no size.
    pub size: u32,
    /// [`super::Class`] as a number plus one; 0 marks an entry that is free.
    pub class: u32,
}

impl Place {
    /// Class and size as one word, which is what stands in memory behind the address.
    #[must_use]
    #[inline(always)]
    pub const fn kind(class: u64, size: u64) -> u64 {
        (class + 1) << 32 | size
    }
}

/// Where the search for a place among the [`super::SLOT_HOTSPOTS`] of a slot begins. `kind` is [`Place::kind`].
#[must_use]
#[inline(always)]
pub const fn place_start(address: u64, kind: u64) -> usize {
    ((address ^ kind << 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 59) as usize
}

/// One hotspot in a slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hotspot {
    /// What is counted.
    pub place: Place,
    /// Events.
    pub count: u64,
}

/// Key of the hotspot map: a place of one vCPU, so that every entry has one writer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HotspotKey {
    /// What is counted.
    pub place: Place,
    /// Index of the vCPU's slot.
    pub slot: u32,
    /// [`super::VcpuSlot::life`], so that a slot's next vCPU does not inherit counts.
    pub life: u32,
}

/// Value of the hotspot map, padded so that an element (48 bytes of kernel header, 24 of key) fills
/// whole cache lines and two vCPUs never share one.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HotspotValue {
    /// Events.
    pub count: u64,
    /// Room up to two lines.
    pub reserved: [u64; 6],
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counters::SLOT_HOTSPOTS;

    #[test]
    fn places_of_one_address_begin_apart() {
        let kinds = (0..8).flat_map(|class| [0, 1, 2, 4].map(|size| Place::kind(class, size)));
        let mut taken = [0; SLOT_HOTSPOTS];
        for kind in kinds {
            taken[place_start(0xfec0_0000, kind)] += 1;
        }
        assert!(taken.iter().all(|places| *places <= 3), "{taken:?}");
    }
}
