//! Who runs a VM: asked of a source's own [`Owners`], shown as an [`Identity`].

use std::sync::Arc;

/// Most characters of a name; a UUID is 36 and a pod's UID with its mark is 40.
pub(crate) const SHOWN_MAX: usize = 40;

/// Who runs VMs.
pub(crate) trait Owners {
    /// Whether process `pid` is no more.
    fn is_gone(&mut self, pid: u32) -> bool;
    /// Who it is; what is not known is left empty.
    fn identity(&mut self, pid: u32) -> Identity;
    /// Its VM has ended.
    fn forget(&mut self, pid: u32);
}

/// Who runs a VM, and what its VMM calls it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The name that its VMM was given for it, else the process's.
    pub(crate) name: Arc<str>,
    /// `qemu`, `cloud-hypervisor` …; empty if it is none that is known.
    pub(crate) vmm: Arc<str>,
    /// The container, pod or service that the process belongs to.
    pub(crate) container: Option<Arc<str>>,
}

/// `identity` with the name `comm` that the kernel knew if there is none: the process was gone before
/// it could be asked, or does not let itself be asked.
pub(crate) fn named(mut identity: Identity, comm: &[u8; 16]) -> Identity {
    if identity.name.is_empty() {
        identity.name = process_name(comm).into();
    }
    identity
}

/// A process chooses its own name, so control characters do not reach a terminal.
fn process_name(comm: &[u8; 16]) -> String {
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    printable(&String::from_utf8_lossy(&comm[..end]))
}

/// `text` for a terminal: what would move the cursor or turn the direction of writing is replaced, and
/// what is too long for a column is cut.
pub(crate) fn printable(text: &str) -> String {
    let harmless = |c: char| if c.is_control() || is_invisible(c) { '?' } else { c };
    if text.chars().nth(SHOWN_MAX).is_none() {
        return text.chars().map(harmless).collect();
    }
    text.chars().take(SHOWN_MAX - 1).map(harmless).chain(['…']).collect()
}

/// Separators and format characters that take no cell: zero-width ones, those of direction, the byte
/// order mark.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_carry_escape_sequences() {
        assert_eq!(process_name(b"a\x1b[2Jb\x07\0\0\0\0\0\0\0\0\0"), "a?[2Jb?");
        assert_eq!(process_name(b"sixteen-bytes-ok"), "sixteen-bytes-ok");
        assert_eq!(process_name(&[0; 16]), "");
    }

    #[test]
    fn a_vm_whose_process_could_not_be_asked_keeps_the_name_the_kernel_knew() {
        let comm = b"vmm\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let unknown = Identity { name: "vmm".into(), ..Identity::default() };
        assert_eq!(named(Identity::default(), comm), unknown);
        assert_eq!(named(Identity::default(), comm), unknown);
        let known = Identity {
            name: "web".into(),
            vmm: "qemu".into(),
            container: Some("4f6e2b0c9d8a".into()),
        };
        assert_eq!(named(known.clone(), comm), known);
    }
}
