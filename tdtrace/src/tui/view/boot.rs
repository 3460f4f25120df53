//! What a VM's beginning was spent on: one row an interval, and below the table what the letters stand
//! for and the exits of the chosen interval by group.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::Line,
    widgets::{Block, Borders, Paragraph},
};

use super::{Shown, bars, bars::Bar, cut, table};
use crate::{
    model::{
        boot::{BootRow, Group, Timeline, rows},
        exits::Scope,
        field::{boot_keys, pick},
        figure,
        snapshot::Vm,
    },
    report::{legend, summary},
    tui::state::Rows,
};

/// From this height on the chosen interval is shown by group.
const TALL: u16 = 28;
/// Rows for that, with its head.
const GROUPS: u16 = 10;

/// Draws the table, and what explains it below.
pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let vm = match shown.scope() {
        Scope::All => None,
        Scope::Vm(vm) | Scope::Vcpu(vm, _) => shown.vm(vm),
    };
    let why = match vm.map(|vm| (vm, vm.boot.as_deref())) {
        Some((vm, Some(timeline))) => return draw_timeline(frame, area, (vm, timeline), shown),
        Some((vm, None)) => format!("{} is no TD and ran before tdtrace came", vm.name),
        None => "choose a VM, and press b".to_owned(),
    };
    frame.render_widget(Paragraph::new(why).style(shown.theme().dim), area);
    Rows::default()
}

fn draw_timeline(
    frame: &mut Frame<'_>,
    area: Rect,
    (vm, timeline): (&Vm, &Timeline),
    shown: &Shown<'_>,
) -> Rows {
    let all = rows(vm);
    let (kept, hidden) = shown.filtered(&all, |row| row.vm);
    let (columns, order) = (pick(&boot_keys(area.width, vm.isa)), shown.order());
    let letters = legend(area.width);
    let lines = u16::try_from(letters.len()).unwrap_or(u16::MAX).saturating_add(1);
    let groups = if area.height >= TALL { GROUPS } else { 0 };
    // A table of one row and its head goes before what explains it.
    let below = lines.saturating_add(groups).min(area.height.saturating_sub(2));
    let [above, below] =
        Layout::vertical([Constraint::Min(0), Constraint::Length(below)]).areas(area);
    draw_below(frame, below, (vm, timeline), &letters, shown);
    if groups > 0
        && let Some(row) = table::choose(&columns, kept.clone(), order)
    {
        let room = below.height.min(groups);
        let below = Rect { y: below.bottom() - room, height: room, ..below };
        draw_groups(frame, below, row, shown);
    }
    let drawn = table::draw(frame, above, &columns, kept, order, shown.theme());
    Rows { hidden, ..drawn }
}

fn draw_below(
    frame: &mut Frame<'_>,
    area: Rect,
    (vm, timeline): (&Vm, &Timeline),
    letters: &[String],
    shown: &Shown<'_>,
) {
    let demo = if vm.demo { "DEMO " } else { "" };
    // All other counts on the screen are from the reset on.
    let kept = if shown.snapshot.since_reset.is_some() { ", not reset" } else { "" };
    let title = format!(" {demo}{} {}, {}{kept} ", vm.id, vm.name, summary(timeline));
    let block = Block::new().borders(Borders::TOP).title(cut(&title, usize::from(area.width)));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let lines: Vec<Line<'_>> =
        letters.iter().map(|line| Line::styled(line.as_str(), shown.theme().dim)).collect();
    frame.render_widget(Paragraph::new(lines), inner);
}

/// The exits of one interval.
fn draw_groups(frame: &mut Frame<'_>, area: Rect, row: &BootRow, shown: &Shown<'_>) {
    let bar = |group: Group| Bar {
        group: 0,
        name: format!("{} {}", group.letter(), group.title()),
        count: row.interval.amounts.of(group),
    };
    let bars = Group::ALL.map(bar).into_iter().filter(|bar| bar.count > 0).collect();
    let [from, to] = [row.interval.from, row.interval.to].map(figure::duration);
    let head = format!("EXITS {from} to {to}");
    bars::draw(frame, area, (&head, "COUNT"), bars, shown.theme());
}
