//! What the kernel side and the user side of tdtrace share: counters in the maps, the layout of
//! the kernel structures that the programs read, and the tables of numbers and names.
//!
//! `no_std`, no dependency, no behaviour beyond lookups: everything here is compiled twice, once
//! for the BPF target and once for the host.

#![no_std]

pub mod constant;
pub mod counters;
pub mod guest;
pub mod kvm;
pub mod latency;
pub mod layout;
pub mod ledger;
pub mod poison;
pub mod seam;
pub mod svm;
pub mod synthetic;
pub mod td;
pub mod tdx;
pub mod vmx;

/// Looks `number` up in a table that is ascending by number.
fn name_in<N: Copy + Ord>(table: &'static [(N, &'static str)], number: N) -> Option<&'static str> {
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
            tdx::TDCALL_LEAVES,
            tdx::TDVMCALL_LEAVES,
            tdx::SEAMCALL_LEAVES,
            tdx::SEAMCALL_STATUSES,
            tdx::OPERANDS,
            tdx::SEPT_STATES,
        ] {
            assert!(table.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        assert!(tdx::TDVMCALL_STATUSES.windows(2).all(|pair| pair[0].0 < pair[1].0));
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

    #[test]
    fn tdx_numbers_have_their_names_and_gaps_have_none() {
        assert_eq!(tdx::tdcall_leaf(6), Some("TDG.MEM.PAGE.ACCEPT"));
        assert_eq!(tdx::tdcall_leaf(19), None);
        assert_eq!(tdx::tdvmcall_leaf(0x10001), Some("MapGPA"));
        assert_eq!(tdx::tdvmcall_leaf(0x10006), None);
        assert_eq!(tdx::tdvmcall_status(1 << 63 | 3), Some("SUBFUNC_UNSUPPORTED"));
        assert_eq!(tdx::tdvmcall_status(2), None);
        assert_eq!(tdx::seamcall_leaf(29), Some("TDH.MEM.PAGE.REMOVE"));
        assert_eq!(tdx::seamcall_leaf(5), None);
        assert_eq!(tdx::seamcall_status(0xc000_0b0d), Some("EPT_ENTRY_STATE_INCORRECT"));
        assert_eq!(tdx::operand(0x92), Some("SEPT"));
        assert_eq!(tdx::sept_state(4), Some("PRESENT"));
        assert_eq!(tdx::SW_ERROR, 0x8000_ff00_0000_0000);
    }
}
