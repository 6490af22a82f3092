//! Rendering of a report as aligned tables for a terminal.

use std::iter;

use unicode_segmentation::UnicodeSegmentation;

use super::{
    EvaluationReport, NumberFormat, ReportTable, Section,
    format::{cell, counted, marks, plain},
};

/// Blanks between columns.
const GAP: usize = 2;
/// Maximum width of paragraphs, for legibility.
const MEASURE: usize = 100;
/// Minimum width: narrower terminals are written as if they had it.
const NARROWEST: usize = 40;

const BOLD: &str = "1";
const DIM: &str = "2";

impl EvaluationReport {
    /// Renders the report in at most `width` columns, with or without ANSI styles. Plots and
    /// captions are only counted.
    pub fn terminal(&self, width: usize, color: bool) -> String {
        let mut page = Page {
            out: String::new(),
            width: width.max(NARROWEST),
            color,
        };
        page.heading(&self.title, '═');
        let names = self
            .facts
            .iter()
            .map(|(name, _)| columns(&plain(name)))
            .max()
            .unwrap_or(0)
            .min(page.width / 3);
        for (name, value) in &self.facts {
            page.hanging(&fit(&plain(name), names, Side::Left), &plain(value));
        }
        if !self.command.is_empty() {
            page.line("");
            // Not wrapped, so that it can be copied.
            page.line(&format!("$ {}", plain(&self.command)));
        }
        for (i, note) in self.notes.iter().enumerate() {
            if i == 0 {
                page.line("");
            }
            page.hanging("•", &plain(note));
        }
        for section in &self.sections {
            page.section(section);
        }
        page.out
    }
}

struct Page {
    out: String,
    width: usize,
    color: bool,
}

