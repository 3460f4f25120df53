//! What the kernel side and the user side of tdtrace share: counters in the maps, the layout of
//! the kernel structures that the programs read, and the tables of numbers and names.
//!
//! `no_std`, no dependency, no behaviour beyond lookups: everything here is compiled twice, once
//! for the BPF target and once for the host.

#![no_std]

pub mod counters;
pub mod kvm;
pub mod layout;
pub mod svm;
pub mod vmx;

/// Looks `number` up in a table that is ascending by number.
fn name_in(table: &'static [(u32, &'static str)], number: u32) -> Option<&'static str> {
    table.binary_search_by_key(&number, |(n, _)| *n).ok().map(|index| table[index].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_ascending_so_that_the_binary_search_holds() {
        for table in [
            vmx::EXIT_REASONS,
            svm::EXIT_CODES,
            kvm::USERSPACE_EXITS,
            kvm::HYPERCALLS,
            kvm::VM_TYPES,
        ] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
    }

    #[test]
    fn the_reasons_that_peers_get_wrong_have_names() {
        assert_eq!(vmx::exit_reason(76), Some("SEAMCALL"));
        assert_eq!(vmx::exit_reason(77), Some("TDCALL"));
        assert_eq!(vmx::exit_reason(0xdead), Some("UNDEFINED"));
        assert_eq!(kvm::userspace_exit(39), Some("MEMORY_FAULT"));
        assert_eq!(kvm::userspace_exit(40), Some("TDX"));
        assert_eq!(svm::exit_code(0x400), Some("NPF"));
    }
}
