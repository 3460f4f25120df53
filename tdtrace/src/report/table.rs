//! Tables of the field registry's columns: which fit into a width, and as text.

use crate::model::field::{Column, Field};

/// Columns of this rank or a higher one are left out where no row has a value.
const MINOR: u8 = 10;

/// Rows as cells of the columns that fit.
pub struct Cells<R: 'static> {
    /// The columns that fit.
    pub columns: Vec<Column<R>>,
    /// Their heads.
    pub titles: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<String>>,
    /// Cells that each column takes.
    pub widths: Vec<usize>,
}

impl<R> Cells<R> {
    /// The ones of `columns` that fit into `width` with `gap` cells between them; those of high rank
    /// give way first. `title` makes the head of a column.
    pub fn fit(
        columns: &[Column<R>],
        rows: &[&R],
        width: u16,
        gap: usize,
        title: impl Fn(&Field<R>) -> String,
    ) -> Self {
        let mut cells = Self {
            columns: columns.to_vec(),
            titles: columns.iter().map(|column| title(column.field)).collect(),
            rows: rows
                .iter()
                .map(|row| columns.iter().map(|it| (it.field.value)(row).to_cell()).collect())
                .collect(),
            widths: Vec::new(),
        };
        cells.widths = cells.titles.iter().map(|title| title.chars().count()).collect();
        for row in &cells.rows {
            for (width, cell) in cells.widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        cells.remove_empty();
        let room = usize::from(width) + gap;
        while cells.columns.len() > 1
            && cells.widths.iter().map(|width| width + gap).sum::<usize>() > room
        {
            let last = (0..cells.columns.len()).max_by_key(|index| cells.columns[*index].rank);
            cells.remove(last.unwrap_or(0));
        }
        cells
    }

    /// Takes out columns in which nothing stands, and those of little weight in which nothing is known.
    fn remove_empty(&mut self) {
        if self.rows.is_empty() {
            return;
        }
        for column in (0..self.columns.len()).rev() {
            let minor = self.columns[column].rank >= MINOR;
            let empty = |cell: &str| cell.is_empty() || minor && cell == "–";
            if self.rows.iter().all(|row| empty(&row[column])) {
                self.remove(column);
            }
        }
    }

    fn remove(&mut self, column: usize) {
        self.columns.remove(column);
        self.titles.remove(column);
        self.widths.remove(column);
        for row in &mut self.rows {
            row.remove(column);
        }
    }

    /// `row` as one line, aligned.
    #[must_use]
    pub fn line(&self, row: &[String], gap: usize) -> String {
        let mut line = String::new();
        for ((cell, column), width) in row.iter().zip(&self.columns).zip(&self.widths) {
            let width = *width;
            line.push_str(&if column.field.right {
                format!("{cell:>width$}")
            } else {
                format!("{cell:<width$}")
            });
            line.push_str(&" ".repeat(gap));
        }
        line.trim_end().to_owned()
    }
}

/// `rows` as lines under a head line, at most `width` cells wide as far as one column allows.
#[must_use]
pub fn table<R>(columns: &[Column<R>], rows: &[&R], width: u16) -> String {
    let cells = Cells::fit(columns, rows, width, 2, |field| field.title.to_owned());
    let mut text = String::new();
    for row in std::iter::once(&cells.titles).chain(&cells.rows) {
        text.push_str(&cells.line(row, 2));
        text.push('\n');
    }
    text
}