impl Page {
    fn line(&mut self, line: &str) {
        self.out.push_str(line.trim_end());
        self.out.push('\n');
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.color && !text.trim().is_empty() {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn heading(&mut self, text: &str, rule: char) {
        let lines = wrap(&plain(text), self.width);
        let widest = lines.iter().map(|l| columns(l)).max().unwrap_or(0);
        for line in lines {
            self.line(&self.styled(BOLD, &line));
        }
        self.line(&rule.to_string().repeat(widest));
    }

    /// Paragraph with a prefix on its first line.
    fn hanging(&mut self, before: &str, text: &str) {
        let indent = columns(before) + usize::from(!before.is_empty()) * GAP;
        for (i, line) in wrap(text, (self.width - indent).min(MEASURE))
            .iter()
            .enumerate()
        {
            let margin = if i == 0 { before } else { "" };
            self.line(&format!("{}{line}", fit(margin, indent, Side::Left)));
        }
    }

    fn section(&mut self, section: &Section) {
        self.line("");
        self.heading(&section.title, '─');
        for text in &section.text {
            self.hanging("", &plain(text));
        }
        for table in &section.tables {
            self.table(table);
        }
        let left_out: Vec<String> = [
            counted(section.plots.len(), "plot"),
            counted(section.cards.len(), "caption"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if !left_out.is_empty() {
            self.line("");
            self.line(&self.styled(
                DIM,
                &format!("{} more in the HTML report", left_out.join(" and ")),
            ));
        }
    }

    /// Writes a table. If it is too wide, its columns are split into groups, each with the row
    /// names.
    fn table(&mut self, table: &ReportTable) {
        self.line("");
        if !table.title.is_empty() {
            self.line(&self.styled(BOLD, &plain(&table.title)));
        }
        let names: Vec<String> = table.rows.iter().map(|row| plain(&row.name)).collect();
        let names_width = names
            .iter()
            .map(|n| columns(n))
            .max()
            .unwrap_or(0)
            .min(self.width * 2 / 5);
        let room = self.width - names_width;
        let laid_out: Vec<SizedColumn> = (0..table.columns.len())
            .map(|i| SizedColumn::new(table, i, room - GAP))
            .collect();
        for (i, group) in groups(&laid_out, room).into_iter().enumerate() {
            if i > 0 {
                self.line("");
            }
            self.group(table, &names, names_width, group);
        }
        if !table.note.is_empty() {
            for line in wrap(&plain(&table.note), self.width.min(MEASURE)) {
                self.line(&self.styled(DIM, &line));
            }
        }
    }

    fn group(
        &mut self,
        table: &ReportTable,
        names: &[String],
        names_width: usize,
        group: &[SizedColumn],
    ) {
        let height = group.iter().map(|c| c.heading.len()).max().unwrap_or(0);
        let gap = " ".repeat(GAP);
        for row in 0..height {
            let heading = |c: &SizedColumn| {
                (row + c.heading.len())
                    .checked_sub(height)
                    .map_or("", |i| &c.heading[i])
                    .to_owned()
            };
            let cells = group
                .iter()
                .map(|c| format!("{gap}{}", fit(&heading(c), c.width(), c.side)));
            self.line(
                &iter::once(" ".repeat(names_width))
                    .chain(cells)
                    .collect::<String>(),
            );
        }
        self.line(&"─".repeat(names_width + group.iter().map(|c| GAP + c.width()).sum::<usize>()));
        for (i, (row, name)) in table.rows.iter().zip(names).enumerate() {
            let weight = |text: &str| {
                if row.emphasis {
                    self.styled(BOLD, text)
                } else {
                    text.to_owned()
                }
            };
            let cells = group.iter().map(|c| {
                let (figure, interval) = c.cell(i);
                format!("{gap}{}{}", weight(&figure), self.styled(DIM, &interval))
            });
            let line: String = iter::once(weight(&fit(name, names_width, Side::Left)))
                .chain(cells)
                .collect();
            self.line(&line);
        }
    }
}

/// Column with known widths.
struct SizedColumn {
    /// Lines of the heading.
    heading: Vec<String>,
    /// Value and interval of every row.
    cells: Vec<(String, String)>,
    /// Width of the values, and of the intervals with the space before them.
    widths: (usize, usize),
    /// Alignment: text left, numbers right.
    side: Side,
}

impl SizedColumn {
    fn new(table: &ReportTable, index: usize, room: usize) -> Self {
        let column = &table.columns[index];
        let cells: Vec<(String, String)> = table
            .rows
            .iter()
            .map(|row| cell(row.cells.get(index), column.format))
            .map(|(f, i)| (f, i.unwrap_or_default()))
            .collect();
        let figures = cells
            .iter()
            .map(|(f, _)| columns(f))
            .max()
            .unwrap_or(0)
            .min(room);
        let intervals = cells
            .iter()
            .map(|(_, i)| columns(i))
            .max()
            .map_or(0, |w| w + usize::from(w > 0));
        // A no-break space, so that no arrow starts a line.
        let title = marks(column).fold(plain(&column.name), |title, mark| title + "\u{a0}" + mark);
        let longest_word = title.split(' ').map(columns).max().unwrap_or(0);
        let heading = wrap(&title, (figures + intervals).max(longest_word).min(room));
        let missing = heading
            .iter()
            .map(|l| columns(l))
            .max()
            .unwrap_or(0)
            .saturating_sub(figures + intervals);
        let side = if column.format == NumberFormat::Text {
            Side::Left
        } else {
            Side::Right
        };
        Self {
            heading,
            cells,
            widths: (figures + missing, intervals),
            side,
        }
    }

    fn width(&self) -> usize {
        self.widths.0 + self.widths.1
    }

    fn cell(&self, row: usize) -> (String, String) {
        let (figure, interval) = &self.cells[row];
        (
            fit(figure, self.widths.0, self.side),
            fit(interval, self.widths.1, Side::Right),
        )
    }
}

/// Splits columns into groups of about equal size that fit, at least one column each. A table
/// without columns is one group.
fn groups(all: &[SizedColumn], room: usize) -> Vec<&[SizedColumn]> {
    let cut = |most: usize| {
        let mut groups = Vec::new();
        let mut rest = all;
        while !rest.is_empty() {
            let ends = rest.iter().scan(0, |sum, c| {
                *sum += GAP + c.width();
                Some(*sum)
            });
            let (group, others) =
                rest.split_at(ends.take_while(|&end| end <= room).count().clamp(1, most));
            groups.push(group);
            rest = others;
        }
        groups
    };
    match cut(all.len().max(1)) {
        none if none.is_empty() => vec![all],
        greedy => cut(all.len().div_ceil(greedy.len())),
    }
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// Text of exactly `width` columns: padded with spaces or cut off with an ellipsis.
fn fit(text: &str, width: usize, side: Side) -> String {
    let mut text = text.to_owned();
    if columns(&text) > width {
        while columns(&text) + 1 > width
            && let Some((last, _)) = text.grapheme_indices(true).next_back()
        {
            text.truncate(last);
        }
        text.push_str(if width > 0 { "…" } else { "" });
    }
    let blanks = " ".repeat(width.saturating_sub(columns(&text)));
    match side {
        Side::Left => text + &blanks,
        Side::Right => blanks + &text,
    }
}

/// Breaks text at spaces; longer words are broken anywhere. No-break spaces become spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let long = columns(word);
        if used > 0 && used + 1 + long > width {
            lines.push(String::new());
            used = 0;
        } else if used > 0 {
            push(&mut lines, " ");
            used += 1;
        }
        for grapheme in word.graphemes(true) {
            let wide = columns(grapheme);
            if used > 0 && used + wide > width {
                lines.push(String::new());
                used = 0;
            }
            push(
                &mut lines,
                if grapheme == "\u{a0}" { " " } else { grapheme },
            );
            used += wide;
        }
    }
    lines
}

fn push(lines: &mut [String], text: &str) {
    if let Some(line) = lines.last_mut() {
        line.push_str(text);
    }
}

/// Terminal columns of a text: one per grapheme, two for wide scripts and signs.
fn columns(text: &str) -> usize {
    const WIDE: [(char, char); 7] = [
        ('\u{1100}', '\u{115f}'),
        ('\u{2e80}', '\u{a4cf}'),
        ('\u{ac00}', '\u{d7a3}'),
        ('\u{f900}', '\u{faff}'),
        ('\u{ff00}', '\u{ff60}'),
        ('\u{1f300}', '\u{1faff}'),
        ('\u{20000}', '\u{3fffd}'),
    ];
    let wide = |g: &str| {
        g.chars()
            .next()
            .is_some_and(|c| WIDE.iter().any(|&(from, to)| (from..=to).contains(&c)))
    };
    text.graphemes(true).map(|g| 1 + usize::from(wide(g))).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::sample;

    fn lines_of(width: usize) -> Vec<String> {
        sample::report()
            .terminal(width, false)
            .lines()
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [60, 100, 160] {
            for line in lines_of(width).iter().filter(|l| !l.starts_with('$')) {
                assert!(columns(line) <= width, "{width}: {line}");
            }
        }
    }

    #[test]
    fn figures_of_a_column_are_aligned() {
        let lines = lines_of(160);
        let find = |name: &str| lines.iter().find(|l| l.starts_with(name)).unwrap();
        let (candor, greedy) = (find("candor "), find("greedy "));
        let end = |line: &str, text: &str| columns(&line[..line.find(text).unwrap() + text.len()]);
        assert_eq!(
            end(candor, "30.6 [28.1, 33.0]"),
            end(greedy, "9.8  [9.1, 10.4]")
        );
        assert_eq!(end(candor, "1,000"), end(greedy, "64"));
        let heading = lines.iter().find(|l| l.contains("CHAIR_i % ↓")).unwrap();
        assert_eq!(end(heading, "↓"), end(candor, "33.0]"));
        assert_eq!(
            end(find("people "), "–"),
            end(greedy, "9.8"),
            "an absent cell stands where the figures do"
        );
    }

    #[test]
    fn wide_table_is_split_into_groups_with_row_names() {
        let count = |width| {
            lines_of(width)
                .iter()
                .filter(|l| l.starts_with("greedy "))
                .count()
        };
        assert_eq!((count(160), count(60)), (1, 2));
    }

    #[test]
    fn styles_are_optional_and_never_from_the_data() {
        let mut report = sample::report();
        report.sections[0].tables[0].rows[1].name = "candor\u{1b}[2J".to_owned();
        assert!(!report.terminal(100, false).contains('\u{1b}'));
        let coloured = report.terminal(100, true);
        assert!(coloured.contains("\u{1b}[1mcandor [2J") && !coloured.contains("\u{1b}[2J"));
    }

    #[test]
    fn omitted_plots_and_captions_are_counted() {
        assert!(
            lines_of(100).contains(&"3 plots and 1 caption more in the HTML report".to_owned())
        );
    }

    #[test]
    fn wide_characters_are_fitted_and_wrapped() {
        assert_eq!(fit("犬が走る", 5, Side::Left), "犬が…");
        assert_eq!(fit("e\u{301}", 3, Side::Right), "  e\u{301}");
        assert_eq!(fit("ab", 0, Side::Left), "");
        assert_eq!(wrap("a dog\u{a0}↑ runs", 5), ["a", "dog ↑", "runs"]);
        assert_eq!(wrap("abcdefg", 3), ["abc", "def", "g"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn table_without_rows_or_columns_is_written() {
        let mut report = sample::report();
        report.sections[0].tables[0].rows.clear();
        report.sections[0].tables.push(ReportTable {
            title: "none".to_owned(),
            ..ReportTable::default()
        });
        assert!(report.terminal(80, false).contains("none"));
    }
}
