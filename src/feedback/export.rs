//! Export of records as a stream of pieces of a file. Memory holds one page of records and one
//! image, or one Parquet row group.

use std::{collections::VecDeque, sync::Arc};

use futures_util::{Stream, stream::try_unfold};

pub use super::interchange::InterchangeFormat;
use super::{
    images::ImageStore,
    interchange::RecordWriter,
    record::{Feedback, ShownNames},
    store::{RecordFilter, RecordPage, Store, StoreError},
};

/// Records read at a time.
const PAGE: u32 = 256;
/// Approximate bytes of a piece.
const PIECE: usize = 64 * 1024;

/// State of an export.
struct File {
    store: Arc<dyn Store>,
    images: Option<Arc<ImageStore>>,
    shown: ShownNames,
    writer: Box<dyn RecordWriter>,
    /// The next page; `None` after the last.
    page: Option<RecordPage>,
    records: VecDeque<Feedback>,
    ended: bool,
}

impl File {
    /// Returns the next piece; empty at the end of the file.
    async fn piece(&mut self) -> Result<Vec<u8>, StoreError> {
        let mut out = Vec::new();
        while out.len() < PIECE && !self.ended {
            match self.records.pop_front() {
                Some(mut record) => {
                    record.hide_names(self.shown);
                    let image = match &self.images {
                        Some(images) => images.get(record.image).await?,
                        None => None,
                    };
                    self.writer.record(&record, image, &mut out)?;
                }
                None => match self.page.take() {
                    Some(page) => self.turn(page).await?,
                    None => {
                        self.writer.end(&mut out)?;
                        self.ended = true;
                    }
                },
            }
        }
        Ok(out)
    }

    async fn turn(&mut self, page: RecordPage) -> Result<(), StoreError> {
        self.records = self.store.page(&page).await?.into();
        let last = self
            .records
            .back()
            .filter(|_| self.records.len() as u32 == PAGE);
        self.page = last.map(|last| RecordPage {
            after: Some(last.id.clone()),
            ..page
        });
        Ok(())
    }
}

/// Streams the records that match `filter`, oldest first, as a file in `format`. Names that are not
/// `shown` are left out.
pub fn export(
    store: Arc<dyn Store>,
    images: Arc<ImageStore>,
    filter: RecordFilter,
    format: InterchangeFormat,
    shown: ShownNames,
) -> impl Stream<Item = Result<Vec<u8>, StoreError>> + Send {
    let page = Some(RecordPage {
        filter,
        after: None,
        limit: PAGE,
        newest_first: false,
    });
    let images = format.has_images().then_some(images);
    let begun = move |writer| File {
        store,
        images,
        shown,
        writer,
        page,
        records: VecDeque::new(),
        ended: false,
    };
    let file = format.write().map(begun);
    try_unfold(Some(file), |file| async move {
        let Some(file) = file else { return Ok(None) };
        let mut file = file?;
        let piece = file.piece().await?;
        Ok((!piece.is_empty()).then_some((piece, Some(Ok(file)))))
    })
}
