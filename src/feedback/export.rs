//! Records as files, written page by page: however many there are, one page is in memory.

use std::{str::FromStr, sync::Arc};

use futures_util::{Stream, stream::try_unfold};
use serde::Serialize;

use super::{
    record::Feedback,
    store::{Filter, Page, Store, StoreError},
};

/// Records of a page.
const PAGE: u32 = 256;

/// How records are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// One [`Feedback`] a line, as JSON.
    #[default]
    Jsonl,
}

impl Format {
    /// All of them.
    pub const ALL: [Self; 1] = [Self::Jsonl];

    /// As it is asked for.
    pub fn name(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
        }
    }

    /// Its media type.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Jsonl => "application/jsonl",
        }
    }

    fn write(self, records: &[Feedback]) -> Result<Vec<u8>, StoreError> {
        match self {
            Self::Jsonl => lines(records),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let known = || Self::ALL.map(Self::name).join(", ");
        Self::ALL.into_iter().find(|f| f.name() == name).ok_or_else(|| format!("there is no format of that name; there are {}", known()))
    }
}

fn lines(records: &[impl Serialize]) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    for record in records {
        serde_json::to_writer(&mut out, record).map_err(|e| StoreError::Failed(e.to_string()))?;
        out.push(b'\n');
    }
    Ok(out)
}

/// Some records, oldest first, in pieces of a file. Annotators are not named unless `annotators` asks for it.
pub fn export(
    store: Arc<dyn Store>,
    filter: Filter,
    format: Format,
    annotators: bool,
) -> impl Stream<Item = Result<Vec<u8>, StoreError>> + Send {
    let first = Page { filter, after: None, limit: PAGE, newest_first: false };
    try_unfold(Some(first), move |page| {
        let store = Arc::clone(&store);
        async move {
            let Some(page) = page else { return Ok(None) };
            let mut records = store.page(&page).await?;
            if !annotators {
                records.iter_mut().for_each(|record| record.annotator = None);
            }
            let piece = format.write(&records)?;
            let full = records.len() as u32 == PAGE;
            let next = records.pop().filter(|_| full).map(|last| Page { after: Some(last.id), ..page });
            Ok((!piece.is_empty()).then_some((piece, next)))
        }
    })
}
