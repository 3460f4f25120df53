//! Checks of what this process may do.

use super::{Check, Status, machine::why};
use crate::kernel::{
    Facts, Seen,
    privilege::{Capability, Credentials, Lockdown},
};

pub(super) fn privileges(facts: &Facts) -> Vec<Check> {
    let mut checks = vec![lockdown(facts), user_namespace(&facts.privilege.initial_user_namespace)];
    match &facts.privilege.credentials {
        Seen::Is(credentials) => {
            checks.push(Check::ok("user", format!("uid {}", credentials.euid)));
            let release = facts.release.known().map(String::as_str);
            checks
                .extend(Capability::ALL.map(|capability| held(capability, *credentials, release)));
        }
        other => checks.push(
            Check::unknown(
                "user",
                format!("user and capabilities are not known: {}", why(other)),
                "mount procfs on /proc",
            )
            .blocking(),
        ),
    }
    checks.push(sysctls(facts));
    checks
}

fn lockdown(facts: &Facts) -> Check {
    const NAME: &str = "lockdown";
    match &facts.privilege.lockdown {
        Seen::Is(Lockdown::Confidentiality) => Check::missing(
            NAME,
            "confidentiality: no program may read kernel memory",
            "boot with lockdown=integrity or without lockdown",
        )
        .blocking(),
        Seen::Is(level) => Check::ok(NAME, level.name()),
        Seen::Absent if facts.securityfs => Check::ok(NAME, "this kernel has none"),
        Seen::Absent => Check::unknown(
            NAME,
            "not known: securityfs is not mounted or empty",
            "mount -t securityfs securityfs /sys/kernel/security",
        ),
        other @ Seen::Unreadable(_) => Check::unknown(
            NAME,
            format!("not known: {}", why(other)),
            "run tdtrace doctor as root to see it",
        ),
    }
}

fn user_namespace(initial: &Seen<bool>) -> Check {
    const NAME: &str = "user_namespace";
    match initial {
        Seen::Is(true) => Check::ok(NAME, "the initial one"),
        Seen::Is(false) => Check::missing(
            NAME,
            "not the initial one: its capabilities do not reach BPF",
            "run tdtrace outside of the container or user namespace",
        )
        .blocking(),
        other => Check::unknown(
            NAME,
            format!("not known: /proc/self/ns/user is {}", why(other)),
            "nothing, unless loading fails: then run tdtrace outside of any container",
        ),
    }
}

fn held(capability: Capability, credentials: Credentials, release: Option<&str>) -> Check {
    let name = capability.name();
    if credentials.has(capability) {
        return Check::ok(name, "held");
    }
    if credentials.may(capability) {
        return Check::ok(name, "not held, and included in CAP_SYS_ADMIN");
    }
    match capability {
        Capability::Bpf => {
            Check::missing(name, "not held: no program can be loaded", "run tdtrace with sudo")
                .blocking()
        }
        Capability::Perfmon => Check::missing(
            name,
            "not held: no program may be attached or read kernel memory",
            "run tdtrace with sudo",
        )
        .blocking(),
        Capability::SysAdmin => Check::limited(
            name,
            "not held: the cost of tdtrace's own programs cannot be measured",
            "run tdtrace with sudo",
        ),
        Capability::SysResource if release.is_some_and(charges_maps_to_cgroups) => {
            Check::ok(name, "not held, and not needed since Linux 5.11")
        }
        Capability::SysResource => Check::new(
            name,
            Status::Limited,
            "not held: before Linux 5.11 maps count as locked memory",
            "run tdtrace with sudo, or raise the limit with ulimit -l",
        ),
    }
}

/// Whether the kernel is 5.11 or newer, from where on RLIMIT_MEMLOCK does not bind BPF.
fn charges_maps_to_cgroups(release: &str) -> bool {
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor) >= (5, 11),
        _ => false,
    }
}

fn sysctls(facts: &Facts) -> Check {
    let show = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    let paranoid = facts.privilege.perf_event_paranoid.known().map(i32::to_string);
    let unprivileged = facts.privilege.unprivileged_bpf_disabled.known().map(u32::to_string);
    Check::ok(
        "sysctls",
        format!(
            "perf_event_paranoid {}, unprivileged_bpf_disabled {}; neither binds who has these \
             capabilities",
            show(paranoid),
            show(unprivileged)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        for (release, newer) in [
            ("5.10.0-30-amd64", false),
            ("5.11.0", true),
            ("6.1", true),
            ("4.19.0", false),
            ("10.0-rc1", true),
            ("unknown", false),
            ("", false),
        ] {
            assert_eq!(charges_maps_to_cgroups(release), newer, "{release}");
        }
    }
}
