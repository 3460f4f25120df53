//! Containers, pods, services and libvirt's machines by the paths in `/proc/PID/cgroup`. Pure.

use super::command::short_id;

/// The cgroup paths of `text`, one per hierarchy (`kernel/cgroup/cgroup.c:proc_cgroup_show`): lines
/// `ID:CONTROLLERS:PATH`, of which v2 is `0::PATH`. Only the path may contain more colons.
fn paths(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.splitn(3, ':').nth(2))
}

/// The first of `find` in the segments of all paths. A path's outer segments come first: the inner
/// ones may be named by what runs there.
fn first(text: &str, find: impl Fn(&str) -> Option<String>) -> Option<String> {
    paths(text).flat_map(|path| path.split('/')).find_map(find)
}

/// The container's id, else the pod, the LXC container or the systemd service.
pub(super) fn container(text: &str) -> Option<String> {
    first(text, id)
        .or_else(|| first(text, pod))
        .or_else(|| first(text, lxc))
        .or_else(|| service(text))
}

/// The id in `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`,
/// `SLICE:cri-containerd:ID` or plain `ID`, shortened.
fn id(segment: &str) -> Option<String> {
    let unit = segment.strip_suffix(".scope").unwrap_or(segment);
    let last = unit.rsplit(['-', ':', '_']).next().unwrap_or(unit);
    // Podman's and CRI-O's monitors are not in the container.
    let monitor = unit.contains("-conmon-");
    short_id(last).filter(|_| !monitor).map(str::to_owned)
}

/// The pod's UID in `podUID` or `kubepods-QOS-podUID.slice`, where systemd has `_` for `-`.
fn pod(segment: &str) -> Option<String> {
    let uid = match segment.strip_suffix(".slice") {
        Some(slice) if slice.starts_with("kubepods") => slice.rsplit_once("-pod")?.1,
        Some(_) => return None,
        None => segment.strip_prefix("pod")?,
    };
    let digits = uid.bytes().filter(u8::is_ascii_hexdigit).count();
    let dashes = uid.bytes().filter(|byte| matches!(byte, b'-' | b'_')).count();
    // A static pod's UID is a hash without dashes.
    let is_uid = digits == 32 && matches!(dashes, 0 | 4) && uid.len() == digits + dashes;
    is_uid.then(|| format!("pod/{}", uid.replace('_', "-")))
}

/// The name in `lxc.payload.NAME`.
fn lxc(segment: &str) -> Option<String> {
    let name = segment.strip_prefix("lxc.payload.")?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The innermost systemd service, but none of a user's session: those are the user's own.
fn service(text: &str) -> Option<String> {
    paths(text)
        .filter(|path| !path.starts_with("/user.slice/"))
        .flat_map(|path| path.rsplit('/'))
        .find(|segment| segment.strip_suffix(".service").is_some_and(|unit| !unit.is_empty()))
        .map(unescape)
}

/// The name that libvirt gave the machine: `machine-qemu\x2d1\x2dNAME.scope` with systemd,
/// `qemu-1-NAME.libvirt-qemu` without (libvirt `src/util/vircgroup.c`, `src/hypervisor/domain_cgroup.c`).
pub(super) fn machine(text: &str) -> Option<String> {
    first(text, |segment| {
        let unit = segment
            .strip_suffix(".scope")
            .and_then(|unit| unit.strip_prefix("machine-"))
            .map(unescape)
            .or_else(|| segment.strip_suffix(".libvirt-qemu").map(str::to_owned))?;
        let numbered = ["qemu-", "ch-"].iter().find_map(|driver| unit.strip_prefix(driver))?;
        let (number, name) = numbered.split_once('-')?;
        let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
        (is_number && !name.is_empty()).then(|| name.to_owned())
    })
}

/// A unit's name with `\xNN` taken back (systemd `src/basic/unit-name.c:unit_name_unescape`); what is
/// no escape stays as it is.
fn unescape(unit: &str) -> String {
    let mut bytes = Vec::with_capacity(unit.len());
    let mut rest = unit.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let escaped = match rest {
            [b'\\', b'x', high, low, ..] => digit(*high).zip(digit(*low)),
            _ => None,
        };
        if let Some((high, low)) = escaped {
            bytes.push(high << 4 | low);
            rest = &rest[4..];
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}
