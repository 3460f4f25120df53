//! What sites are by the chain that binutils name, and how often verdicts say so. Pure.

use std::collections::{BTreeMap, BTreeSet};

use tdtrace::verdict::Kind;

use super::binutils::{Chain, Shown};

/// The functions whose assembly touches a device or a port: a list of its own, not the table that is
/// tested.
fn holds_assembly(name: &str) -> Option<Kind> {
    let bare = name.strip_prefix("__").unwrap_or(name);
    let sized = |stem: &str, sizes: &str| {
        let size = bare.strip_prefix(stem);
        size.is_some_and(|size| size.len() == 1 && sizes.contains(size))
    };
    match name {
        "__iowrite32_copy" | "movdir64b_io" | "iosubmit_cmds512" => {
            return Some(Kind::IoAccessorNotTdSafe);
        }
        "string_memcpy_fromio" | "string_memcpy_toio" => return Some(Kind::IoAccessor),
        "native_apic_mem_write" | "native_apic_mem_read" | "native_io_delay" => {
            return Some(Kind::ArchAccessor);
        }
        _ if name.starts_with("mmio_config_") => return Some(Kind::ArchAccessor),
        _ => {}
    }
    let of_memory = sized("read", "bwlq") || sized("write", "bwlq");
    (of_memory || sized("in", "bwl") || sized("out", "bwl")).then_some(Kind::IoAccessor)
}

fn is_of_ports(name: &str) -> bool {
    let bare = name.strip_prefix("__").unwrap_or(name);
    name == "native_io_delay" || bare.starts_with("in") || bare.starts_with("out")
}

/// Functions that use the above and have code of their own, which touches ordinary memory.
fn is_made_of_accessors(name: &str) -> bool {
    let stems = ["ioread", "iowrite", "mmio_ins", "mmio_outs", "unrolled_mem", "pio_", "lo_hi_"];
    let names =
        ["memcpy_fromio", "memcpy_toio", "memset_io", "__ioread32_copy", "__iowrite64_copy"];
    let loops = ["readsb", "readsw", "readsl", "writesb", "writesw", "writesl", "hi_lo_readq"];
    stems.iter().any(|stem| name.starts_with(stem))
        || names.contains(&name)
        || loops.contains(&name)
}

/// What a site is by its chain; none where that does not tell.
pub(crate) fn truth(shown: &Shown, chain: &Chain) -> Option<Kind> {
    let known = chain.iter().all(|(name, _)| name != "??");
    let decide = |of_ports: bool| {
        let kinds: BTreeSet<Kind> = chain
            .iter()
            .filter(|(name, _)| is_of_ports(name) == of_ports)
            .filter_map(|(name, _)| holds_assembly(name))
            .collect();
        [Kind::ArchAccessor, Kind::IoAccessorNotTdSafe, Kind::IoAccessor]
            .into_iter()
            .find(|kind| kinds.contains(kind))
    };
    if !known {
        return None;
    }
    if shown.is_port() {
        let string = !matches!(shown.mnemonic(), "in" | "out");
        return Some(if string {
            Kind::StringPortIo
        } else {
            decide(true).unwrap_or(Kind::InlineAssembly)
        });
    }
    if let Some(kind) = decide(false) {
        return Some(kind);
    }
    if chain.iter().any(|(name, _)| is_made_of_accessors(name)) {
        return None;
    }
    let copies = ["memcpy_orig", "memcpy", "__memcpy", "__memmove", "copy_page", "copy_page_regs"];
    let plain = matches!(shown.mnemonic(), "mov" | "movb" | "movw" | "movl" | "movq");
    let plain = plain && !shown.text.contains('$');
    let copy = chain.iter().any(|(name, _)| copies.contains(&name.as_str()));
    Some(if shown.is_movs() || copy && plain {
        Kind::MemcpyOnIomem
    } else {
        Kind::PointerDereference
    })
}

/// Counts by truth and verdict.
#[derive(Default)]
pub(crate) struct Matrix(BTreeMap<(Kind, Kind), usize>);

impl Matrix {
    pub(crate) fn add(&mut self, truth: Kind, verdict: Kind) {
        *self.0.entry((truth, verdict)).or_default() += 1;
    }

    /// How many sites were judged.
    pub(crate) fn sites(&self) -> usize {
        self.0.values().sum()
    }

    /// How many verdicts are neither the truth nor undecided.
    pub(crate) fn wrong(&self) -> usize {
        let is_wrong =
            |(truth, verdict): &(Kind, Kind)| truth != verdict && *verdict != Kind::Undecided;
        self.0.iter().filter(|(key, _)| is_wrong(key)).map(|(_, count)| count).sum()
    }

    /// It in Markdown, rows for the truth and columns for the verdict.
    pub(crate) fn table(&self) -> String {
        let kinds: Vec<Kind> = Kind::ALL
            .into_iter()
            .filter(|kind| self.0.keys().any(|(truth, verdict)| truth == kind || verdict == kind))
            .collect();
        let mut table = String::from("| truth |");
        kinds.iter().for_each(|kind| table += &format!(" {} |", kind.name()));
        table += "\n|---|";
        kinds.iter().for_each(|_| table += "---:|");
        for truth in kinds.iter().filter(|kind| self.0.keys().any(|(truth, _)| truth == *kind)) {
            table += &format!("\n| {} |", truth.name());
            for verdict in &kinds {
                let count = self.0.get(&(*truth, *verdict)).copied().unwrap_or(0);
                table += &format!(" {count} |");
            }
        }
        table + "\n"
    }
}
