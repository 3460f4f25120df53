//! Every number from which on a VM's counts are a finding.

use crate::model::limit::Limit;

/// Faults on private memory of one VM.
pub const ACCEPT_RATE: Limit = Limit {
    value: 10_000,
    unit: "faults a second",
    why: "page by page this is 40 MB a second; hosts were seen to take 8 to 150 µs for each",
};

/// MapGPAs of one VM.
pub const CONVERSION_RATE: Limit = Limit {
    value: 1_000,
    unit: "MapGPAs a second",
    why: "each is a return to the VMM and system calls there; drivers convert when they are loaded",
};

/// Entries that were refused, of all exits.
pub const BUSY_SHARE: Limit =
    Limit { value: 10, unit: "% of all exits", why: "each is an entry that has to be done again" };

/// What a share of refused entries has at least.
pub const BUSY_RATE: Limit =
    Limit { value: 100, unit: "entries a second", why: "fewer cost next to nothing" };

/// Halts, by vCPU.
pub const HALT_RATE: Limit = Limit {
    value: 500,
    unit: "halts a second and vCPU",
    why: "a TD with 248 vCPUs that halted 670 times a second each was reported to take minutes to boot",
};

/// Halts, of all exits.
pub const HALT_SHARE: Limit =
    Limit { value: 50, unit: "% of all exits", why: "more than all other exits together" };

/// IPIs of one VM.
pub const IPI_RATE: Limit = Limit {
    value: 10_000,
    unit: "IPIs a second",
    why: "a WRMSR of a TD is a #VE, a TDVMCALL and an exit, about 4 µs: this is 4 % of a CPU",
};

/// Accesses of one VM to one MSR.
pub const MSR_RATE: Limit = Limit {
    value: 10_000,
    unit: "accesses a second",
    why: "a WRMSR of a TD is a #VE, a TDVMCALL and an exit, about 4 µs: this is 4 % of a CPU",
};

/// Accesses to the ports of `fw_cfg`.
pub const FW_CFG_RATE: Limit = Limit {
    value: 1_000,
    unit: "accesses a second",
    why: "each is a return to the VMM, for a byte or a few; a booted guest makes none",
};

/// The VMM's part of a class of exits.
pub const VMM_SHARE: Limit = Limit {
    value: 50,
    unit: "% of the time of these exits",
    why: "the VMM decides how long they take",
};

/// That part, of the time of all vCPUs.
pub const VMM_TIME: Limit =
    Limit { value: 10, unit: "% of the vCPUs' time", why: "less is not worth a change to the VMM" };

/// Every limit.
pub const ALL: [Limit; 11] = [
    ACCEPT_RATE,
    CONVERSION_RATE,
    BUSY_SHARE,
    BUSY_RATE,
    HALT_RATE,
    HALT_SHARE,
    IPI_RATE,
    MSR_RATE,
    FW_CFG_RATE,
    VMM_SHARE,
    VMM_TIME,
];
