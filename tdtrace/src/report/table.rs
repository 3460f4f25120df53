//! A text table of the field registry's columns, cut to a width.

use crate::model::field::Field;

/// The fields that fit into `width` cells, in their order: the ones of high rank go first.
#[must_use]
pub fn columns<R>(fields: &'static [Field<R>], width: u16) -> Vec<&'static Field<R>> {
    let mut chosen: Vec<&Field<R>> = fields.iter().collect();
    while chosen.iter().map(|field| field.width + 1).sum::<u16>() > width + 1 {
        let Some(last) = (0..chosen.len()).max_by_key(|index| chosen[*index].rank) else { break };
        if chosen.len() == 1 {
            break;
        }
        chosen.remove(last);
    }
    chosen
}

/// `rows` as lines under a head line, each at most about `width` cells.
#[must_use]
pub fn table<R>(fields: &'static [Field<R>], rows: &[&R], width: u16) -> String {
    let fields = columns(fields, width);
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| fields.iter().map(|field| (field.value)(*row).to_cell()).collect())
        .collect();
    let mut widths: Vec<usize> = fields.iter().map(|field| field.title.chars().count()).collect();
    for row in &cells {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let titles = fields.iter().map(|field| field.title.to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&titles).chain(&cells) {
        let mut line = String::new();
        for ((cell, field), width) in row.iter().zip(&fields).zip(&widths) {
            let width = *width;
            if field.right {
                line.push_str(&format!("{cell:>width$} "));
            } else {
                line.push_str(&format!("{cell:<width$} "));
            }
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
