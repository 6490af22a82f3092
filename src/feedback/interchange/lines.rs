//! JSON, one object a line.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
};

use serde::Serialize;

use super::{IncomingRecord, NumberedRow, NumberedRows, RecordWriter};
use crate::feedback::{record::Feedback, store::StoreError};

/// Most bytes of a line.
const LINE_BYTES: u64 = 16 << 20;

/// Mark with which some tools on Windows begin a file.
pub(super) const BYTE_ORDER_MARK: &[u8] = "\u{FEFF}".as_bytes();

/// Writes each record as the line that a function makes of it, where it makes one.
pub(super) struct LineWriter(pub(super) fn(&Feedback, &mut Vec<u8>) -> serde_json::Result<()>);

impl RecordWriter for LineWriter {
    fn record(
        &mut self,
        record: &Feedback,
        _: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        (self.0)(record, out).map_err(|e| StoreError::Failed(e.to_string()))
    }

    fn end(&mut self, _: &mut Vec<u8>) -> Result<(), StoreError> {
        Ok(())
    }
}

pub(super) fn line(value: &impl Serialize, out: &mut Vec<u8>) -> serde_json::Result<()> {
    serde_json::to_writer(&mut *out, value)?;
    out.push(b'\n');
    Ok(())
}

/// The record itself.
pub(super) fn whole(record: &Feedback, out: &mut Vec<u8>) -> serde_json::Result<()> {
    line(record, out)
}

/// A record as [`whole`] writes it.
pub(super) fn record(line: &[u8]) -> Result<Vec<IncomingRecord>, String> {
    let record = serde_json::from_slice(line).map_err(|e| e.to_string())?;
    Ok(vec![IncomingRecord::Record(Box::new(record), None)])
}

/// The lines of a file; empty ones are none.
pub(super) fn read(
    file: File,
    parse: fn(&[u8]) -> Result<Vec<IncomingRecord>, String>,
) -> NumberedRows {
    let (mut lines, mut number) = (BufReader::new(file), 0);
    let mut next = move || -> std::io::Result<Option<NumberedRow>> {
        loop {
            number += 1;
            let mut line = Vec::new();
            (&mut lines).take(LINE_BYTES).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(None);
            }
            if line.len() as u64 == LINE_BYTES && !line.ends_with(b"\n") {
                // Not to take its rest for lines.
                while {
                    let part = lines.fill_buf()?;
                    !part.is_empty() && !part.contains(&b'\n')
                } {
                    let length = lines.buffer().len();
                    lines.consume(length);
                }
                lines.read_until(b'\n', &mut Vec::new())?;
                return Ok(Some((
                    number,
                    Err(format!(
                        "has more than the {LINE_BYTES} bytes that are taken"
                    )),
                )));
            }
            let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&line);
            if !line.trim_ascii().is_empty() {
                return Ok(Some((number, parse(line))));
            }
        }
    };
    Box::new(std::iter::from_fn(move || next().transpose()))
}
