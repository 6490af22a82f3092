//! Rendering of a report as JSON, in which figures are found by the names of section, table, row
//! and column.

use serde_json::{Map, Value, json};

use super::{Estimate, EvaluationReport, NumberFormat, ReportTable, Section, TableCell};

/// Version of the JSON schema; increased by incompatible changes.
pub const SCHEMA: u32 = 1;

impl EvaluationReport {
    /// Renders the report as JSON. A figure is at `sections.SECTION.tables.TABLE.rows.ROW.COLUMN`
    /// and is `null`, a string, or an object with `value`, `unit` (`share` of 1, `count` or
    /// `number`) and, if there is an interval, `low` and `high`. A name that an earlier neighbor
    /// has gets a number: `name (2)`. Photographs are left out.
    pub fn to_json(&self) -> Value {
        json!({
            "schema": SCHEMA,
            "title": self.title,
            "command": self.command,
            "facts": unique_object(self.facts.iter().map(|(name, value)| (name, json!(value)))),
            "notes": self.notes,
            "sections": unique_object(self.sections.iter().map(|s| (&s.title, section(s)))),
        })
    }
}

fn section(section: &Section) -> Value {
    json!({
        "text": section.text,
        "tables": unique_object(section.tables.iter().map(|t| (&t.title, table(t)))),
        "plots": section.plots,
        "captions": section.cards,
    })
}

fn table(table: &ReportTable) -> Value {
    let row = |cells: &[TableCell]| {
        unique_object(
            table
                .columns
                .iter()
                .enumerate()
                .map(|(i, column)| (&column.name, cell(cells.get(i), column.format))),
        )
    };
    json!({
        "note": table.note,
        "columns": table.columns,
        "rows": unique_object(table.rows.iter().map(|r| (&r.name, row(&r.cells)))),
    })
}

fn cell(cell: Option<&TableCell>, format: NumberFormat) -> Value {
    let unit = match format {
        NumberFormat::Percent => "share",
        NumberFormat::Count => "count",
        NumberFormat::Decimal(_) | NumberFormat::Text => "number",
    };
    match cell {
        Some(TableCell::Text(text)) => json!(text),
        Some(TableCell::Value(Estimate { value, interval })) if value.is_finite() => match interval
        {
            Some((low, high)) => json!({ "value": value, "low": low, "high": high, "unit": unit }),
            None => json!({ "value": value, "unit": unit }),
        },
        _ => Value::Null,
    }
}

/// Object with unique names, so that no entry is lost.
fn unique_object<'a>(entries: impl Iterator<Item = (&'a String, Value)>) -> Value {
    let mut object = Map::new();
    for (name, value) in entries {
        let mut key = name.clone();
        let mut n = 1;
        while object.contains_key(&key) {
            n += 1;
            key = format!("{name} ({n})");
        }
        object.insert(key, value);
    }
    Value::Object(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::report::sample;

    #[test]
    fn figure_is_found_by_its_names() {
        let json = sample::report().to_json();
        assert_eq!(json["schema"], SCHEMA);
        assert_eq!(json["facts"]["seed"], "7");
        let table = &json["sections"]["Objects"]["tables"]["CHAIR"];
        assert_eq!(
            table["rows"]["candor"]["CHAIR_i"],
            json!({ "value": 0.306, "low": 0.281, "high": 0.33, "unit": "share" })
        );
        assert_eq!(
            table["rows"]["candor"]["captions"],
            json!({ "value": 1000.0, "unit": "count" })
        );
        assert_eq!(table["rows"]["people"]["CHAIR_i"], Value::Null);
        assert_eq!(table["rows"]["people"]["captions"], "five each");
        assert_eq!(
            table["columns"][0],
            json!({ "name": "CHAIR_i", "format": "percent", "better": "lower",
                "help": "Share <of> mentions" })
        );
        assert_eq!(json["sections"]["Objects"]["plots"][0]["kind"], "lines");
        assert_eq!(
            json["sections"]["Objects"]["captions"][0]["words"][1]["text"],
            sample::EVIL
        );
    }

    #[test]
    fn equal_names_are_numbered() {
        let twice = ["a", "a", "a (2)"].map(str::to_owned);
        assert_eq!(
            unique_object(twice.iter().map(|n| (n, Value::Null))),
            json!({ "a": null, "a (2)": null, "a (2) (2)": null })
        );
    }

    #[test]
    fn report_survives_a_round_trip_without_photographs() {
        let mut report = sample::report();
        let text = serde_json::to_string(&report).unwrap();
        assert!(!text.contains("photo") && !report.to_json().to_string().contains("photo"));
        report
            .sections
            .iter_mut()
            .flat_map(|s| &mut s.cards)
            .for_each(|card| card.photo = None);
        assert_eq!(
            serde_json::from_str::<EvaluationReport>(&text).unwrap(),
            report
        );
    }
}
