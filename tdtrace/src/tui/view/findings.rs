//! Findings, the gravest first, and below the table what the chosen one means, asks for and
//! rests on.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph, Wrap},
};

use super::{Shown, split, table};
use crate::{
    model::{
        exits::Scope,
        field::{Column, pick},
        finding::Finding,
    },
    tui::state::Rows,
};

/// Rows of the text at least; with fewer there is none.
const TEXT: u16 = 6;

fn columns(scope: Scope) -> Vec<Column<Finding>> {
    let mut keys = vec![("severity", 1)];
    if scope == Scope::All {
        keys.extend([("vm", 6), ("name", 3)]);
    }
    keys.extend([("vcpu", 10), ("finding", 0), ("about", 10), ("count", 5), ("per_s", 4)]);
    keys.push(("rule", 7));
    pick(&keys)
}

/// Draws the table, and the text where there is room.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let scope = shown.scope();
    let in_scope = |finding: &&Finding| match scope {
        Scope::All | Scope::Vm(_) => true,
        Scope::Vcpu(_, vcpu) => finding.vcpu.is_none_or(|other| other == vcpu),
    };
    let rows = scope.vms(shown.snapshot).flat_map(|vm| &vm.findings).filter(in_scope);
    let (rows, hidden) = shown.filtered(rows, |row| row.vm);
    if rows.is_empty() {
        let why = if hidden > 0 { "the filter hides all findings" } else { "nothing was found" };
        frame.render_widget(Paragraph::new(Line::styled(why, shown.theme().dim)), area);
        return Rows { hidden, ..Rows::default() };
    }
    let (columns, order) = (columns(scope), shown.order());
    let (area, below) = split(area, rows.len(), TEXT);
    if let (Some(below), Some(finding)) = (below, table::choose(&columns, rows.clone(), order)) {
        draw_text(frame, below, finding, shown);
    }
    let drawn = table::draw(frame, area, &columns, rows, order, shown.theme());
    Rows { hidden, ..drawn }
}

fn draw_text(frame: &mut Frame<'_>, area: Rect, finding: &Finding, shown: &Shown<'_>) {
    let (rule, vm) = (finding.rule, &finding.vm_name);
    let title = format!(" {vm} {}: {} ", rule.severity().name(), rule.title());
    let block = Block::new().borders(Borders::TOP).title(title);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let arrow = Span::styled("→ ", shown.theme().head);
    // The evidence comes last: where there is not room for all, it is what is cut.
    let mut lines = vec![
        Line::raw(rule.meaning()),
        Line::from(vec![arrow, Span::raw(rule.advice())]),
        Line::default(),
    ];
    lines.extend(finding.evidence.iter().map(|text| Line::raw(text.as_str())));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), inner);
}
