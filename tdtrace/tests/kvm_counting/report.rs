//! What `tdtrace stat --json` and `tdtrace workload` print, as far as it is compared.

use std::collections::BTreeMap;

use serde::Deserialize;

/// Numbers by name.
pub(crate) type Counts = BTreeMap<String, u64>;

/// The number called `name`; 0 if there is none.
pub(crate) fn number(counts: &Counts, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or(0)
}

/// What `stat` counted.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Report {
    pub(crate) counts: Counts,
    pub(crate) lost: Lost,
    pub(crate) vms: Vec<Vm>,
}

impl Report {
    /// VMs of process `pid`.
    pub(crate) fn vms_of(&self, pid: u32) -> impl Iterator<Item = &Vm> {
        self.vms.iter().filter(move |vm| vm.pid == pid)
    }
}

/// What `stat` did not count.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Lost {
    pub(crate) total: u64,
    pub(crate) recursion_misses: Counts,
    /// By cause and class.
    pub(crate) causes: BTreeMap<String, Counts>,
    pub(crate) without_place: u64,
}

impl Lost {
    /// Events of `class` that were lost for `cause`.
    pub(crate) fn count(&self, cause: &str, class: &str) -> u64 {
        self.causes.get(cause).map_or(0, |counts| number(counts, class))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vm {
    pub(crate) vm: u32,
    pub(crate) pid: u32,
    pub(crate) state: String,
    pub(crate) counts: Counts,
    pub(crate) vcpus: Vec<Vcpu>,
    pub(crate) hotspots: Vec<Hotspot>,
    pub(crate) hotspots_omitted: u64,
    pub(crate) other: Counts,
    pub(crate) audit: Option<Audit>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Vcpu {
    pub(crate) vcpu: u32,
    pub(crate) tid: Option<u32>,
    pub(crate) counts: Counts,
    pub(crate) returns_to_vmm: Counts,
    pub(crate) audit: Option<Audit>,
}

/// A port, address, leaf or MSR.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Hotspot {
    pub(crate) class: String,
    pub(crate) address: u64,
    pub(crate) size: Option<u32>,
    pub(crate) count: u64,
}

/// KVM's own count against the programs'.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Audit {
    pub(crate) agrees: bool,
    pub(crate) exits: Pair,
    pub(crate) kvm_runs: Pair,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Pair {
    pub(crate) kvm_says: u64,
}

/// What the workload made.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Made {
    pub(crate) pid: u32,
    pub(crate) vms: Vec<VmMade>,
    pub(crate) places: Vec<PlaceMade>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct VmMade {
    pub(crate) vcpus: Vec<VcpuMade>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct VcpuMade {
    pub(crate) vcpu: u32,
    pub(crate) tid: u32,
    pub(crate) made: Counts,
    pub(crate) kvm_run_calls: u64,
    pub(crate) kvm_run_returns: u64,
    pub(crate) interrupted: u64,
    pub(crate) sign_offs: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct PlaceMade {
    pub(crate) class: String,
    pub(crate) address: u64,
    pub(crate) size: u32,
    pub(crate) count: u64,
}

/// The library's outcome in the shape of the command's.
pub(crate) fn made(outcome: &tdtrace::workload::Made) -> Made {
    let json = serde_json::to_value(outcome).expect("the outcome is JSON");
    serde_json::from_value(json).expect("the outcome has the fields of the command's JSON")
}
