//! Rows of a guest's tables that its snapshot does not have as they are: findings with what they are
//! about, and what #VEs are about with the code that touches it. Pure.

use std::{
    hash::{DefaultHasher, Hasher as _},
    sync::Arc,
};

use super::{
    finding::{Finding, Rule, Subject},
    snapshot::{Call, GuestSnapshot, ObjectCount, Site},
};
use crate::model::field::{Row as _, RowId};

/// What `handle_mmio` returns (`arch/x86/coco/tdx/tdx.c`): the VMM refused, the instruction could not
/// be read or crosses a page, the instruction cannot be emulated.
pub(super) const EIO: i32 = -5;
pub(super) const EFAULT: i32 = -14;
pub(super) const EINVAL: i32 = -22;

/// A finding with what it is about in words.
#[derive(Clone, Debug)]
pub struct FindingRow {
    /// The rule that fired.
    pub rule: Rule,
    /// What it is about.
    pub subject: String,
    /// What tells the subject from others.
    pub subject_id: u64,
    /// The site that it is about.
    pub site: Option<RowId>,
    /// How often it happened.
    pub count: u64,
    /// Why it fired.
    pub evidence: Vec<String>,
}

/// The findings of `snapshot`.
#[must_use]
pub fn findings(snapshot: &GuestSnapshot) -> Vec<FindingRow> {
    snapshot.findings.iter().map(|finding| row(snapshot, finding)).collect()
}

fn row(snapshot: &GuestSnapshot, finding: &Finding) -> FindingRow {
    let subject = match &finding.subject {
        Subject::Call { index } => snapshot.calls.get(*index).map(call_text),
        Subject::Site { .. } | Subject::Guest => None,
    };
    let subject = subject.unwrap_or_else(|| finding.subject.place(snapshot));
    let site = match &finding.subject {
        Subject::Site { index } => snapshot.sites.get(*index).map(Site::id),
        Subject::Call { .. } | Subject::Guest => None,
    };
    // Two instructions may have one name.
    let subject_id = hash(&(&subject, site));
    let (rule, count, evidence) = (finding.rule, finding.count, finding.evidence.clone());
    FindingRow { rule, subject, subject_id, site, count, evidence }
}

/// `map_gpa_shared by dma_direct_alloc`.
fn call_text(call: &Call) -> String {
    format!("{} by {}", call.operation.name(), call.caller.as_deref().unwrap_or("?"))
}

/// A number of `value` that does not change from one snapshot to the next.
pub(super) fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// What #VEs are about, and the code that touches it.
#[derive(Clone, Debug)]
pub struct Touched {
    /// What, and how often.
    pub object: ObjectCount,
    /// The sites that touch it, the most frequent first.
    pub by: Vec<Toucher>,
}

/// A site that touches something.
#[derive(Clone, Debug)]
pub struct Toucher {
    /// Where it is.
    pub place: String,
    /// Which site.
    pub site: RowId,
    /// #VEs.
    pub count: u64,
}

/// What the #VEs of `snapshot` are about, each with its sites.
#[must_use]
pub fn touched(snapshot: &GuestSnapshot) -> Vec<Touched> {
    let mut rows: Vec<Touched> = snapshot
        .objects
        .iter()
        .map(|object| Touched { object: object.clone(), by: Vec::new() })
        .collect();
    let index: std::collections::BTreeMap<_, _> =
        rows.iter().enumerate().map(|(index, row)| (row.object.object, index)).collect();
    for site in &snapshot.sites {
        for (object, count) in &site.objects {
            if let Some(row) = index.get(object).and_then(|index| rows.get_mut(*index)) {
                row.by.push(Toucher { place: site.place(), site: site.id(), count: *count });
            }
        }
    }
    for row in &mut rows {
        row.by.sort_by_key(|by| std::cmp::Reverse(by.count));
    }
    rows
}

impl Site {
    /// The functions that it lies in, the innermost first: `writel ← nvme_write_sq_db`; none without
    /// debug information.
    #[must_use]
    pub fn via(&self) -> Option<String> {
        let chain = self.code.as_ref()?.chain.as_ref()?;
        let names: Vec<&str> = chain.iter().map(|frame| frame.function.as_str()).collect();
        Some(names.join(" ← "))
    }

