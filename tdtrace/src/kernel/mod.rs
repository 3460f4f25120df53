//! Facts about a kernel: its BTF, its structure layouts, its privileges and interfaces.
//!
//! Reads files below a root (`/` for the running machine) and changes nothing.

pub mod btf;
pub mod clock;
pub mod cpu;
mod facts;
pub mod guest;
pub mod kvm;
pub mod layout;
pub mod privilege;
pub mod seam;
mod seen;
pub mod symbols;
pub mod tracefs;

pub use facts::Facts;
pub use seen::Seen;
pub(crate) use seen::first_line;
