//! What was made, as the guest, its threads and the ioeventfds counted it.

use serde::Serialize;

use super::{
    kind::{Counts, Kind},
    plan::Plan,
};

/// Version of the JSON; it changes when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// The outcome of a plan.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Made {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The process that had the VMs.
    pub pid: u32,
    /// The VMs by number.
    pub vms: Vec<VmMade>,
    /// How often each port, address, leaf and MSR was accessed, all vCPUs together.
    pub places: Vec<PlaceMade>,
    /// The longest of the vCPUs' times.
    pub seconds: f64,
    /// Whether it was told to stop before it was through.
    pub stopped: bool,
    /// What ended each slice: `hlt`, or `pio_out` where the kernel serves HLT.
    pub sign_off: &'static str,
}

/// What one VM made.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VmMade {
    /// Its number.
    pub vm: u32,
    /// Its vCPUs by number.
    pub vcpus: Vec<VcpuMade>,
    /// Writes that the ioeventfds took: the sum of the vCPUs' `fast_mmio`.
    pub ioeventfd_signals: u64,
}

/// What one vCPU made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct VcpuMade {
    /// Its number, `kvm_vcpu.vcpu_id`.
    pub vcpu: u32,
    /// The thread that ran it.
    pub tid: u32,
    /// Accesses by kind, as the guest counted them.
    pub made: Counts,
    /// How often KVM_RUN was called: returns and interrupted ones.
    pub kvm_run_calls: u64,
    /// How often it came back with an exit.
    pub kvm_run_returns: u64,
    /// How often it came back with EINTR, because of a signal to the thread.
    pub interrupted: u64,
    /// HLTs, or OUTs where the kernel serves HLT, that ended a slice; they are not in `made`.
    pub sign_offs: u64,
    /// Interrupts that the guest's handler counted: one for each halt, more only if something delivers
    /// one twice.
    pub interrupts: u64,
    /// From its first KVM_RUN to its end.
    pub seconds: f64,
}

/// How often one place was accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PlaceMade {
    /// Name of the kind.
    pub class: &'static str,
    /// Port, GPA, CPUID leaf or MSR number.
    pub address: u64,
    /// Bytes accessed, 0 where there is no size.
    pub size: u32,
    /// Accesses.
    pub count: u64,
}

/// The places of `plan`, accessed in turn by each vCPU from the first one on.
pub(super) fn places(plan: &Plan, vms: &[VmMade]) -> Vec<PlaceMade> {
    let mut places = Vec::new();
    for kind in Kind::ALL {
        for place in 0..plan.places {
            let Some(address) = plan.address(kind, place) else { continue };
            let count = vms
                .iter()
                .flat_map(|vm| &vm.vcpus)
                .map(|vcpu| turns(vcpu.made.get(kind), place, plan.places))
                .fold(0, u64::saturating_add);
            if count > 0 {
                let (class, size) = (kind.name(), plan.size(kind));
                places.push(PlaceMade { class, address: address.into(), size, count });
            }
        }
    }
    places
}

/// How many of `made` accesses went to `place`, with `places` taking turns.
fn turns(made: u64, place: u32, places: u32) -> u64 {
    let (place, places) = (u64::from(place), u64::from(places.max(1)));
    made / places + u64::from(made % places > place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vcpu(counts: &[(Kind, u64)]) -> VcpuMade {
        VcpuMade {
            vcpu: 0,
            tid: 1,
            made: counts.iter().copied().collect(),
            kvm_run_calls: 0,
            kvm_run_returns: 0,
            interrupted: 0,
            sign_offs: 0,
            interrupts: 0,
            seconds: 0.0,
        }
    }

    #[test]
    fn places_share_the_accesses_in_turn_and_hlt_has_none() {
        let plan = Plan { places: 3, ..Plan::default() };
        let vcpus = vec![
            vcpu(&[(Kind::PioOut, 7), (Kind::Hlt, 9)]),
            vcpu(&[(Kind::PioOut, 2), (Kind::MsrRead, 1)]),
        ];
        let vms = [VmMade { vm: 0, vcpus, ioeventfd_signals: 0 }];
        let places = places(&plan, &vms);
        let seen: Vec<_> = places.iter().map(|p| (p.class, p.address, p.size, p.count)).collect();
        assert_eq!(
            seen,
            [
                ("pio_out", 0x500, 1, 4),
                ("pio_out", 0x510, 1, 3),
                ("pio_out", 0x520, 1, 2),
                ("msr_read", 0x8b, 0, 1),
            ]
        );
    }

    #[test]
    fn json_has_the_documented_fields() {
        let made = Made {
            schema: SCHEMA,
            pid: 7,
            vms: vec![VmMade { vm: 0, vcpus: vec![vcpu(&[])], ioeventfd_signals: 0 }],
            places: Vec::new(),
            seconds: 0.5,
            stopped: false,
            sign_off: "hlt",
        };
        let json = serde_json::to_value(&made).unwrap();
        let keys = |value: &serde_json::Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys.join(" ")
        };
        assert_eq!(keys(&json), "pid places schema seconds sign_off stopped vms");
        assert_eq!(keys(&json["vms"][0]), "ioeventfd_signals vcpus vm");
        assert_eq!(
            keys(&json["vms"][0]["vcpus"][0]),
            "interrupted interrupts kvm_run_calls kvm_run_returns made seconds sign_offs tid vcpu"
        );
    }
}
