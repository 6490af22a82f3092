//! TensorBoard event files: scalars in `tf.Event` messages, framed as TFRecords.
//!
//! A record is the length, its checksum, the message and its checksum
//! (`tensorflow/core/lib/io/record_writer.h`). The few protobuf fields that scalars need are
//! encoded by hand (`event.proto`, `summary.proto`).

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
};

/// TensorBoard event file of scalars.
pub(super) struct EventFile {
    file: File,
}

impl EventFile {
    /// Creates the file, replacing an existing one.
    pub(super) fn create(path: &Path, wall_time: f64) -> io::Result<Self> {
        let mut this = Self {
            file: OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(true)
                .open(path)?,
        };
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        bytes(&mut event, 3, b"brain.Event:2");
        this.write(&event)?;
        Ok(this)
    }

    /// Appends the scalars of one step.
    pub(super) fn scalars<'a>(
        &mut self,
        step: usize,
        wall_time: f64,
        values: impl Iterator<Item = (&'a String, &'a f64)>,
    ) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in values {
            let mut value_message = Vec::new();
            bytes(&mut value_message, 1, tag.as_bytes());
            value_message.push(2 << 3 | 5);
            value_message.extend((*value as f32).to_le_bytes());
            bytes(&mut summary, 1, &value_message);
        }
        let mut event = Vec::new();
        double(&mut event, 1, wall_time);
        event.push(2 << 3);
        varint(&mut event, step as u64);
        bytes(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, event: &[u8]) -> io::Result<()> {
        let length = (event.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(event.len() + 16);
        record.extend(length);
        record.extend(masked(crc32c(&length)).to_le_bytes());
        record.extend(event);
        record.extend(masked(crc32c(event)).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn bytes(out: &mut Vec<u8>, field: u8, value: &[u8]) {
    out.push(field << 3 | 2);
    varint(out, value.len() as u64);
    out.extend(value);
}

fn double(out: &mut Vec<u8>, field: u8, value: f64) {
    out.push(field << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// CRC-32C (Castagnoli), bit by bit: fast enough for a few hundred bytes per iteration.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 {
                crc >> 1 ^ 0x82F6_3B78
            } else {
                crc >> 1
            }
        })
    })
}

/// TFRecord's mask, which keeps a checksum strong over data that itself holds checksums.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn crc32c_check_string_is_castagnolis_value() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
    }

    #[test]
    fn scalars_are_framed_as_tfrecords() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("events.out.tfevents.0.candor");
        let mut events = EventFile::create(&file, 1.0).unwrap();
        events
            .scalars(300, 2.0, BTreeMap::from([("kl".to_owned(), 0.5)]).iter())
            .unwrap();
        let data = std::fs::read(&file).unwrap();
        let (mut rest, mut found) = (data.as_slice(), Vec::new());
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(
                u32::from_le_bytes(rest[8..12].try_into().unwrap()),
                masked(crc32c(&rest[..8]))
            );
            let event = &rest[12..12 + length];
            assert_eq!(
                u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap()),
                masked(crc32c(event))
            );
            found.push(event.to_vec());
            rest = &rest[16 + length..];
        }
        assert!(found[0].ends_with(b"brain.Event:2"));
        // Wall time, step 300 as a varint, and the summary: one value with its tag and number.
        let mut want = vec![9];
        want.extend(2.0f64.to_le_bytes());
        want.extend([16, 0xAC, 0x02, 42, 11, 10, 9, 10, 2, b'k', b'l', 21]);
        want.extend(0.5f32.to_le_bytes());
        assert_eq!(found[1], want);
    }
}
