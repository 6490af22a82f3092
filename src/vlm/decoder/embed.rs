//! Embedding of rows: tokens by the table, image positions by their images' features.

use candle_core::{Result, Tensor, bail};

use super::Decoder;
use crate::vlm::{Embedded, Row, kv_cache::RowSpan, prompt::ImageFeatures};

impl Decoder {
    /// Embeds the rows' tokens; at image positions stand the rows that `project` returns for an
    /// image and a range of its feature rows, `(range, hidden_size)`. Positions are those in the
    /// sequence. `attends_whole` lets the positions of an image attend to each other, later ones
    /// included.
    ///
    /// # Errors
    /// When a span lies outside its row, its image or its features, or a tensor operation fails.
    pub fn embed_rows(
        &self,
        rows: &[Row<'_>],
        attends_whole: bool,
        project: impl Fn(&ImageFeatures) -> Result<Tensor>,
    ) -> Result<Embedded> {
        let mut parts: Vec<Tensor> = Vec::new();
        // Tokens of text that are not embedded yet.
        let mut pending: Vec<u32> = Vec::new();
        let (mut positions, mut spans) = (Vec::new(), Vec::with_capacity(rows.len()));
        for row in rows {
            let end = row.start + row.tokens.len();
            positions.extend((row.start..end).map(|position| position as u32));
            let mut at = row.start;
            let mut full = Vec::new();
            let mut projected: Option<(usize, Tensor)> = None;
            for span in row.spans.iter().filter(|span| span.range.end > row.start) {
                let range = span.range.clone();
                if range.start < at || range.end > end || range.len() != span.rows.len() {
                    bail!(
                        "an image at the positions {range:?} of a row of {}..{end}",
                        row.start
                    );
                }
                pending.extend(&row.tokens[at - row.start..range.start - row.start]);
                self.flush(&mut pending, &mut parts)?;
                let features = match projected.take() {
                    Some((image, features)) if image == span.image => features,
                    _ => match row.images.get(span.image) {
                        Some(image) => project(image)?,
                        None => bail!("a span of image {} of {}", span.image, row.images.len()),
                    },
                };
                if span.rows.end > features.dim(0)? {
                    bail!(
                        "a span of the rows {:?} of an image with {}",
                        span.rows,
                        features.dim(0)?
                    );
                }
                parts.push(features.narrow(0, span.rows.start, span.rows.len())?);
                projected = Some((span.image, features));
                at = range.end;
                if attends_whole {
                    full.push(range);
                }
            }
            pending.extend(&row.tokens[at - row.start..]);
            spans.push(RowSpan {
                slot: row.slot,
                start: row.start,
                len: row.tokens.len(),
                full,
            });
        }
        self.flush(&mut pending, &mut parts)?;
        let x = match parts.as_slice() {
            [one] => one.clone(),
            _ => Tensor::cat(&parts, 0)?,
        };
        Ok(Embedded {
            x,
            positions,
            rows: spans,
            from: rows.iter().map(|row| row.from).collect(),
        })
    }

    fn flush(&self, pending: &mut Vec<u32>, parts: &mut Vec<Tensor>) -> Result<()> {
        if !pending.is_empty() {
            parts.push(self.embed(pending)?);
            pending.clear();
        }
        Ok(())
    }
}
