//! What a guest's programs are told about their kernel: offsets, addresses, how functions report
//! failure, where the HPET is and which bit says shared.
//!
//! Reads BTF, symbols and `/proc/iomem`.

use std::path::Path;

use tdtrace_common::{
    guest::{GuestAddresses, InterruptBits, NO_ADDRESS, OPERATIONS, Operation, Returns},
    layout::{Field, GuestLayout},
};

use super::{
    btf::{Btf, Returned},
    seen,
    symbols::Symbols,
};

/// The layout of a guest's kernel.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The offsets in bytes.
    pub layout: GuestLayout,
    /// Whether they are assumed, because there is no BTF.
    pub assumed: bool,
    /// Every field that was not found, with the reason.
    pub missing: Vec<(Field, String)>,
}

impl Resolved {
    /// Why the field called `name` is missing, if it is.
    #[must_use]
    pub fn why_missing(&self, name: &str) -> Option<&str> {
        self.missing.iter().find(|(field, _)| field.name == name).map(|(_, why)| why.as_str())
    }
}

/// Resolves every field of [`GuestLayout`]; without BTF what every known kernel has is assumed.
#[must_use]
pub fn resolve(vmlinux: Option<&Btf>) -> Resolved {
    let Some(btf) = vmlinux else {
        return Resolved { layout: GuestLayout::ASSUMED, assumed: true, missing: Vec::new() };
    };
    let mut resolved = Resolved { layout: GuestLayout::EMPTY, assumed: false, missing: Vec::new() };
    for field in GuestLayout::FIELDS {
        match btf.member(field.path) {
            Ok(info) => _ = resolved.layout.set(field.name, info.offset),
            Err(error) => resolved.missing.push((*field, error.to_string())),
        }
    }
    resolved
}

/// Addresses of the variables that the programs read. `preempt_count` is a per-CPU variable of its own
/// up to Linux 6.1 and again since 6.15, in between it lies in `pcpu_hot`. Kernels that have
/// `local_interrupt_disable_state` beside it count disabled interrupts in it and have moved the others up.
#[must_use]
pub fn addresses(symbols: Option<&Symbols>, resolved: &Resolved) -> GuestAddresses {
    let Some(symbols) = symbols else { return GuestAddresses::UNKNOWN };
    let address = |name| symbols.address(name).unwrap_or(NO_ADDRESS);
    let preempt_count = match resolved.layout.get("pcpu_hot_preempt_count") {
        Some(_) => address("pcpu_hot"),
        None => address("__preempt_count"),
    };
    let interrupt_bits = match symbols.address("local_interrupt_disable_state") {
        Some(_) => InterruptBits::BEHIND_DISABLED,
        None => InterruptBits::DIRECT,
    };
    GuestAddresses {
        per_cpu_offset: address("__per_cpu_offset"),
        preempt_count,
        cc_mask: address("cc_mask"),
        interrupt_bits,
    }
}

/// The function of an operation, and how it reports failure where BTF does not say.
#[must_use]
pub const fn function(operation: Operation) -> (&'static str, Returns) {
    match operation {
        Operation::ToShared | Operation::ToPrivate => ("__set_memory_enc_pgtable", Returns::Int),
        Operation::Prepare => ("tdx_enc_status_change_prepare", Returns::Nothing),
        Operation::Finish => ("tdx_enc_status_change_finish", Returns::Nothing),
        Operation::MapShared | Operation::MapPrivate => ("tdx_map_gpa", Returns::Bool),
        Operation::AcceptTdx => ("tdx_accept_memory", Returns::Bool),
        Operation::Accept => ("accept_memory", Returns::Nothing),
        Operation::Report => ("tdx_report_new", Returns::Int),
        Operation::GetQuote => ("tdx_hcall_get_quote", Returns::Status),
        Operation::Bounce => ("swiotlb_bounced", Returns::Nothing),
    }
}

/// How each operation's function reports failure: `bool` became `int` in places between 6.1 and 6.12,
/// so BTF decides.
#[must_use]
pub fn returns(vmlinux: Option<&Btf>) -> [u8; OPERATIONS] {
    Operation::ALL.map(|operation| {
        let (name, usual) = function(operation);
        let returns = match vmlinux.and_then(|btf| btf.returned(name)) {
            Some(Returned::Bool) => Returns::Bool,
            Some(Returned::Integer(8)) => Returns::Status,
            Some(Returned::Integer(_)) => Returns::Int,
            Some(Returned::Void | Returned::Other) => Returns::Nothing,
            None => usual,
        };
        returns as u8
    })
}

