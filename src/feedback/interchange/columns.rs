//! Parquet files through the `parquet` crate's row and column API, without Arrow.

use std::{
    fs::File,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    basic::Compression,
    column::writer::ColumnWriter,
    data_type::ByteArray,
    errors::ParquetError,
    file::{
        metadata::KeyValue,
        properties::{EnabledStatistics, WriterProperties},
        reader::{FileReader, SerializedFileReader},
        writer::SerializedFileWriter,
    },
    record::{Field, Row as ParquetRow, reader::RowIter},
    schema::parser::parse_message_type,
};
use serde_json::{Value, json};

use super::{IncomingRecord, NumberedRows, RecordWriter, records::RowImage};
use crate::feedback::{record::Feedback, store::StoreError};

/// Bytes or rows that end a row group, which bounds memory.
const GROUP_BYTES: usize = 16 << 20;
const GROUP_ROWS: usize = 4096;
/// Rows read at a time.
const READ_ROWS: usize = 16;

/// Value of one column in a row; for list columns, of the list's single item. Every column is
/// optional: `datasets` honors its own feature types only for optional columns.
pub(super) enum ColumnValue {
    /// Text or file.
    Bytes(Vec<u8>),
    /// A number.
    Number(i64),
    /// Null.
    None,
}

impl ColumnValue {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Bytes(text.into().into_bytes())
    }
}

/// Turns a record and its image into one value for every leaf of the schema, in schema order;
/// `None` leaves the record out.
pub(super) type MakeRow = fn(&Feedback, Vec<u8>) -> Option<Vec<ColumnValue>>;

/// Writer of a Parquet file.
pub(super) struct TableWriter {
    writer: SerializedFileWriter<Vec<u8>>,
    row: MakeRow,
    group: Vec<Vec<ColumnValue>>,
    bytes: usize,
}

impl TableWriter {
    /// Starts a file. `features` declares the columns to Hugging Face's `datasets`, which
    /// recognizes images by them.
    pub(super) fn new(schema: &str, features: &Value, row: MakeRow) -> Result<Self, StoreError> {
        let schema = Arc::new(parse_message_type(schema).map_err(failed)?);
        let info = json!({ "info": { "features": features } }).to_string();
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_dictionary_enabled(false)
            // Statistics of image bytes are useless and large.
            .set_statistics_enabled(EnabledStatistics::None)
            .set_key_value_metadata(Some(vec![KeyValue::new("huggingface".to_owned(), info)]));
        let writer = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties.build()))
            .map_err(failed)?;
        Ok(Self {
            writer,
            row,
            group: Vec::new(),
            bytes: 0,
        })
    }

    fn flush(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::take(&mut self.group);
        self.bytes = 0;
        if group.is_empty() {
            return Ok(());
        }
        let mut rows: Vec<_> = group.into_iter().map(Vec::into_iter).collect();
        let mut columns = self.writer.next_row_group()?;
        while let Some(mut column) = columns.next_column()? {
            let cells: Vec<ColumnValue> = rows
                .iter_mut()
                .map(|row| row.next().unwrap_or(ColumnValue::None))
                .collect();
            write_column(column.untyped(), cells)?;
            column.close()?;
        }
        columns.close().map(drop)
    }

    fn take(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.writer
            .flush()
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        out.append(self.writer.inner_mut());
        Ok(())
    }
}

fn write_column(
    column: &mut ColumnWriter<'_>,
    cells: Vec<ColumnValue>,
) -> Result<(), ParquetError> {
    let descriptor = match column {
        ColumnWriter::Int64ColumnWriter(writer) => writer.get_descriptor().clone(),
        ColumnWriter::ByteArrayColumnWriter(writer) => writer.get_descriptor().clone(),
        _ => return Err(ParquetError::NYI("a column of another type".to_owned())),
    };
    let (most, listed) = (descriptor.max_def_level(), descriptor.max_rep_level() > 0);
    let level = |cell: &ColumnValue| {
        if matches!(cell, ColumnValue::None) {
            most.saturating_sub(1)
        } else {
            most
        }
    };
    let definitions: Vec<i16> = cells.iter().map(level).collect();
    let repetitions = vec![0; cells.len()];
    let (definitions, repetitions) = (
        (most > 0).then_some(&definitions[..]),
        listed.then_some(&repetitions[..]),
    );
    match column {
        ColumnWriter::Int64ColumnWriter(writer) => {
            let values: Vec<i64> = cells
                .into_iter()
                .filter_map(|c| {
                    if let ColumnValue::Number(n) = c {
                        Some(n)
                    } else {
                        None
                    }
                })
                .collect();
            writer
                .write_batch(&values, definitions, repetitions)
                .map(drop)
        }
        ColumnWriter::ByteArrayColumnWriter(writer) => {
            let values = cells.into_iter().filter_map(|c| {
                if let ColumnValue::Bytes(b) = c {
                    Some(ByteArray::from(b))
                } else {
                    None
                }
            });
            writer
                .write_batch(&values.collect::<Vec<_>>(), definitions, repetitions)
                .map(drop)
        }
        _ => Ok(()),
    }
}

