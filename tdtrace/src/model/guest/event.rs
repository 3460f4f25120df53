//! A single #VE as a record to be written: numbers as the kernel had them, and what they mean.

use std::fmt::Write as _;

use serde::Serialize;
use tdtrace_common::{
    guest::{
        Context, INSN_BYTES, VE_ERRNO, VE_HANDLED, VE_OWN, VE_TIMED, VE_UNPAIRED, VE_UNREAD,
        VE_USER, VeEvent,
    },
    vmx,
};

use super::shared_bit::SharedBit;
use crate::decode::bits::Hex;

/// A #VE. What is not known is left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Event {
    /// Number in the order of the beginnings, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// When it began, in nanoseconds of `CLOCK_MONOTONIC`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_ns: Option<u64>,
    /// How long it took, in nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ns: Option<u64>,
    /// The exit reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<u64>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'static str>,
    /// The exit qualification.
    pub qualification: Hex,
    /// Guest linear address.
    pub gla: Hex,
    /// Guest physical address as the TDX module said it.
    pub gpa_raw: Hex,
    /// The same without the shared bit, where its place is known.
    pub gpa: Hex,
    /// Whether the shared bit was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared: Option<bool>,
    /// Bytes of the instruction as the TDX module said; undefined for EPT violations.
    pub length: u32,
    /// Process.
    pub pid: u32,
    /// Thread.
    pub tid: u32,
    /// Name of the thread.
    pub comm: String,
    /// CPU.
    pub cpu: u32,
    /// `user`, `task`, `softirq`, `hardirq`, `nmi` or `unknown`.
    pub context: &'static str,
    /// RIP of the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Hex>,
    /// RAX and RCX before the instruction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ax: Option<Hex>,
    /// As `ax`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cx: Option<Hex>,
    /// The instruction's bytes and what follows it.
    pub bytes: String,
    /// Whether the kernel handled it.
    pub handled: bool,
    /// What `handle_mmio` returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// Number of the kernel's stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stack: Option<i32>,
    /// Whether tdtrace itself caused it.
    pub own: bool,
}

impl Event {
    /// The record of `event`.
    #[must_use]
    pub fn new(event: &VeEvent, shared_bit: SharedBit) -> Self {
        let has = |flag: u32| event.flags & flag != 0;
        let paired = !has(VE_UNPAIRED);
        let known = !has(VE_UNREAD);
        let (gpa, shared) = shared_bit.split(event.ve.gpa);
        let (pid, tid) = process(event.thread);
        Self {
            sequence: paired.then_some(event.sequence),
            at_ns: (event.at != 0).then_some(event.at),
            ns: has(VE_TIMED).then_some(event.ns),
            reason: known.then_some(event.ve.reason),
            name: u32::try_from(event.ve.reason).ok().and_then(vmx::exit_reason),
            qualification: Hex(event.ve.qualification),
            gla: Hex(event.ve.gla),
            gpa_raw: Hex(event.ve.gpa),
            gpa: Hex(gpa),
            shared: (event.ve.reason == 48).then_some(shared).flatten(),
            length: event.ve.length,
            pid,
            tid,
            comm: text(&event.comm),
            cpu: event.cpu,
            context: context(event.flags),
            ip: (event.ip != 0).then_some(Hex(event.ip)),
            ax: paired.then_some(Hex(event.ax)),
            cx: known.then_some(Hex(event.cx)),
            bytes: hex(&event.bytes, event.bytes_len),
            handled: has(VE_HANDLED),
            errno: has(VE_ERRNO).then_some(event.errno),
            stack: (event.stack >= 0).then_some(event.stack),
            own: has(VE_OWN),
        }
    }
}

/// Process and thread; an idle task is 0.
pub(super) fn process(thread: u64) -> (u32, u32) {
    if thread >> 63 == 1 { (0, 0) } else { ((thread >> 32) as u32, thread as u32) }
}

/// User mode, or the context.
pub(super) fn context(flags: u32) -> &'static str {
    if flags & VE_USER != 0 { "user" } else { Context::of_flags(flags).name() }
}

/// A name up to its NUL, without what could steer a terminal.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let text = String::from_utf8_lossy(&bytes[..end]);
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// The first `length` bytes in hexadecimal.
pub(super) fn hex(bytes: &[u8; INSN_BYTES], length: u32) -> String {
    bytes.iter().take(length as usize).fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use tdtrace_common::guest::{VE_CONTEXT_SHIFT, VeInfo};

    use super::*;

    #[test]
    fn a_record_has_what_is_known_and_leaves_out_the_rest() {
        let event = VeEvent {
            sequence: 3,
            ve: VeInfo { reason: 48, gpa: 1 << 51 | 0xfed0_00f0, ..VeInfo::default() },
            ip: 0xffff_ffff_8100_0000,
            thread: 7 << 32 | 8,
            flags: VE_HANDLED | VE_ERRNO | (Context::Hardirq as u32) << VE_CONTEXT_SHIFT,
            errno: 3,
            bytes_len: 2,
            bytes: [0x8b; INSN_BYTES],
            comm: *b"a\x1bb\0\0\0\0\0\0\0\0\0\0\0\0\0",
            stack: -17,
            ..VeEvent::default()
        };
        let record = Event::new(&event, SharedBit::Unknown);
        assert_eq!((record.gpa, record.shared), (Hex(0xfed0_00f0), Some(true)));
        assert_eq!((record.pid, record.tid, record.context), (7, 8, "hardirq"));
        assert_eq!((record.bytes.as_str(), record.comm.as_str()), ("8b8b", "a?b"));
        assert_eq!((record.stack, record.ns, record.errno), (None, None, Some(3)));
        let json = serde_json::to_value(&record).unwrap();
        assert!(json.get("ns").is_none() && json["name"] == "EPT_VIOLATION");
    }

    #[test]
    fn an_event_of_which_only_the_verdict_is_known_claims_nothing_else() {
        let event = VeEvent {
            ve: VeInfo { reason: u64::MAX, ..VeInfo::default() },
            flags: VE_UNPAIRED | VE_UNREAD | VE_HANDLED,
            thread: 1 << 63 | 1,
            ..VeEvent::default()
        };
        let record = Event::new(&event, SharedBit::Kernel(51));
        assert_eq!((record.sequence, record.reason, record.name), (None, None, None));
        assert_eq!((record.ip, record.cx, record.pid), (None, None, 0));
        assert!(record.handled);
    }

    #[test]
    fn a_length_beyond_the_bytes_is_not_believed() {
        assert_eq!(hex(&[1; INSN_BYTES], u32::MAX).len(), 2 * INSN_BYTES);
    }
}
