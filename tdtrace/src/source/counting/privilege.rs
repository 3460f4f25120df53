//! Whether eBPF programs can be loaded at all, said before the kernel refuses them.

use anyhow::{Result, bail};

use crate::kernel::{
    Facts,
    privilege::{Capability, Lockdown},
};

/// # Errors
/// When they cannot: one sentence with the next step.
pub(crate) fn check(facts: &Facts) -> Result<()> {
    if facts.privilege.lockdown.known() == Some(&Lockdown::Confidentiality) {
        bail!(
            "kernel lockdown is `confidentiality`, which forbids reading kernel memory; boot with lockdown=integrity or without it"
        );
    }
    if facts.privilege.initial_user_namespace.known() == Some(&false) {
        bail!(
            "this is a user namespace of its own, whose capabilities do not reach eBPF; run it outside of it, as root of the host"
        );
    }
    if let Some(credentials) = facts.privilege.credentials.known() {
        for capability in [Capability::Bpf, Capability::Perfmon] {
            if !credentials.may(capability) {
                bail!(
                    "{} is missing, so eBPF programs cannot be loaded; run it as root: sudo tdtrace …",
                    capability.name()
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Why programs cannot be loaded on a machine with these files.
    fn refusal(files: &[(&str, &str)]) -> Option<String> {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        check(&Facts::read(root.path())).err().map(|error| format!("{error:#}"))
    }

    #[test]
    fn only_confidentiality_lockdown_is_refused_and_says_what_to_boot_with() {
        let lockdown = "sys/kernel/security/lockdown";
        for fine in ["[none] integrity confidentiality", "none [integrity] confidentiality"] {
            assert_eq!(refusal(&[(lockdown, fine)]), None);
        }
        let error = refusal(&[(lockdown, "none integrity [confidentiality]\n")]).unwrap();
        assert!(error.contains("confidentiality") && error.contains("lockdown=integrity"));
        assert_eq!(error.lines().count(), 1);
    }

    #[test]
    fn a_missing_capability_is_named_unless_sys_admin_includes_it() {
        let status =
            |capabilities: u64| format!("Uid:\t0\t0\t0\t0\nCapEff:\t{capabilities:016x}\n");
        let refusal = |capabilities| refusal(&[("proc/self/status", &status(capabilities))]);
        let bit = |capability: Capability| 1 << capability as u8;
        let (bpf, perfmon) = (bit(Capability::Bpf), bit(Capability::Perfmon));
        assert_eq!(refusal(bpf | perfmon), None);
        assert_eq!(refusal(bit(Capability::SysAdmin)), None);
        assert!(refusal(perfmon).unwrap().starts_with("CAP_BPF is missing"));
        let error = refusal(bpf).unwrap();
        assert!(error.starts_with("CAP_PERFMON is missing") && error.contains("sudo tdtrace"));
    }
}
