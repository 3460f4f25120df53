//! What somebody should look at on a host: each rule with what it means and what to do. Pure.
//!
//! Severities and the form of rules are those of a guest's rules, too.

use std::sync::Arc;

use serde::Serialize;

use super::snapshot::Tally;

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

/// Makes an enumeration of rules, each with its texts.
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
            pub const fn severity(self) -> $crate::model::finding::Severity {
                match self { $(Self::$name => $crate::model::finding::Severity::$severity,)* }
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

pub(crate) use rules;

rules! {
    /// TDH.VP.ENTER says that vCPU or TD are beyond repair.
    DeadTd = "dead-td", Error, "TD is dead",
        "The TDX module will not run the vCPU, or the TD, any more.",
        "Look for machine checks and poisoned memory in the host's log; then start the TD anew.";
    /// ReportFatalError.
    FatalError = "fatal-error", Error, "guest reported a fatal error",
        "The guest gave up on its own and asked to be ended.",
        "Look at the guest's console and at what the VMM printed: the message is in the call.";
    /// MMIO that KVM will not pass on.
    PrivateMmio = "private-mmio", Error, "MMIO that KVM refused",
        "KVM refuses MMIO at a private address, and of sizes that there are not; the access fails.",
        "Look in the guest for a device mapping without the shared bit: tdtrace guest stat names it.";
    /// A TDVMCALL that nobody knows.
    UnknownLeaf = "unknown-leaf", Warning, "TDVMCALL of an unknown leaf",
        "The guest asks for what the GHCI that tdtrace knows does not have.",
        "Look whether guest and host are made for different versions of the GHCI.";
    /// VP.ENTER is refused again and again.
    BusyStorm = "busy-storm", Note, "VP.ENTER is often busy",
        "The TDX module refuses to enter the guest while an operand is locked, and KVM tries again.",
        "Look at what takes memory from the TD meanwhile: each removal of a page tracks TLBs.";
    /// Private memory comes page by page.
    AcceptStorm = "accept-storm", Note, "many faults on private memory",
        "The guest touches or accepts private memory that is not mapped yet, fault by fault.",
        "Let the guest accept lazily and in 2 MiB, and back it with huge pages; at boot it passes.";
    /// Many MapGPAs.
    ConversionStorm = "conversion-storm", Note, "many conversions",
        "Each MapGPA is a return to the VMM, which changes attributes and discards memory.",
        "tdtrace guest stat names who converts; keep such buffers shared, or take them from a pool.";
    /// Halts and little else.
    Halts = "halts", Note, "exits are mostly halts",
        "vCPUs go to sleep and are woken so often that this is most of what they exit for.",
        "Let the guest poll before it halts (haltpoll), or the host (halt_poll_ns); fewer vCPUs.";
    /// Many IPIs.
    IpiStorm = "ipi-storm", Note, "many IPIs",
        "Each write to the x2APIC's ICR is an exit, in a TD with a #VE before it.",
        "Pin what wakes each other to few vCPUs; fewer vCPUs; batch wake-ups.";
    /// Many accesses to one MSR.
    MsrStorm = "msr-storm", Note, "many accesses to one MSR",
        "Each access to this MSR is an exit, in a TD with a #VE before it.",
        "TSC_DEADLINE: fewer timers, a lower tick; else look at what the guest uses it for.";
    /// Configuration read byte by byte.
    FwCfgStorm = "fw-cfg-storm", Note, "fw_cfg by port I/O",
        "The guest reads the VMM's configuration port by port, each access a return to the VMM.",
        "Let firmware and kernel use fw_cfg's DMA; at boot it passes.";
    /// A class of exits that waits for the VMM.
    VmmBound = "vmm-bound", Note, "exits that wait for the VMM",
        "Most of the time of these exits is the VMM's, and it is much of the vCPUs' time.",
        "Look at the VMM's thread, not at KVM: a device there is slow, or should be in the kernel.";
}

/// A finding about a VM.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    /// The rule that fired.
    pub rule: Rule,
    /// Number of the VM.
    pub vm: u32,
    /// Its name.
    pub vm_name: Arc<str>,
    /// The vCPU, if it is about one.
    pub vcpu: Option<u32>,
    /// The MSR or class that it is about, if the rule is not about one thing.
    pub what: Option<String>,
    /// What tells findings of one rule and vCPU apart.
    pub detail: u64,
    /// How often it happened.
    pub tally: Tally,
    /// Why it fired, in sentences with numbers and limits; the one that decides comes first.
    pub evidence: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_names_of_their_own_and_sentences_the_gravest_first() {
        for (index, rule) in Rule::ALL.iter().enumerate() {
            assert!(Rule::ALL[..index].iter().all(|other| other.id() != rule.id()), "{rule:?}");
            assert!(rule.meaning().ends_with('.') && rule.advice().ends_with('.'), "{rule:?}");
        }
        assert!(Rule::ALL.is_sorted_by_key(|rule| std::cmp::Reverse(rule.severity())));
    }
}
