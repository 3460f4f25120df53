//! What no view can show, and why: so that nobody takes silence for peace.

use ratatui::text::Line;

use crate::{model::guest::snapshot::GuestSnapshot, tui::view::wrap};

/// What tdtrace never sees of a guest.
const NEVER: [&str; 3] = [
    "#VEs before tdtrace attached, as those of early boot, and those of the kernel's own code that \
     may not be probed",
    "HLT of the idle loop: tdx_halt() asks the TDX module directly, so it is no #VE",
    "hypercalls that the kernel makes directly; those for conversions and quotes are under \
     Conversions",
];

/// The lines of the help's page, `width` cells wide at most.
pub(super) fn lines(snapshot: Option<&GuestSnapshot>, width: usize) -> Vec<Line<'static>> {
    let mut texts: Vec<String> = NEVER.map(str::to_owned).to_vec();
    if let Some(snapshot) = snapshot {
        if snapshot.layout_assumed {
            let text = "nothing is hidden by it, but there is no BTF: the layout of the kernel's \
                        structures is assumed";
            texts.push(text.to_owned());
        }
        for probe in snapshot.probes.iter().filter(|probe| probe.how.is_none()) {
            let why = probe.missing.as_deref().unwrap_or("not attached");
            texts.push(format!("{} (probe {}: {why})", probe.hides, probe.name));
        }
        let seen = |count: &u64| *count > 0;
        for (loss, count) in snapshot.losses.causes.iter().filter(|(_, count)| seen(count)) {
            texts.push(format!("lost, {}: {count}", loss.name()));
        }
        for (program, count) in snapshot.losses.misses.iter().filter(|(_, count)| seen(count)) {
            texts.push(format!("runs of {program} that the kernel skipped: {count}"));
        }
    }
    texts.iter().flat_map(|text| item(text, width)).collect()
}

/// One of a list.
fn item(text: &str, width: usize) -> Vec<Line<'static>> {
    let lines = wrap(text, width.saturating_sub(3));
    let mark = |index| if index == 0 { " · " } else { "   " };
    let line = |(index, line): (usize, &String)| Line::from(format!("{}{line}", mark(index)));
    lines.iter().enumerate().map(line).collect()
}

/// The same in a few words.
pub(super) fn short(snapshot: &GuestSnapshot) -> String {
    let skipped: Vec<&str> = snapshot
        .probes
        .iter()
        .filter(|probe| probe.how.is_none())
        .map(|probe| -> &str { &probe.name })
        .collect();
    let probes = match skipped.as_slice() {
        [] => String::new(),
        names => format!("probes {}; ", names.join(", ")),
    };
    format!("not seen: {probes}early boot, HLT when idle, direct hypercalls (? three times)")
}
