//! Header of a GGUF file (`gguf.md` of ggml): metadata and the list of tensors, little-endian.

use std::{collections::BTreeMap, ops::Range};

use super::metadata::GgufValue;

/// First bytes of a file.
const MAGIC: &[u8; 4] = b"GGUF";

/// Most values in all lists of the metadata together: several vocabularies. A value takes more in
/// memory than in the file.
const MOST_VALUES: u64 = 1 << 22;

/// Most tensors, and most values outside of lists.
const MOST_ENTRIES: u64 = 1 << 16;

/// Most dimensions of a tensor.
const MOST_DIMENSIONS: u32 = 4;

/// Boundary on which tensors begin, unless the metadata name another.
const ALIGNMENT: usize = 32;

/// Tensor as the header describes it.
pub(super) struct TensorHeader {
    pub(super) name: String,
    /// Sizes, the one of rows last.
    pub(super) shape: Vec<usize>,
    /// Number of the type.
    pub(super) kind: u32,
    /// First byte behind the header.
    pub(super) offset: u64,
}

/// Header of a file.
pub(super) struct Header {
    pub(super) values: BTreeMap<String, GgufValue>,
    pub(super) tensors: Vec<TensorHeader>,
    /// Position of the first tensor's data in the file.
    pub(super) data: usize,
}

/// Reads a file's header; the error says what is wrong with it.
pub(super) fn read_header(bytes: &[u8]) -> Result<Header, String> {
    let mut reader = Reader {
        bytes,
        at: 0,
        listed: 0,
    };
    if reader.array::<4>()? != *MAGIC {
        return Err("expected GGUF in the first four bytes".into());
    }
    match reader.u32()? {
        2 | 3 => {}
        version => return Err(format!("version {version}, expected 2 or 3")),
    }
    let (tensor_count, value_count) = (reader.u64()?, reader.u64()?);
    if tensor_count.max(value_count) > MOST_ENTRIES {
        return Err(format!(
            "{tensor_count} tensors, {value_count} values of metadata"
        ));
    }
    let mut values = BTreeMap::new();
    for _ in 0..value_count {
        let key = reader.text()?;
        let value = reader.value().map_err(|error| format!("{key}: {error}"))?;
        if values.insert(key.clone(), value).is_some() {
            return Err(format!("{key} stands there twice"));
        }
    }
    let mut tensors = Vec::new();
    for _ in 0..tensor_count {
        tensors.push(reader.tensor()?);
    }
    let alignment = match values.get("general.alignment") {
        None => ALIGNMENT,
        Some(GgufValue::Integer(size)) if (1..=1 << 20).contains(size) => *size as usize,
        Some(_) => return Err("general.alignment is of no use".into()),
    };
    Ok(Header {
        values,
        tensors,
        data: reader.at.next_multiple_of(alignment),
    })
}

/// Position in a file's bytes.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Values of lists so far.
    listed: u64,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], String> {
        let end = usize::try_from(len)
            .ok()
            .and_then(|len| self.at.checked_add(len));
        let range: Option<Range<usize>> = end.map(|end| self.at..end);
        match range.and_then(|range| self.bytes.get(range)) {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(format!(
                "{len} bytes at {} reach beyond the end, {}",
                self.at,
                self.bytes.len()
            )),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let taken = self.take(N as u64)?;
        taken.try_into().map_err(|_| "too few bytes".to_owned())
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, String> {
        let len = self.u64()?;
        let bytes = self.take(len)?;
        // Some writers leave parts of characters in tokens.
        Ok(String::from_utf8_lossy(bytes).into_owned())
    }

    fn value(&mut self) -> Result<GgufValue, String> {
        match self.u32()? {
            9 => self.list(),
            kind => self.single(kind),
        }
    }

    fn single(&mut self, kind: u32) -> Result<GgufValue, String> {
        Ok(match kind {
            7 => GgufValue::Flag(self.flag()?),
            6 | 12 => GgufValue::Number(self.number(kind)?),
            8 => GgufValue::Text(self.text()?),
            _ => GgufValue::Integer(self.integer(kind)?),
        })
    }

    fn list(&mut self) -> Result<GgufValue, String> {
        let (kind, len) = (self.u32()?, self.u64()?);
        self.listed = self.listed.saturating_add(len);
        if self.listed > MOST_VALUES {
            return Err(format!("more than {MOST_VALUES} values in lists"));
        }
        Ok(match kind {
            7 => GgufValue::Flags(self.many(len, Self::flag)?),
            6 | 12 => GgufValue::Numbers(self.many(len, |reader| reader.number(kind))?),
            8 => GgufValue::Texts(self.many(len, Self::text)?),
            _ => GgufValue::Integers(self.many(len, |reader| reader.integer(kind))?),
        })
    }

    fn many<T>(
        &mut self,
        len: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        (0..len).map(|_| read(self)).collect()
    }

    fn flag(&mut self) -> Result<bool, String> {
        let [byte] = self.array()?;
        Ok(byte != 0)
    }

    fn number(&mut self, kind: u32) -> Result<f64, String> {
        match kind {
            6 => self.array().map(f32::from_le_bytes).map(f64::from),
            _ => self.array().map(f64::from_le_bytes),
        }
    }

    fn integer(&mut self, kind: u32) -> Result<i64, String> {
        match kind {
            0 => self.array().map(u8::from_le_bytes).map(i64::from),
            1 => self.array().map(i8::from_le_bytes).map(i64::from),
            2 => self.array().map(u16::from_le_bytes).map(i64::from),
            3 => self.array().map(i16::from_le_bytes).map(i64::from),
            4 => self.u32().map(i64::from),
            5 => self.array().map(i32::from_le_bytes).map(i64::from),
            10 => i64::try_from(self.u64()?).map_err(|_| "an integer above 2^63".to_owned()),
            11 => self.array().map(i64::from_le_bytes),
            9 => Err("lists of lists are not read".into()),
            _ => Err(format!("unknown type of value {kind}")),
        }
    }

    fn tensor(&mut self) -> Result<TensorHeader, String> {
        let name = self.text()?;
        let dimensions = self.u32()?;
        if dimensions > MOST_DIMENSIONS {
            return Err(format!("{name}: {dimensions} dimensions"));
        }
        let mut shape = (0..dimensions)
            .map(|_| usize::try_from(self.u64()?).map_err(|_| format!("{name}: too large")))
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(TensorHeader {
            name,
            shape,
            kind: self.u32()?,
            offset: self.u64()?,
        })
    }
}
