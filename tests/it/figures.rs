//! Tables of README and docs against the recorded output of the commands beside them.
//!
//! `docs/figures/tables.toml` maps each cell of a document to a figure of a file;
//! `tools/figures.py` records the files again. With `CANDOR_WRITE_TABLES=1` this test writes the
//! tables into the documents instead of comparing them.

use std::{collections::BTreeMap, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

const FOLDER: &str = "docs/figures";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Spec {
    table: Vec<TableSpec>,
}

/// A table of a document, below the line `<!-- table: NAME -->`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TableSpec {
    document: String,
    name: String,
    /// Heading of the first column.
    corner: String,
    column: Vec<ColumnSpec>,
    row: Vec<RowSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnSpec {
    head: String,
    /// Section, table and column of the file; of several, the first that exists.
    figure: Vec<[String; 3]>,
    format: Format,
    /// `true` to add the interval.
    #[serde(default)]
    interval: bool,
    /// Row in the file, if it is not that of the line; `{row}` stands for the line's.
    row: Option<String>,
    /// Row of the same table that the figure is compared with.
    against: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// A share, as a percentage with one decimal.
    Percent,
    /// Three decimals, without the zero before the point.
    Decimal3,
    Decimal2,
    Decimal1,
    Count,
    /// Relative change from another row, as a percentage.
    Change,
    /// Ratio to another row.
    Ratio,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowSpec {
    label: String,
    /// A file of `docs/figures`, without its extension.
    file: String,
    /// Name of the row in the file.
    row: String,
    /// Columns that are left empty.
    #[serde(default)]
    without: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn spec() -> Spec {
    toml::from_str(&fs::read_to_string(root().join(FOLDER).join("tables.toml")).unwrap()).unwrap()
}

/// All recorded files by name.
fn recorded() -> BTreeMap<String, Value> {
    let files = fs::read_dir(root().join(FOLDER))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let jsons = files.filter(|path| path.extension().is_some_and(|e| e == "json"));
    let read = |path: &Path| serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    jsons
        .map(|path| {
            (
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                read(&path),
            )
        })
        .collect()
}

fn figure<'a>(file: &'a Value, places: &[[String; 3]], row: &str) -> Option<&'a Value> {
    let figure = |[section, table, column]: &[String; 3]| {
        file["sections"].get(section)?["tables"].get(table)?["rows"]
            .get(row)?
            .get(column)
    };
    places.iter().find_map(figure)
}

fn number(value: f64, format: &Format) -> String {
    let short = |text: String| match text.strip_prefix("-") {
        Some(rest) => format!("-{}", rest.strip_prefix('0').unwrap_or(rest)),
        None => text.strip_prefix('0').unwrap_or(&text).to_owned(),
    };
    // A negative zero is written as zero.
    let value = value + 0.0;
    match format {
        Format::Percent => format!("{:.1}", 100.0 * value),
        Format::Decimal3 => short(format!("{value:.3}")),
        Format::Decimal2 => format!("{value:.2}"),
        Format::Decimal1 => format!("{value:.1}"),
        Format::Count => format!("{value:.0}"),
        Format::Change => format!("{:+.0} %", 100.0 * (value - 1.0)),
        Format::Ratio => short(format!("{value:.2}")),
    }
}

fn cell(files: &BTreeMap<String, Value>, row: &RowSpec, column: &ColumnSpec) -> String {
    if row.without.contains(&column.head) {
        return String::new();
    }
    let file = files
        .get(&row.file)
        .unwrap_or_else(|| panic!("there is no {FOLDER}/{}.json", row.file));
    let found = |name: &str| {
        let found = figure(file, &column.figure, name);
        found.unwrap_or_else(|| {
            panic!(
                "{}.json has no {:?} in row '{name}'",
                row.file, column.figure
            )
        })
    };
    let name = column
        .row
        .as_ref()
        .map_or_else(|| row.row.clone(), |name| name.replace("{row}", &row.row));
    let value = found(&name);
    let Some(plain) = value["value"].as_f64() else {
        return String::new();
    };
    if let Some(against) = &column.against {
        if *against == name {
            return String::new();
        }
        return number(
            plain / found(against)["value"].as_f64().unwrap(),
            &column.format,
        );
    }
    let written = number(plain, &column.format);
    match (value["low"].as_f64(), value["high"].as_f64()) {
        (Some(low), Some(high)) if column.interval => {
            format!(
                "{written} [{}, {}]",
                number(low, &column.format),
                number(high, &column.format)
            )
        }
        _ => written,
    }
}

fn written(table: &TableSpec, files: &BTreeMap<String, Value>) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let heads = table.column.iter().map(|c| c.head.clone());
    let mut text = line([table.corner.clone()].into_iter().chain(heads).collect());
    text += &format!("|{}\n", "---|".repeat(table.column.len() + 1));
    for row in &table.row {
        let cells = table.column.iter().map(|column| cell(files, row, column));
        text += &line([row.label.clone()].into_iter().chain(cells).collect())
            .replace("|  |", "| |")
            .replace("|  |", "| |");
    }
    text
}

/// Byte range of the table below the line that names it.
fn place(document: &str, name: &str) -> std::ops::Range<usize> {
    let mark = format!("<!-- table: {name} -->\n");
    let start = document
        .find(&mark)
        .unwrap_or_else(|| panic!("there is no line {mark}"))
        + mark.len();
    let lines = document[start..]
        .split_inclusive('\n')
        .take_while(|line| line.starts_with('|'));
    start..start + lines.map(str::len).sum::<usize>()
}

#[test]
fn tables_of_documents_equal_recorded_figures() {
    let files = recorded();
    for table in spec().table {
        let path = root().join(&table.document);
        let mut document = fs::read_to_string(&path).unwrap();
        let (place, expected) = (place(&document, &table.name), written(&table, &files));
        if std::env::var_os("CANDOR_WRITE_TABLES").is_some() {
            document.replace_range(place, &expected);
            fs::write(&path, document).unwrap();
        } else {
            assert_eq!(
                document[place], expected,
                "{}: table {}; CANDOR_WRITE_TABLES=1 writes it anew",
                table.document, table.name
            );
        }
    }
}

#[test]
fn command_of_every_table_is_in_its_document() {
    let files = recorded();
    for table in spec().table {
        let document = fs::read_to_string(root().join(&table.document)).unwrap();
        for row in &table.row {
            let command = files[&row.file]["command"].as_str().unwrap();
            assert!(
                document.contains(command),
                "{}: {command}, which wrote {}.json, is not there",
                table.document,
                row.file
            );
        }
    }
}

#[test]
fn recorded_figures_are_of_the_embedded_model() {
    let bundle: Value =
        serde_json::from_slice(&fs::read(root().join("models/candor-mini/config.json")).unwrap())
            .unwrap();
    for (name, file) in recorded() {
        let made_with = (&file["facts"]["model"], &file["facts"]["model version"]);
        assert_eq!(
            made_with,
            (&bundle["name"], &bundle["version"]),
            "{name}.json"
        );
    }
}
