//! A KVM guest of our own that makes an exact number of exits.
//!
//! It is the yardstick for everything else that counts: what the guest did is known to the last
//! access, so a difference is the counter's. This room may open `/dev/kvm` and start threads; it
//! knows no tracing, no clap and no terminal.
//!
//! [`Plan`] → guest code (both pure) → a VM with its memory → one thread a vCPU → [`Made`].

mod apic;
mod code;
mod control;
mod kind;
mod made;
mod memory;
mod plan;
mod run;
mod vcpu;
mod vm;
mod waker;

pub use kind::{Counts, Kind};
pub use made::{Made, PlaceMade, SCHEMA, VcpuMade, VmMade};
pub use plan::{MAX_ACCESSES, MAX_PLACES, MAX_VCPUS, Plan, PlanError, Wake};
pub use run::run;
