//! Facts about a kernel: its BTF, its structure layouts, its privileges and interfaces.

pub mod btf;
pub mod layout;
