//! Hits of a kprobe that the kernel skipped: those in which a kprobe hit another. They are not among the
//! skipped runs of its program, which was never asked.

use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use aya::programs::links::FdLink;

/// `enum bpf_cmd` (`include/uapi/linux/bpf.h`).
const OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
/// `enum bpf_perf_event_type`: kprobes and kretprobes.
const KPROBE: u32 = 3;
const KRETPROBE: u32 = 4;

/// `struct bpf_link_info` of a perf event that is a kprobe, as far as it is wanted.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    padding: u32,
    event: u32,
    reserved: u32,
    name: u64,
    name_length: u32,
    offset: u32,
    address: u64,
    missed: u64,
    cookie: u64,
}

/// The first words of `union bpf_attr` for these two commands.
#[repr(C)]
struct Attribute {
    /// Number of a link, or a file descriptor.
    object: u32,
    info_length: u32,
    info: u64,
    padding: [u64; 16],
}

/// Hits that the kprobe behind `link` missed; `None` where the kernel does not tell, as before Linux
/// 6.7.
pub(super) fn missed(link: &FdLink) -> Option<u64> {
    let fd = open(link.info().ok()?.id())?;
    let mut info = LinkInfo::default();
    let attribute = Attribute {
        object: u32::try_from(fd.as_raw_fd()).ok()?,
        info_length: u32::try_from(size_of::<LinkInfo>()).ok()?,
        info: (&raw mut info) as u64,
        padding: [0; 16],
    };
    let result = bpf(OBJ_GET_INFO_BY_FD, &attribute);
    (result == 0 && matches!(info.event, KPROBE | KRETPROBE)).then_some(info.missed)
}

fn open(link: u32) -> Option<OwnedFd> {
    let attribute = Attribute { object: link, info_length: 0, info: 0, padding: [0; 16] };
    let fd = i32::try_from(bpf(LINK_GET_FD_BY_ID, &attribute)).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: the kernel has just made it for us.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: libc::c_long, attribute: &Attribute) -> libc::c_long {
    // SAFETY: the attribute is as large as is said; what it points to is writable and as large as it
    // says.
    unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attribute, size_of::<Attribute>()) }
}
