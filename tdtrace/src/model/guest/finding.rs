//! What somebody should look at: each rule with what it means, what to do, and when it fires. Pure.

use serde::{Serialize, Serializer};

/// How grave it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Works, and costs.
    Note,
    /// Works today, and is wrong.
    Warning,
    /// Does not work in a TD.
    Error,
}

impl Severity {
    /// The name in reports and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $id:literal, $severity:ident, $title:literal, $meaning:literal,
       $advice:literal;)*) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Rule {
            $($(#[$doc])* $name,)*
        }

        impl Rule {
            /// Every rule, in the order of reports.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// Its name on command lines, in JSON and in allowlists.
            #[must_use]
            pub const fn id(self) -> &'static str {
                match self { $(Self::$name => $id,)* }
            }

            /// How grave it is.
            #[must_use]
            pub const fn severity(self) -> Severity {
                match self { $(Self::$name => Severity::$severity,)* }
            }

            /// It in a few words.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// What to do about it, in a sentence.
            #[must_use]
            pub const fn advice(self) -> &'static str {
                match self { $(Self::$name => $advice,)* }
            }
        }
    };
}

rules! {
    /// MMIO that the kernel's decoder does not know.
    UndecodableMmio = "undecodable-mmio", Error, "MMIO that a TD cannot emulate",
        "The instruction is none that the kernel's #VE handler can decode, so the access is fatal.",
        "Access the device through readl(), writel() and their kin of io.h.";
    /// An access across a page boundary.
    PageSplit = "page-split", Error, "MMIO across a page boundary",
        "The access reaches into the next page, and the kernel does not emulate that.",
        "Access the device in naturally aligned pieces.";
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
    /// MMIO around the accessors that works.
    NonIoMmio = "non-io-mmio", Warning, "MMIO around io.h",
        "The access does not go through io.h; that the kernel can decode it is the compiler's whim.",
        "Access the device through readl(), writel() and their kin of io.h.";
    /// A reason that the kernel has no code for.
    UnexpectedReason = "unexpected-reason", Warning, "#VE of an unexpected reason",
        "The kernel does not handle #VEs of this reason.",
        "Look at the instruction; the TDX module or the VMM may trap what it need not.";
    /// A #VE that the kernel could not handle, for no other reason in this list.
    FailedVe = "failed-ve", Error, "#VE that the kernel could not handle",
        "The kernel's handler gave up: an oops, a signal, or a way out of the exception table.",
        "Look at the kernel's log at that time.";
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
    /// A conversion that the VMM asked to retry.
    ConversionRetry = "conversion-retry", Note, "conversion took several MapGPAs",
        "The VMM answered RETRY: it converts in pieces.",
        "Nothing for pieces of 2 MiB; look at the VMM if the pieces are small.";
    /// A quote that took long.
    SlowQuote = "slow-quote", Warning, "slow quote",
        "The guest polls for a quote once a second, and gives up after 30.",
        "Look at the quoting service on the host.";
    /// Much data through bounce buffers.
    Swiotlb = "swiotlb", Note, "much data through bounce buffers",
        "DMA of private memory is copied through shared buffers.",
        "Look for a driver that could allocate shared memory once.";
}

impl Serialize for Rule {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id())
    }
}

/// What a finding is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
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

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
