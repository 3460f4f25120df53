//! What the privileged kinds of tests need of this machine, each as a sentence when it is missing.

use std::fs::{self, OpenOptions};

use crate::workspace;

/// Capability numbers (capabilities(7)), one of each pair is enough.
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// A target directory of its own, so that none of the user's files end up as root's.
const AS_ROOT: &str = "sudo -E env PATH=\"$PATH\" CARGO_TARGET_DIR=target/root cargo xtask test";

/// What is missing to load eBPF programs.
pub(super) fn for_bpf() -> Option<String> {
    if !workspace::is_root() {
        return Some(format!("not root; run `{AS_ROOT}`"));
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match effective_capabilities(&status) {
        Some(set) if may_load_bpf(set) => None,
        Some(_) => Some("root without CAP_BPF and CAP_PERFMON, as in a plain container".into()),
        None => Some("/proc/self/status does not say the capabilities".into()),
    }
}

/// What is missing to run a KVM guest and trace it.
pub(super) fn for_kvm() -> Option<String> {
    for_bpf().or_else(|| {
        let error = OpenOptions::new().read(true).write(true).open("/dev/kvm").err()?;
        Some(format!("/dev/kvm does not open ({error})"))
    })
}

/// `CapEff` of a process status (proc_pid_status(5)).
fn effective_capabilities(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

fn may_load_bpf(set: u64) -> bool {
    let has = |capability: u32| set & (1 << capability) != 0;
    has(CAP_SYS_ADMIN) || (has(CAP_BPF) && has(CAP_PERFMON))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_set_is_read_and_not_another_one() {
        let status =
            "CapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0000000000000001\n";
        assert_eq!(effective_capabilities(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective_capabilities("CapPrm:\t0\n"), None);
    }

    #[test]
    fn root_of_a_plain_container_may_not_load_bpf() {
        // The default set of the common container engines.
        assert!(!may_load_bpf(0xa804_25fb));
        assert!(may_load_bpf(0x1ff_ffff_ffff));
        assert!(may_load_bpf(1 << CAP_BPF | 1 << CAP_PERFMON));
        assert!(!may_load_bpf(1 << CAP_BPF));
    }
}
