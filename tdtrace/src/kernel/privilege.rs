//! What this process may do: capabilities, user namespace, lockdown, and the sysctls around BPF.
//!
//! Pure over text.

use std::path::Path;

use super::seen::{self, Seen};

/// A capability that tdtrace asks for; the number is its bit (`include/uapi/linux/capability.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    /// Includes BPF and PERFMON; alone allows run-time statistics of programs.
    SysAdmin = 21,
    /// Locks more memory than the limit, which maps need before Linux 5.11.
    SysResource = 24,
    /// Reads kernel memory in programs and attaches to tracepoints.
    Perfmon = 38,
    /// Loads programs and makes maps.
    Bpf = 39,
}

impl Capability {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bpf, Self::Perfmon, Self::SysAdmin, Self::SysResource];

    /// The name, as in capabilities(7).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::SysResource => "CAP_SYS_RESOURCE",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }
}

/// Who this process is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Effective user id.
    pub euid: u32,
    /// The effective capabilities, a bit each.
    pub effective: u64,
}

impl Credentials {
    /// Reads the text of `/proc/self/status`.
    #[must_use]
    pub fn parse(status: &str) -> Option<Self> {
        let value =
            |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        let euid = value("Uid")?.split_ascii_whitespace().nth(1)?.parse().ok()?;
        let effective = u64::from_str_radix(value("CapEff")?.trim(), 16).ok()?;
        Some(Self { euid, effective })
    }

    /// Whether the capability is effective by itself.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        self.effective >> (capability as u8) & 1 == 1
    }

    /// Whether what the capability allows is allowed: CAP_SYS_ADMIN includes BPF and PERFMON.
    #[must_use]
    pub const fn may(self, capability: Capability) -> bool {
        let included = matches!(capability, Capability::Bpf | Capability::Perfmon);
        self.has(capability) || (included && self.has(Capability::SysAdmin))
    }
}

/// How far the kernel is locked down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lockdown {
    /// Not at all.
    None,
    /// The kernel cannot be changed; it can be read.
    Integrity,
    /// The kernel can neither be changed nor read: programs cannot read its memory.
    Confidentiality,
}

impl Lockdown {
    /// Reads `/sys/kernel/security/lockdown`: all levels, the one in force in brackets.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('[')?.1.split_once(']')?.0 {
            "none" => Some(Self::None),
            "integrity" => Some(Self::Integrity),
            "confidentiality" => Some(Self::Confidentiality),
            _ => None,
        }
    }

    /// The kernel's word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Integrity => "integrity",
            Self::Confidentiality => "confidentiality",
        }
    }
}

/// What this process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Privilege {
    /// User and capabilities.
    pub credentials: Seen<Credentials>,
    /// Whether this is the initial user namespace. In another one capabilities do not reach BPF.
    pub initial_user_namespace: Seen<bool>,
    /// Lockdown; absent if the kernel has no lockdown or securityfs is not mounted.
    pub lockdown: Seen<Lockdown>,
    /// `net.core.bpf_jit_enable`: 0 interprets programs.
    pub bpf_jit: Seen<u32>,
    /// `kernel.unprivileged_bpf_disabled`: 0 allows BPF (of other kinds) to everyone.
    pub unprivileged_bpf_disabled: Seen<u32>,
    /// `kernel.perf_event_paranoid`; does not bind a process with CAP_PERFMON.
    pub perf_event_paranoid: Seen<i32>,
}

impl Privilege {
    pub(super) fn read(root: &Path) -> Self {
        let sysctl = |path| seen::line(root, &format!("proc/sys/{path}"));
        Self {
            credentials: seen::text(root, "proc/self/status").parse(Credentials::parse),
            initial_user_namespace: user_namespace(root),
            lockdown: seen::line(root, "sys/kernel/security/lockdown").parse(Lockdown::parse),
            bpf_jit: sysctl("net/core/bpf_jit_enable").parse(|text| text.parse().ok()),
            unprivileged_bpf_disabled: sysctl("kernel/unprivileged_bpf_disabled")
                .parse(|text| text.parse().ok()),
            perf_event_paranoid: sysctl("kernel/perf_event_paranoid")
                .parse(|text| text.parse().ok()),
        }
    }
}

fn user_namespace(root: &Path) -> Seen<bool> {
    match std::fs::read_link(root.join("proc/self/ns/user")) {
        Ok(link) => Seen::Is(link.to_string_lossy().into_owned()).parse(is_initial),
        Err(error) => seen::unreadable(&error),
    }
}

/// Whether a link such as `user:[4026531837]` names the initial user namespace, whose inode is fixed
/// (`USER_NS_INIT_INO`, include/uapi/linux/nsfs.h).
fn is_initial(link: &str) -> Option<bool> {
    let inode: u64 = link.strip_prefix("user:[")?.strip_suffix(']')?.parse().ok()?;
    Some(inode == 0xeffffffd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_bits_of_the_effective_set() {
        let status = "Name:\tcat\nUid:\t1000\t0\t1000\t1000\nCapPrm:\t0000000000000000\n\
                      CapEff:\t000000c001000000\n";
        let credentials = Credentials::parse(status).unwrap();
        assert_eq!(credentials.euid, 0);
        let held = Capability::ALL.map(|capability| credentials.has(capability));
        assert_eq!(held, [true, true, false, true]);
        assert_eq!(Credentials::parse("Uid:\t0\t0\t0\t0\nCapEff:\tnonsense"), None);
        assert_eq!(Credentials::parse(""), None);
    }

    #[test]
    fn sys_admin_includes_bpf_and_perfmon_and_not_sys_resource() {
        let credentials = Credentials { euid: 0, effective: 1 << 21 };
        let allowed = Capability::ALL.map(|capability| credentials.may(capability));
        assert_eq!(allowed, [true, true, true, false]);
    }

    #[test]
    fn lockdown_is_what_stands_in_brackets() {
        assert_eq!(Lockdown::parse("[none] integrity confidentiality"), Some(Lockdown::None));
        assert_eq!(Lockdown::parse("none [integrity] confidentiality"), Some(Lockdown::Integrity));
        assert_eq!(
            Lockdown::parse("none integrity [confidentiality]"),
            Some(Lockdown::Confidentiality)
        );
        assert_eq!(Lockdown::parse("none integrity"), None);
        assert_eq!(Lockdown::parse("[other]"), None);
    }

    #[test]
    fn the_initial_user_namespace_is_known_by_its_inode() {
        assert_eq!(is_initial("user:[4026531837]"), Some(true));
        assert_eq!(is_initial("user:[4026532201]"), Some(false));
        assert_eq!(is_initial("mnt:[4026531837]"), None);
    }
}
