//! The help: the key table, drawn over the view.

use ratatui::{
    Frame,
    layout::{Constraint, Flex, Layout, Rect},
    text::Line,
    widgets::{Block, Clear, Paragraph},
};

use crate::tui::keymap::KEYMAP;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect) {
    let lines: Vec<Line<'_>> = KEYMAP
        .iter()
        .filter(|binding| !binding.keys.is_empty())
        .map(|binding| Line::from(format!(" {:<10} {}", binding.keys, binding.help)))
        .collect();
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX).saturating_add(2);
    let [middle] = Layout::horizontal([Constraint::Length(54)]).flex(Flex::Center).areas::<1>(area);
    let [middle] =
        Layout::vertical([Constraint::Length(height)]).flex(Flex::Center).areas::<1>(middle);
    frame.render_widget(Clear, middle);
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title(" keys ")), middle);
}
