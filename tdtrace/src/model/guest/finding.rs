//! What somebody should look at: each rule with what it means, what to do, and when it fires. Pure.

use super::snapshot::{GuestSnapshot, Site};
pub use crate::model::finding::Severity;
use crate::model::finding::rules;

rules! {
    /// MMIO that the kernel's decoder does not know.
    UndecodableMmio = "undecodable-mmio", Error, "MMIO that a TD cannot emulate",
        "The instruction is none that the kernel's #VE handler can decode, so the access is fatal.",
        "Access the device through readl(), writel() and their kin of io.h.";
    /// An access across a page boundary.
    PageSplit = "page-split", Error, "MMIO across a page boundary",
        "The access reaches into the next page, and the kernel does not emulate that.",
        "Access the device in naturally aligned pieces.";
    /// MMIO in user mode.
    UserMmio = "user-mmio", Error, "MMIO in user mode",
        "The kernel emulates MMIO for itself only; the process is killed by SIGSEGV.",
        "Leave the device to a driver of the kernel.";
    /// INS or OUTS.
    StringIo = "string-io", Error, "string port I/O",
        "INS and OUTS are not emulated in a TD; io.h unrolls them there.",
        "Use insb(), outsb() and their kin of io.h, which become loops in a TD.";
    /// IN or OUT in user mode.
    UserPortIo = "user-port-io", Error, "port I/O in user mode",
        "A process got ports by ioperm() or iopl(); in a TD it is killed by SIGSEGV.",
        "Stop the program from using ports, or forbid it with lockdown.";
    /// An EPT violation on private memory.
    PrivateGpa = "private-gpa", Error, "#VE on private memory",
        "The kernel panics at a #VE on a private address: the page was not accepted, or was taken away.",
        "Look for a device mapping without the shared bit, or a VMM that removes pages.";
    /// A #VE on shared System RAM.
    SharedRam = "shared-ram", Error, "#VE on shared RAM",
        "The address is System RAM and no device: the VMM cleared SUPPRESS_VE or does not back the page.",
        "Look at the VMM; the guest's access is no MMIO.";
    /// A reason that the kernel has no code for.
    UnexpectedReason = "unexpected-reason", Error, "#VE of an unexpected reason",
        "The kernel has no code for #VEs of this reason: an oops, or a signal in user mode.",
        "Look at the instruction; the TDX module or the VMM may trap what it need not.";
    /// MMIO around the accessors that works.
    NonIoMmio = "non-io-mmio", Warning, "MMIO around io.h",
        "The access does not go through io.h; that the kernel can decode it is the compiler's whim.",
        "Access the device through readl(), writel() and their kin of io.h.";
    /// A #VE that the kernel could not handle, for no other reason in this list.
    FailedVe = "failed-ve", Error, "#VE that the kernel could not handle",
        "The kernel's handler gave up, and no way out is known: an oops, or a signal in user mode.",
        "Look at the kernel's log at that time.";
    /// The same where the kernel has a way out.
    RecoveredVe = "recovered-ve", Note, "#VE that failed where the kernel expects it",
        "The kernel's handler gave up, and the exception table has a way out for the instruction.",
        "Nothing, if the code tries what may be missing; else look at what it asks the VMM for.";
    /// Too many #VEs.
    VeStorm = "ve-storm", Note, "many #VEs from one instruction",
        "Each #VE costs microseconds and a round trip to the VMM.",
        "Look for a device that can be driven with fewer accesses, or a paravirtual one.";
    /// A conversion that failed.
    ConversionFailed = "conversion-failed", Error, "conversion failed",
        "Memory could not be converted between private and shared; its pages are leaked.",
        "Look at the VMM's log for what it did with MapGPA.";
    /// Conversions to and fro.
    ConversionPingPong = "conversion-ping-pong", Note, "memory converted to and fro",
        "The same caller converts memory to shared and back again and again; each costs a MapGPA.",
        "Keep the buffer shared, or take it from a pool.";
    /// MapGPAs that take long.
    SlowConversion = "slow-conversion", Note, "slow conversions",
        "MapGPA takes long. The VMM may convert in pieces and answer RETRY between them, which the \
         guest's kernel repeats where no probe can see it; the host can.",
        "Look at MapGPA, its sizes and its RETRYs in `tdtrace top` on the host.";
    /// A request for a quote that failed.
    QuoteFailed = "quote-failed", Error, "quote failed",
        "The TD got no quote, so it cannot attest itself.",
        "Look at the quoting service on the host, and whether the VMM knows where it is.";
    /// A quote that took long.
    SlowQuote = "slow-quote", Warning, "slow quote",
        "The guest polls for a quote once a second, and gives up after 30.",
        "Look at the quoting service on the host.";
    /// Much data through bounce buffers.
    Swiotlb = "swiotlb", Note, "much data through bounce buffers",
        "DMA of private memory is copied through shared buffers.",
        "Look for a driver that could allocate shared memory once.";
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A site: index into [`super::snapshot::GuestSnapshot::sites`].
    Site {
        /// The index.
        index: usize,
    },
    /// A caller of conversions and the like: index into [`super::snapshot::GuestSnapshot::calls`].
    Call {
        /// The index.
        index: usize,
    },
    /// The guest as a whole.
    Guest,
}

impl Subject {
    /// Where that is: an address or a function.
    #[must_use]
    pub fn place(&self, snapshot: &GuestSnapshot) -> String {
        let unknown = || "unknown".to_owned();
        match self {
            Self::Site { index } => snapshot.sites.get(*index).map_or_else(unknown, Site::place),
            Self::Call { index } => {
                let caller = snapshot.calls.get(*index).and_then(|call| call.caller.as_deref());
                caller.map_or_else(unknown, ToOwned::to_owned)
            }
            Self::Guest => "the guest".to_owned(),
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule that fired.
    pub rule: Rule,
    /// What it is about.
    pub subject: Subject,
    /// How often it happened.
    pub count: u64,
    /// Why it fired, in sentences with numbers and thresholds; the one that decides comes first.
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names_of_their_own_and_sentences() {
        for (index, rule) in Rule::ALL.iter().enumerate() {
            assert!(Rule::ALL[..index].iter().all(|other| other.id() != rule.id()), "{rule:?}");
            assert!(rule.meaning().ends_with('.') && rule.advice().ends_with('.'), "{rule:?}");
        }
    }
}
