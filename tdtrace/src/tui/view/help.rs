//! The help: the key table, and what the columns on the screen say, drawn over the view.

use ratatui::{
    Frame,
    layout::{Constraint, Flex, Layout, Rect},
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use crate::{
    model::field::{
        BOOT_FIELDS, EXIT_FIELDS, FINDING_FIELDS, Field, HOTSPOT_FIELDS, SEAM_FIELDS, SLOW_FIELDS,
        VCPU_FIELDS, VM_FIELDS,
    },
    tui::{
        keymap::{self, Side},
        state::{Choices, Help, Rows, View, Views},
    },
};

/// Draws the page that `state` asks for, if any; `page` makes those that are not the keys.
pub(super) fn draw<V: Views>(
    frame: &mut Frame<'_>,
    area: Rect,
    state: &Choices<V>,
    page: impl FnOnce(Help) -> Vec<Line<'static>>,
) {
    let (title, lines) = match state.help {
        None => return,
        Some(Help::Keys) => (" keys ", keys(V::SIDE)),
        Some(Help::Columns) => (" columns, as they are called in filters ", page(Help::Columns)),
        Some(Help::Unseen) => (" what does not show ", page(Help::Unseen)),
    };
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let longest = lines.iter().map(Line::width).max().unwrap_or(0).max(title.chars().count());
    let width = u16::try_from(longest).unwrap_or(u16::MAX).saturating_add(3);
    let [middle] =
        Layout::horizontal([Constraint::Length(width)]).flex(Flex::Center).areas::<1>(area);
    let [middle] =
        Layout::vertical([Constraint::Length(height)]).flex(Flex::Center).areas::<1>(middle);
    frame.render_widget(Clear, middle);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(title)), middle);
}

fn keys(side: Side) -> Vec<Line<'static>> {
    keymap::bindings(side)
        .filter(|binding| !binding.keys.is_empty())
        .map(|binding| Line::from(format!(" {:<10} {}", binding.keys, binding.help)))
        .collect()
}

/// The columns of the host's views.
pub(super) fn columns(view: View, rows: &Rows) -> Vec<Line<'static>> {
    match view {
        View::Vms | View::Conversions => shown(VM_FIELDS, rows),
        View::Exits | View::Latency => shown(EXIT_FIELDS, rows),
        View::Hotspots => shown(HOTSPOT_FIELDS, rows),
        View::Vcpus => shown(VCPU_FIELDS, rows),
        View::Slow => shown(SLOW_FIELDS, rows),
        View::Seamcalls => shown(SEAM_FIELDS, rows),
        View::Findings => shown(FINDING_FIELDS, rows),
        View::Boot => shown(BOOT_FIELDS, rows),
    }
}

/// The columns on the screen; where there is no table, all.
pub(super) fn shown<R>(fields: &'static [Field<R>], rows: &Rows) -> Vec<Line<'static>> {
    let field = |key: &&str| fields.iter().find(|field| field.key == *key);
    let shown: Vec<&Field<R>> = match rows.columns.as_slice() {
        [] => fields.iter().collect(),
        keys => keys.iter().filter_map(field).collect(),
    };
    let line = |field: &&Field<R>| {
        Line::from(format!(" {:<8} {:<12} {}", field.title, field.key, field.help))
    };
    shown.iter().map(line).collect()
}
