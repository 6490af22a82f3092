//! File formats of records, one module a format. [`InterchangeFormat`] names them;
//! [`export`](super::export) and [`import`](super::import) use them.
//!
//! `jsonl` and `parquet` keep whole records. The others keep what their tools represent: pairs of a
//! chosen and a rejected text ([`rlhf_v`], [`trl`]), steps that are right or wrong ([`trl`]), or
//! spans ([`label_studio`]). Anything else is left out.

mod columns;
mod label_studio;
pub mod records;
mod rlhf_v;
mod trl;

use std::{fs::File, str::FromStr};

pub use records::{IncomingRecord, NumberedRow, NumberedRows, RecordWriter};

use super::store::StoreError;

/// File format of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InterchangeFormat {
    /// JSON lines, one [`Feedback`] a line.
    #[default]
    Jsonl,
    /// Parquet with whole records and their images.
    Parquet,
    /// RLHF-V's Parquet data set: question, chosen, rejected and image (Yu et al.,
    /// arXiv:2312.00849).
    RlhfV,
    /// TRL's preference rows in Parquet: images, and prompt, chosen and rejected as messages.
    TrlDpo,
    /// TRL's stepwise supervision in JSON lines: prompt, completions and labels.
    TrlPrm,
    /// Label Studio tasks with predictions and annotations.
    LabelStudio,
}

impl InterchangeFormat {
    /// All formats.
    pub const ALL: [Self; 6] = [
        Self::Jsonl,
        Self::Parquet,
        Self::RlhfV,
        Self::TrlDpo,
        Self::TrlPrm,
        Self::LabelStudio,
    ];

    /// Name in parameters and flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
            Self::RlhfV => "rlhf-v",
            Self::TrlDpo => "trl-dpo",
            Self::TrlPrm => "trl-prm",
            Self::LabelStudio => "label-studio",
        }
    }

    /// Media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl | Self::TrlPrm => "application/jsonl",
            Self::Parquet | Self::RlhfV | Self::TrlDpo => "application/vnd.apache.parquet",
            Self::LabelStudio => "application/json",
        }
    }

    /// Returns `true` if files contain the images.
    pub fn has_images(self) -> bool {
        !matches!(self, Self::Jsonl | Self::TrlPrm)
    }

    /// Starts writing a file.
    ///
    /// # Errors
    /// When the schema is invalid.
    pub fn write(self) -> Result<Box<dyn RecordWriter>, StoreError> {
        Ok(match self {
            Self::Jsonl => Box::new(records::LineWriter(records::whole_line)),
            Self::TrlPrm => Box::new(records::LineWriter(trl::write_steps)),
            Self::Parquet => Box::new(columns::TableWriter::new(
                records::SCHEMA,
                &records::features(),
                records::row,
            )?),
            Self::RlhfV => Box::new(columns::TableWriter::new(
                rlhf_v::SCHEMA,
                &rlhf_v::features(),
                rlhf_v::row,
            )?),
            Self::TrlDpo => Box::new(columns::TableWriter::new(
                trl::SCHEMA,
                &trl::features(),
                trl::row,
            )?),
            Self::LabelStudio => Box::new(label_studio::TaskWriter::default()),
        })
    }

    /// Returns the rows of a file, numbered from 1 (JSON lines: by line).
    ///
    /// # Errors
    /// When the file is not of this format.
    pub fn read(self, file: File) -> Result<NumberedRows, String> {
        Ok(match self {
            Self::Jsonl => records::read_lines(file, records::read_whole_line),
            Self::TrlPrm => records::read_lines(file, trl::read_steps),
            Self::Parquet => columns::read(file, records::read, records::READ)?,
            Self::RlhfV => columns::read(file, rlhf_v::read, rlhf_v::READ)?,
            Self::TrlDpo => columns::read(file, trl::read, trl::READ)?,
            Self::LabelStudio => label_studio::read(file)?,
        })
    }
}

impl FromStr for InterchangeFormat {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|f| f.name() == name)
            .ok_or_else(|| format!("unknown format; known are {}", known()))
    }
}
