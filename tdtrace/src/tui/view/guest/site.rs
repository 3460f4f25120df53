//! One site in full: the verdict with its evidence, what to do, the code, what it touches, who.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{Shown, frames, opened, style};
use crate::{
    model::{
        field::{Value, thousands},
        figure,
        guest::snapshot::Site,
    },
    tui::{state::Rows, theme::Theme, view::wrap},
};

/// Cells of a label, with the room after it.
const LABEL: usize = 13;
/// Pages, ports and the like that are listed.
const OBJECTS: usize = 8;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, shown: &Shown<'_>) -> Rows {
    let Some(site) = opened(shown.snapshot, shown.state) else {
        let text = "this site is no longer listed; Esc goes back";
        frame.render_widget(Paragraph::new(text), area);
        return Rows { closed: true, ..Rows::default() };
    };
    let lines = lines(site, usize::from(area.width), shown.theme());
    let (total, page) = (lines.len(), usize::from(area.height));
    let row = shown.order().row.min(total.saturating_sub(page));
    let shown_lines: Vec<Line<'_>> = lines.into_iter().skip(row).take(page).collect();
    frame.render_widget(Paragraph::new(shown_lines), area);
    Rows { total, page, row, closed: true, ..Rows::default() }
}

/// Everything that is known of `site`, in lines of `width` cells, the most important first.
pub(super) fn lines(site: &Site, width: usize, theme: &Theme) -> Vec<Line<'static>> {
    let mut text = Text { lines: Vec::new(), width, head: theme.head };
    verdict(&mut text, site, style(site, theme));
    text.part("seen", &[seen(site)], Style::new());
    instruction(&mut text, site);
    text.part("touches", &touches(site), Style::new());
    text.part("code", &code(site), Style::new());
    text.part("where", &[contexts(site)], Style::new());
    let process = format!("{} (process {}, thread {})", site.comm, site.pid, site.tid);
    text.part("first by", &[process], Style::new());
    text.part("stack", frames(&site.stack).as_slice(), Style::new());
    text.lines
}

/// Labelled lines in the making.
struct Text {
    lines: Vec<Line<'static>>,
    width: usize,
    head: Style,
}

impl Text {
    /// `texts`, each on a line of its own or on several, under one label; nothing without any.
    fn part(&mut self, label: &str, texts: &[String], style: Style) {
        let room = self.width.saturating_sub(LABEL + 1);
        let lines = texts.iter().flat_map(|text| wrap(text, room));
        for (index, line) in lines.enumerate() {
            let label = if index == 0 { label } else { "" };
            self.lines.push(Line::from(vec![
                Span::styled(format!(" {label:<LABEL$}"), self.head),
                Span::styled(line, style),
            ]));
        }
    }
}

fn verdict(text: &mut Text, site: &Site, style: Style) {
    let Some(verdict) = &site.verdict else {
        let what = format!("{}: no access to a device, so no verdict", site.name);
        text.part("verdict", &[what], style);
        text.part("survives", &[site.fate().name().to_owned()], style);
        return;
    };
    text.part("verdict", &[verdict.kind.name().to_owned()], style);
    let fate = format!("{}: {}", site.fate().name(), verdict.survives.reason);
    text.part("survives", &[fate], style);
    text.part("evidence", &verdict.evidence, Style::new());
    text.part("what to do", std::slice::from_ref(&verdict.advice), Style::new());
}

fn seen(site: &Site) -> String {
    let rate = Value::Rate(site.rate).to_cell();
    let mut text = format!("{}, {rate} a second", figure::times(site.count));
    if site.failed > 0 {
        text.push_str(&format!("; {} failed", thousands(site.failed)));
    }
    if let Some(error) = site.error() {
        text.push_str(&format!(", last with {error}"));
    }
    if let Some(mean) = site.mean_ns {
        text.push_str(&format!("; {} each", figure::duration(mean)));
    }
    if site.own > 0 {
        text.push_str(&format!("; {} by tdtrace", thousands(site.own)));
    }
    text
}

fn instruction(text: &mut Text, site: &Site) {
    let decoded = site.instruction();
    let length = decoded.as_ref().map_or(site.bytes.len(), |(_, length)| *length);
    let name = match (&decoded, site.bytes.is_empty()) {
        (Some((name, _)), _) => name.clone(),
        (None, true) => "its bytes could not be read".to_owned(),
        (None, false) => "no instruction".to_owned(),
    };
    let bytes: Vec<String> = site.bytes.iter().take(length).map(|b| format!("{b:02x}")).collect();
    let address = site.ip.map_or(String::new(), |ip| format!(" at {ip:#x}"));
    text.part("instruction", &[format!("{name}{address}")], Style::new());
    if !bytes.is_empty() {
        text.part("bytes", &[bytes.join(" ")], Style::new());
    }
}

fn touches(site: &Site) -> Vec<String> {
    let mut texts: Vec<String> = site
        .objects
        .iter()
        .take(OBJECTS)
        .map(|(object, count)| format!("{} {}×", object.text(), thousands(*count)))
        .collect();
    if let (Some(first), Some(device)) = (texts.first_mut(), &site.device) {
        first.push_str(&format!("  {}", device.line()));
    }
    if site.objects.len() > OBJECTS {
        texts.push(format!("and {} more", site.objects.len() - OBJECTS));
    }
    texts
}

/// The inlined chain with its lines; without one, why.
fn code(site: &Site) -> Vec<String> {
    let Some(code) = &site.code else { return Vec::new() };
    match &code.chain {
        Some(chain) => chain
            .iter()
            .enumerate()
            .map(|(index, frame)| {
                let place = match (&frame.file, frame.line) {
                    (Some(file), Some(line)) => format!("  {file}:{line}"),
                    (Some(file), None) => format!("  {file}"),
                    _ => String::new(),
                };
                let arrow = if index == 0 { "" } else { "← " };
                format!("{arrow}{}{place}", frame.function)
            })
            .collect(),
        None => vec![match &code.note {
            Some(note) => format!("no inlined functions known: {note}"),
            None => "no inlined functions known".to_owned(),
        }],
    }
}

fn contexts(site: &Site) -> String {
    let context = |(name, count): &(&str, u64)| format!("{name} {}×", thousands(*count));
    site.contexts.iter().map(context).collect::<Vec<_>>().join(", ")
}