impl RecordWriter for TableWriter {
    fn record(
        &mut self,
        record: &Feedback,
        image: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        // Records whose image is gone are left out.
        let Some(row) = image.and_then(|image| (self.row)(record, image)) else {
            return Ok(());
        };
        self.bytes += row
            .iter()
            .map(|cell| {
                if let ColumnValue::Bytes(bytes) = cell {
                    bytes.len()
                } else {
                    8
                }
            })
            .sum::<usize>();
        self.group.push(row);
        if self.bytes >= GROUP_BYTES || self.group.len() >= GROUP_ROWS {
            self.flush().map_err(failed)?;
            self.take(out)?;
        }
        Ok(())
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError> {
        self.flush().map_err(failed)?;
        self.writer.finish().map_err(failed)?;
        self.take(out)
    }
}

fn failed(error: ParquetError) -> StoreError {
    StoreError::Failed(error.to_string())
}

/// Returns the rows of a Parquet file. Non-null columns other than `known` are reported as left
/// out.
pub(super) fn read(
    file: File,
    parse: fn(&ParquetRow) -> Result<Vec<IncomingRecord>, String>,
    known: &'static [&'static str],
) -> Result<NumberedRows, String> {
    let reader = unwinding(|| SerializedFileReader::new(file))?.map_err(|e| e.to_string())?;
    let mut codecs = reader
        .metadata()
        .row_groups()
        .iter()
        .flat_map(|group| group.columns())
        .map(|column| column.compression());
    if codecs.any(|codec| codec == Compression::LZO) {
        return Err(
            "its columns are compressed with LZO; supported are brotli, gzip, lz4, snappy, zstd \
             and none"
                .to_owned(),
        );
    }
    let mut rows =
        RowIter::from_file_into(Box::new(reader) as Box<dyn FileReader>).with_batch_size(READ_ROWS);
    let next = move || {
        unwinding(|| rows.next()).unwrap_or_else(|damage| Some(Err(ParquetError::General(damage))))
    };
    let left_out = |row: &ParquetRow| {
        let others = row
            .get_column_iter()
            .filter(|(name, field)| !known.contains(&name.as_str()) && **field != Field::Null);
        others
            .map(|(name, _)| IncomingRecord::LeftOut(format!("column '{name}'")))
            .collect::<Vec<_>>()
    };
    let mut ended = false;
    let rows = std::iter::from_fn(next)
        .enumerate()
        .map_while(move |(i, row)| {
            if ended {
                return None;
            }
            Some(match row {
                Ok(row) => Ok((
                    i + 1,
                    parse(&row).map(|items| [items, left_out(&row)].concat()),
                )),
                Err(error) => {
                    ended = true;
                    Err(io::Error::other(error))
                }
            })
        });
    Ok(Box::new(rows))
}

/// Turns a panic of the library, which a corrupt file can cause, into an error. The reader must not
/// be used after one.
fn unwinding<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| {
        let message = payload
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| payload.downcast_ref::<&str>().copied());
        format!(
            "the file is damaged: {}",
            message.unwrap_or("its parts contradict each other")
        )
    })
}

/// Returns the value of a column; `None` if it is missing or null.
pub(super) fn field<'a>(row: &'a ParquetRow, name: &str) -> Option<&'a Field> {
    row.get_column_iter()
        .find(|(column, _)| *column == name)
        .map(|(_, field)| field)
        .filter(|field| **field != Field::Null)
}

/// Returns a text value. Old writers store texts as plain bytes.
pub(super) fn text(field: &Field) -> Option<String> {
    match field {
        Field::Str(text) => Some(text.clone()),
        Field::Bytes(bytes) => String::from_utf8(bytes.data().to_vec()).ok(),
        _ => None,
    }
}

pub(super) fn required_text(row: &ParquetRow, name: &str) -> Result<String, String> {
    field(row, name)
        .and_then(text)
        .ok_or_else(|| format!("'{name}' is missing or not a text"))
}

/// Returns an image value of `datasets`: a group of `bytes` and `path`, or one of them alone.
pub(super) fn image_value(field: Option<&Field>, name: &str) -> Result<RowImage, String> {
    let part = |name| match field {
        Some(Field::Group(group)) => self::field(group, name),
        one => one,
    };
    let file = match part("bytes") {
        Some(Field::Bytes(bytes)) => {
            Some(RowImage::File(bytes.data().to_vec())).filter(|_| !bytes.is_empty())
        }
        _ => None,
    };
    let elsewhere = || {
        part("path")
            .filter(|path| matches!(path, Field::Str(_)))
            .and_then(text)
            .and_then(|text| RowImage::from_text(&text))
    };
    file.or_else(elsewhere)
        .ok_or_else(|| format!("'{name}' contains no image"))
}
