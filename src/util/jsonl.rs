//! JSON Lines: one JSON value a line.

use serde::Deserialize;

/// Returns each line of `text` that is not blank, with its number from 1, parsed as JSON.
///
/// The error of a line stands in its place, so that the caller decides whether it ends the reading,
/// is collected, or is passed over (the torn last line of a log).
pub fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
) -> impl Iterator<Item = (usize, serde_json::Result<T>)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| (i + 1, serde_json::from_str(line)))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn parse_numbers_lines_and_skips_blank_ones() {
        let lines: Vec<(usize, Option<u32>)> = parse("1\n\n \n2\n{\n3")
            .map(|(number, value)| (number, value.ok()))
            .collect();
        assert_eq!(lines, [(1, Some(1)), (4, Some(2)), (5, None), (6, Some(3))]);
    }
}
