//! VMMs by their command lines. Pure.

/// A VMM whose command line is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vmm {
    Qemu,
    CloudHypervisor,
    Firecracker,
    Crosvm,
    Kvmtool,
}

impl Vmm {
    /// Its name as shown.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::CloudHypervisor => "cloud-hypervisor",
            Self::Firecracker => "firecracker",
            Self::Crosvm => "crosvm",
            Self::Kvmtool => "kvmtool",
        }
    }

    /// The VMM whose program is called `program`, which may be cut to the 15 bytes of a comm.
    fn of(program: &str) -> Option<Self> {
        // Versions and targets follow the name: firecracker-v1.7.0-x86_64, qemu-system-x86_64-tdx.
        let begins = |name: &str| program.starts_with(name);
        // Proxmox calls its QEMU kvm.
        if begins("qemu-system-") || program == "qemu-kvm" || program == "kvm" {
            Some(Self::Qemu)
        } else if begins("cloud-hyperviso") {
            Some(Self::CloudHypervisor)
        } else if program == "firecracker" || begins("firecracker-") {
            Some(Self::Firecracker)
        } else if program == "crosvm" {
            Some(Self::Crosvm)
        } else if program == "lkvm" || program == "lkvm-static" {
            Some(Self::Kvmtool)
        } else {
            None
        }
    }
}

/// The arguments in the contents of `/proc/PID/cmdline`, which end with a NUL each.
pub(super) fn arguments(cmdline: &[u8]) -> Vec<String> {
    let cmdline = cmdline.strip_suffix(b"\0").unwrap_or(cmdline);
    cmdline.split(|byte| *byte == 0).map(|arg| String::from_utf8_lossy(arg).into_owned()).collect()
}

/// The VMM by the process's name, else by what it was called as: QEMU renames itself if asked to
/// (`-name process=`).
pub(super) fn vmm(comm: &str, args: &[String]) -> Option<Vmm> {
    Vmm::of(comm).or_else(|| args.first().and_then(|arg| Vmm::of(file_name(arg))))
}

/// The name that the command line gives the VM.
pub(super) fn name(vmm: Vmm, args: &[String]) -> Option<String> {
    let given = match vmm {
        Vmm::Qemu => option(args, &["-name", "--name"]).and_then(guest),
        // It has no option for a name.
        Vmm::CloudHypervisor => None,
        Vmm::Firecracker => option(args, &["--id"]).map(str::to_owned),
        Vmm::Crosvm | Vmm::Kvmtool => option(args, &["--name"]).map(str::to_owned),
    };
    let given = given.filter(|name| !name.is_empty())?;
    // Kata names its VM after the sandbox.
    Some(
        short_id(given.strip_prefix("sandbox-").unwrap_or(&given))
            .map_or(given.clone(), str::to_owned),
    )
}

/// What tells the VM from others where it has no name: its UUID or its control socket.
pub(super) fn stand_in(vmm: Vmm, args: &[String]) -> Option<String> {
    let found = match vmm {
        Vmm::Qemu => option(args, &["-uuid", "--uuid"]).map(str::to_owned),
        Vmm::CloudHypervisor => option(args, &["--api-socket"]).and_then(socket),
        Vmm::Firecracker => option(args, &["--api-sock"]).and_then(socket),
        Vmm::Crosvm => option(args, &["-s", "--socket"]).and_then(socket),
        Vmm::Kvmtool => None,
    };
    found.filter(|name| !name.is_empty())
}

/// The value of the last of the options `names`, as `NAME VALUE` or `NAME=VALUE`.
fn option<'a>(args: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut value = None;
    let mut rest = args.iter().skip(1);
    while let Some(arg) = rest.next() {
        if arg == "--" {
            break;
        }
        for name in names {
            match arg.strip_prefix(name) {
                Some("") => value = rest.next().map(String::as_str).or(value),
                Some(tail) => value = tail.strip_prefix('=').or(value),
                None => continue,
            }
            break;
        }
    }
    value
}

/// The guest's name in the value of QEMU's `-name`: `NAME,…` or `…,guest=NAME,…`, where a comma of the
/// name is doubled (`util/keyval.c`, `util/qemu-option.c:get_opt_value`).
fn guest(value: &str) -> Option<String> {
    let mut items = vec![String::new()];
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        if c == ',' && chars.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(c);
        }
    }
    let named = items.iter().rev().find_map(|item| item.strip_prefix("guest="));
    let bare = items.first().filter(|item| !item.contains('='));
    named.or(bare.map(String::as_str)).map(str::to_owned)
}

/// The name in a socket's path: the sandbox's id where Kata made it, else the file's name without what
/// says that it is a socket.
fn socket(value: &str) -> Option<String> {
    let path = value.strip_prefix("path=").unwrap_or(value);
    let path = path.split(',').next().unwrap_or(path);
    if path.starts_with("fd=") {
        return None;
    }
    if let Some(id) = path.split('/').find_map(short_id) {
        return Some(id.to_owned());
    }
    let file = file_name(path);
    let endings = [".sock", ".socket", "-socket"];
    let stem = endings.iter().find_map(|ending| file.strip_suffix(ending));
    Some(stem.filter(|stem| !stem.is_empty()).unwrap_or(file).to_owned())
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The 12 digits that people see of a container's or sandbox's id, which has 64.
pub(super) fn short_id(id: &str) -> Option<&str> {
    (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then(|| &id[..12])
}
