//! The probes in a TD guest as data: what each shows, and what it needs.
//!
//! Pure. None of them is on `tdx_get_ve_info`, which runs while another #VE would be a double fault,
//! nor on anything `noinstr`.

/// One probe of a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestProbe {
    /// Its name to users.
    pub name: &'static str,
    /// What it is attached to.
    pub place: Place,
    /// What it shows.
    pub shows: &'static str,
    /// What stays invisible without it.
    pub hidden_without: &'static str,
    /// Fields of [`tdtrace_common::layout::GuestLayout`] without which it is not attached.
    pub needs: &'static [&'static str],
}

/// Where a probe is attached, and its programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A function: at its beginning, if wanted, and at its return.
    Function {
        /// The function.
        name: &'static str,
        /// The module that has it; `None` for the kernel itself.
        module: Option<&'static str>,
        /// Programs of fentry and fexit.
        fentry: Option<Pair>,
        /// Programs of kprobe and kretprobe.
        kprobe: Option<Pair>,
    },
    /// A raw tracepoint.
    Tracepoint {
        /// Tracepoint and program.
        name: &'static str,
    },
}

/// Programs at the beginning and at the return of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// At the beginning.
    pub entry: Option<&'static str>,
    /// At the return.
    pub exit: &'static str,
}

/// The name of the probe on the #VE handler.
pub const VE: &str = "ve";

const VE_FIELDS: &[&str] = &[
    "ve_exit_reason",
    "ve_exit_qual",
    "ve_gla",
    "ve_gpa",
    "ve_instr_len",
    "regs_ip",
    "regs_cs",
    "regs_ax",
    "regs_cx",
];

/// A function of the kernel with all four programs.
macro_rules! function {
    ($name:literal, $fentry:literal, $fexit:literal, $kprobe:literal, $kretprobe:literal) => {
        function!($name in None, Some(Pair { entry: Some($fentry), exit: $fexit }), $kprobe, $kretprobe)
    };
    ($name:literal in $module:expr, $fentry:expr, $kprobe:literal, $kretprobe:literal) => {
        Place::Function {
            name: $name,
            module: $module,
            fentry: $fentry,
            kprobe: Some(Pair { entry: Some($kprobe), exit: $kretprobe }),
        }
    };
}

/// All probes of a guest, in the order in which they are attached and shown.
pub const GUEST_PROBES: &[GuestProbe] = &[
    GuestProbe {
        name: VE,
        place: function!(
            "tdx_handle_virt_exception",
            "ve_fentry",
            "ve_fexit",
            "ve_kprobe",
            "ve_kretprobe"
        ),
        shows: "#VEs by reason and place",
        hidden_without: "every #VE",
        needs: VE_FIELDS,
    },
    GuestProbe {
        name: "mmio",
        place: Place::Function {
            name: "handle_mmio",
            module: None,
            fentry: Some(Pair { entry: None, exit: "mmio_fexit" }),
            kprobe: None,
        },
        shows: "why MMIO could not be emulated",
        hidden_without: "whether instruction, page boundary or VMM made MMIO fail",
        needs: &[],
    },
    GuestProbe {
        name: "convert",
        place: function!(
            "__set_memory_enc_pgtable",
            "convert_fentry",
            "convert_fexit",
            "convert_kprobe",
            "convert_kretprobe"
        ),
        shows: "conversions between private and shared, by caller",
        hidden_without: "who converts memory, and how much",
        needs: &[],
    },
    GuestProbe {
        name: "prepare",
        place: function!(
            "tdx_enc_status_change_prepare",
            "prepare_fentry",
            "prepare_fexit",
            "prepare_kprobe",
            "prepare_kretprobe"
        ),
        shows: "TDX's part of a conversion before the page tables change",
        hidden_without: "how much of a conversion is MapGPA and acceptance",
        needs: &[],
    },
    GuestProbe {
        name: "finish",
        place: function!(
            "tdx_enc_status_change_finish",
            "finish_fentry",
            "finish_fexit",
            "finish_kprobe",
            "finish_kretprobe"
        ),
        shows: "TDX's part of a conversion after the page tables have changed",
        hidden_without: "how much of a conversion to shared is MapGPA",
        needs: &[],
    },
    GuestProbe {
        name: "map_gpa",
        place: function!(
            "tdx_map_gpa",
            "map_gpa_fentry",
            "map_gpa_fexit",
            "map_gpa_kprobe",
            "map_gpa_kretprobe"
        ),
        shows: "MapGPA by caller",
        hidden_without: "how often the VMM is asked to convert",
        needs: &[],
    },
    GuestProbe {
        name: "accept_tdx",
        place: function!(
            "tdx_accept_memory",
            "accept_tdx_fentry",
            "accept_tdx_fexit",
            "accept_tdx_kprobe",
            "accept_tdx_kretprobe"
        ),
        shows: "accepted memory",
        hidden_without: "how much memory is accepted, and how long it takes",
        needs: &[],
    },
    GuestProbe {
        name: "accept",
        place: function!(
            "accept_memory",
            "accept_fentry",
            "accept_fexit",
            "accept_kprobe",
            "accept_kretprobe"
        ),
        shows: "memory that was left unaccepted at boot and is wanted now",
        hidden_without: "who waits for memory to be accepted",
        needs: &[],
    },
    GuestProbe {
        name: "quote",
        place: function!("tdx_report_new" in Some("tdx_guest"), None, "report_kprobe", "report_kretprobe"),
        shows: "quotes, from request to arrival",
        hidden_without: "how long a quote takes",
        needs: &[],
    },
    GuestProbe {
        name: "get_quote",
        place: function!(
            "tdx_hcall_get_quote",
            "get_quote_fentry",
            "get_quote_fexit",
            "get_quote_kprobe",
            "get_quote_kretprobe"
        ),
        shows: "submitted requests for quotes",
        hidden_without: "how often the VMM is asked for a quote",
        needs: &[],
    },
    GuestProbe {
        name: "swiotlb",
        place: Place::Tracepoint { name: "swiotlb_bounced" },
        shows: "buffers that are copied to shared memory for DMA",
        hidden_without: "how much I/O is copied",
        needs: &[],
    },
];

#[cfg(test)]
mod tests {
    use tdtrace_common::layout::GuestLayout;

    use super::*;

    #[test]
    fn every_needed_field_exists_and_names_are_unique() {
        for (index, probe) in GUEST_PROBES.iter().enumerate() {
            for need in probe.needs {
                assert!(GuestLayout::FIELDS.iter().any(|field| field.name == *need), "{need}");
            }
            assert!(GUEST_PROBES[..index].iter().all(|other| other.name != probe.name));
        }
    }

    #[test]
    fn nothing_is_attached_where_a_virtualization_exception_would_be_fatal() {
        for probe in GUEST_PROBES {
            if let Place::Function { name, .. } = probe.place {
                assert!(!name.contains("get_ve_info") && !name.starts_with("exc_"), "{name}");
            }
        }
    }

    #[test]
    fn what_modules_have_is_attached_by_kprobe_alone() {
        for probe in GUEST_PROBES {
            if let Place::Function { module: Some(_), fentry, kprobe, .. } = probe.place {
                assert!(fentry.is_none() && kprobe.is_some(), "{}", probe.name);
            }
        }
    }
}