    /// The innermost line that is not in a header, where somebody can change something: its file
    /// without the directories, and its number.
    #[must_use]
    pub fn source(&self) -> Option<String> {
        let chain = self.code.as_ref()?.chain.as_ref()?;
        let in_header = |file: &str| file.starts_with("include/") || file.contains("/include/");
        let own = |frame: &&crate::verdict::Frame| {
            frame.file.as_deref().is_some_and(|file| !in_header(file))
        };
        let frame = chain.iter().find(own).or_else(|| chain.first())?;
        let file = frame.file.as_deref()?;
        let name = file.rsplit('/').next().unwrap_or(file);
        Some(format!("{name}:{}", frame.line?))
    }

    /// What the last failure returned, by its name where `handle_mmio` has one for it.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        Some(match self.errno? {
            EIO => "-EIO".to_owned(),
            EFAULT => "-EFAULT".to_owned(),
            EINVAL => "-EINVAL".to_owned(),
            errno => errno.to_string(),
        })
    }

    /// The device that it touches, in a few words.
    #[must_use]
    pub fn device_text(&self) -> Option<String> {
        self.device.as_deref().and_then(short)
    }

    /// The instruction in Intel's syntax; `None` if it could not be read.
    #[must_use]
    pub fn instruction(&self) -> Option<(String, usize)> {
        crate::decode::disassembly::first(&self.bytes, self.ip.unwrap_or(0))
    }
}

impl ObjectCount {
    /// The device that it belongs to, in a few words.
    #[must_use]
    pub fn device_text(&self) -> Option<String> {
        self.device.as_ref().map(Arc::as_ref).and_then(short)
    }
}

/// A device in a few words; `None` if nothing is known of it. The first PCI domain goes without saying.
fn short(device: &crate::sites::devices::Device) -> Option<String> {
    let offset = device.offset.map_or_else(String::new, |offset| format!("+{offset}"));
    match (&device.pci, device.bar) {
        _ if device.ram => Some("System RAM".to_owned()),
        (Some(pci), Some(bar)) => {
            let pci = pci.strip_prefix("0000:").unwrap_or(pci);
            Some(format!("{pci} BAR{bar}{offset}"))
        }
        _ => match (&device.known, device.ranges.last()) {
            (Some(known), _) => Some(known.clone()),
            (None, range) => range.map(|range| format!("{range}{offset}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guest::testing;

    #[test]
    fn what_is_touched_knows_by_whom() {
        let rows = touched(&testing::snapshot());
        let page = rows.iter().find(|row| row.object.object.text() == "0xfd000000").unwrap();
        let by: Vec<_> = page.by.iter().map(|by| (by.place.as_str(), by.count)).collect();
        assert_eq!(by, [("acme_stat+0x11 [acme_nic]", 4_200), ("acme_isr+0x3c [acme_nic]", 74)]);
        assert_eq!(page.object.count, 4_274);
        assert_eq!(page.object.device_text().as_deref(), Some("00:04.0 BAR0+0x0"));
        assert_eq!(page.object.rate, Some(213.7));
    }

    #[test]
    fn a_line_is_where_somebody_can_change_something() {
        let snapshot = testing::snapshot();
        let site = |name: &str| {
            let site = snapshot.sites.iter().find(|site| site.place().starts_with(name)).unwrap();
            (site.source(), site.via())
        };
        let (line, via) = site("nvme_write_sq_db");
        assert_eq!(line.as_deref(), Some("pci.c:571"));
        assert_eq!(via.as_deref(), Some("writel ← nvme_write_sq_db"));
        assert_eq!(site("foo_poll"), (None, None));
    }

    #[test]
    fn a_finding_says_what_it_is_about_even_if_that_is_gone() {
        let mut snapshot = testing::snapshot();
        let rows = findings(&snapshot);
        assert_eq!(rows[0].subject, "acme_isr+0x3c [acme_nic]");
        let acme = snapshot.sites.iter().find(|site| site.place() == rows[0].subject).unwrap();
        assert_eq!(rows[0].site, Some(acme.id()));
        assert_eq!((rows[2].subject.as_str(), rows[2].site), ("the guest", None));
        snapshot.sites.clear();
        let gone = &findings(&snapshot)[0];
        assert_eq!((gone.subject.as_str(), gone.site), ("unknown", None));
    }
}
