//! Counting on this machine's KVM, against guests that know to the last access what they did.
//!
//! `report` is the JSON that both commands print, `stat` runs `tdtrace stat`, `compare` holds the two
//! against each other, `guest` is a small VMM for what the workload does not do, `cpus` says where
//! threads run. The other files are tests. Needs root as well: programs are loaded into this kernel.

mod churn;
mod compare;
mod cpus;
mod exact;
mod guest;
mod places;
mod report;
mod running;
mod slots;
mod stat;
mod threads;
