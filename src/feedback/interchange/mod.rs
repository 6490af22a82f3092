//! The forms that records have in files, one file a form: [`InterchangeFormat`] names them,
//! [`export`](super::export) and [`import`](super::import) use them.
//!
//! `jsonl` and `parquet` keep all of a record. The others say what their tools know: pairs of a
//! chosen and a rejected text ([`rlhf_v`], [`trl`]), steps that are right or wrong ([`trl`]), spans
//! ([`label_studio`]). What has no such form is left out.

mod columns;
mod label_studio;
pub mod records;
mod rlhf_v;
mod trl;

use std::{fs::File, str::FromStr};

pub use records::IncomingRecord;

use super::{record::Feedback, store::StoreError};

/// A form of a file of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum InterchangeFormat {
    /// One [`Feedback`] a line, as JSON.
    #[default]
    Jsonl,
    /// Whole records with their images, in columns.
    Parquet,
    /// RLHF-V's data set: question, chosen, rejected and image, in Parquet (Yu et al.,
    /// arXiv:2312.00849).
    RlhfV,
    /// TRL's preference rows with images, in Parquet: prompt, chosen and rejected as messages.
    TrlDpo,
    /// TRL's stepwise supervision, a row a line: prompt, completions and labels.
    TrlPrm,
    /// Label Studio's tasks with predictions and annotations.
    LabelStudio,
}

impl InterchangeFormat {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Jsonl,
        Self::Parquet,
        Self::RlhfV,
        Self::TrlDpo,
        Self::TrlPrm,
        Self::LabelStudio,
    ];

    /// As it is asked for.
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

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl | Self::TrlPrm => "application/jsonl",
            Self::Parquet | Self::RlhfV | Self::TrlDpo => "application/vnd.apache.parquet",
            Self::LabelStudio => "application/json",
        }
    }

    /// Returns `true` if the images are in the file.
    pub fn has_images(self) -> bool {
        !matches!(self, Self::Jsonl | Self::TrlPrm)
    }

    /// Begins a file.
    ///
    /// # Errors
    /// When the columns cannot be declared.
    pub fn write(self) -> Result<Box<dyn RecordWriter>, StoreError> {
        Ok(match self {
            Self::Jsonl => Box::new(records::LineWriter(records::whole_line)),
            Self::TrlPrm => Box::new(records::LineWriter(trl::steps)),
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

    /// The rows of a file, each with its number from 1 (of JSON lines: the line).
    ///
    /// # Errors
    /// When it is no such file.
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
            .ok_or_else(|| format!("there is no format of that name; there are {}", known()))
    }
}

/// Number of a row with its contents, or why it cannot be taken.
pub type NumberedRow = (usize, Result<Vec<IncomingRecord>, String>);

/// The rows of a file; the rest is lost where it cannot be read on.
pub type NumberedRows = Box<dyn Iterator<Item = std::io::Result<NumberedRow>> + Send>;

/// Writes a file, piece by piece.
pub trait RecordWriter: Send {
    /// Appends to `out` what can be written now; the image is there where the format has images.
    ///
    /// # Errors
    /// When it cannot be written in this format.
    fn record(
        &mut self,
        record: &Feedback,
        image: Option<Vec<u8>>,
        out: &mut Vec<u8>,
    ) -> Result<(), StoreError>;

    /// The end of the file.
    ///
    /// # Errors
    /// When it cannot be written.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), StoreError>;
}