/// The page of the HPET's registers as `/proc/iomem` below `root` tells it; [`NO_ADDRESS`] without one.
#[must_use]
pub fn hpet(root: &Path) -> u64 {
    seen::text(root, "proc/iomem").known().map_or(NO_ADDRESS, |text| parse_hpet(text))
}

/// The page that every PC's HPET has (Intel IA-PC HPET Specification 1.0a, section 2.3.9.1).
const USUAL_HPET: u64 = 0xfed0_0000;

/// A file without addresses, as processes without privilege see it, has only zeros.
fn parse_hpet(iomem: &str) -> u64 {
    let mut lines = iomem.lines().filter(|line| line.contains("HPET"));
    let Some(line) = lines.next() else { return NO_ADDRESS };
    let start = line.trim_start().split('-').next().unwrap_or_default();
    match u64::from_str_radix(start, 16) {
        Ok(0) | Err(_) => USUAL_HPET,
        Ok(address) => address & !0xfff,
    }
}

#[cfg(test)]
mod tests {
    use super::{super::btf::testing::Writer, *};

    #[test]
    fn without_btf_the_layout_is_assumed_and_says_so() {
        let resolved = resolve(None);
        assert!(resolved.assumed && resolved.missing.is_empty());
        assert_eq!(resolved.layout, GuestLayout::ASSUMED);
    }

    #[test]
    fn btf_that_lacks_the_structures_gives_reasons_and_no_guess() {
        let btf = Btf::parse(Writer::new().bytes()).unwrap();
        let resolved = resolve(Some(&btf));
        assert_eq!(resolved.layout, GuestLayout::EMPTY);
        assert!(!resolved.assumed && resolved.why_missing("ve_gpa").is_some());
        assert_eq!(resolved.missing.len(), GuestLayout::FIELDS.len());
    }

    #[test]
    fn btf_decides_between_bool_and_int() {
        let mut writer = Writer::new();
        let int = writer.int("int", 4);
        let prototype = writer.record("", 13 << 24, int, &[]);
        writer.record("tdx_enc_status_change_finish", 12 << 24, prototype, &[]);
        let btf = Btf::parse(writer.bytes()).unwrap();
        assert_eq!(returns(Some(&btf))[Operation::Finish as usize], Returns::Int as u8);
        assert_eq!(returns(None)[Operation::Finish as usize], Returns::Nothing as u8);
        assert_eq!(returns(None)[Operation::MapShared as usize], Returns::Bool as u8);
    }

    #[test]
    fn the_hpet_is_where_iomem_says_and_where_it_usually_is_if_that_is_hidden() {
        let text = "fec00000-fec003ff : IOAPIC 0\n  fed01000-fed013ff : HPET 0\n";
        assert_eq!(parse_hpet(text), 0xfed0_1000);
        assert_eq!(parse_hpet("00000000-00000000 : HPET 0\n"), USUAL_HPET);
        assert_eq!(parse_hpet("fec00000-fec003ff : IOAPIC 0\n"), NO_ADDRESS);
    }

    #[test]
    fn a_kernel_that_counts_disabled_interrupts_has_other_bits() {
        let bits = |text: &str| {
            let symbols = Symbols::parse(text.to_owned());
            addresses(Some(&symbols), &resolve(None)).interrupt_bits
        };
        let old = "ffffffff83000000 D __preempt_count\n";
        assert_eq!(bits(old), InterruptBits::DIRECT);
        let new = format!("{old}ffffffff83000010 D local_interrupt_disable_state\n");
        assert_eq!(bits(&new), InterruptBits::BEHIND_DISABLED);
    }

    #[test]
    fn a_per_cpu_block_is_taken_only_where_the_layout_has_it() {
        let text = "ffffffff81000000 T f\n000000000003c440 A pcpu_hot\n\
            ffffffff82000000 D __per_cpu_offset\nffffffff83000000 D __preempt_count\n";
        let symbols = Symbols::parse(text.to_owned());
        let mut resolved = resolve(None);
        assert_eq!(addresses(Some(&symbols), &resolved).preempt_count, 0xffff_ffff_8300_0000);
        resolved.layout.pcpu_hot_preempt_count = 8;
        let found = addresses(Some(&symbols), &resolved);
        assert_eq!((found.preempt_count, found.cc_mask), (0x3c440, NO_ADDRESS));
        assert_eq!(addresses(None, &resolved), GuestAddresses::UNKNOWN);
    }
}
