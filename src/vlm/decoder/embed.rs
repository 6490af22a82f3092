//! Embedding of rows: tokens by the table, image positions by their images' features.

use candle_core::{Result, Tensor, bail};

use super::Decoder;
use crate::vlm::{
    Embedded, Row,
    kv_cache::RowSpan,
    prompt::{ImageFeatures, ImageSpan},
};

impl Decoder {
    /// Embeds the rows' tokens; at image positions stand the rows that `project` returns for an
    /// image and a range of its feature rows, `(range, hidden_size)`. Positions are those in the
    /// sequence. `attends_whole` lets the positions of an image attend to each other, later ones
    /// included; without it, rows may split images.
    ///
    /// # Errors
    /// When a span lies outside its image or its features, spans overlap, a row splits an image
    /// that attends as a whole, or a tensor operation fails.
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
            let within = |span: &&ImageSpan| span.range.end > row.start && span.range.start < end;
            for span in row.spans.iter().filter(within) {
                let range = span.range.start.max(row.start)..span.range.end.min(end);
                let is_split = range != span.range;
                if range.start < at
                    || span.range.len() != span.rows.len()
                    || attends_whole && is_split
                {
                    bail!(
                        "an image at the positions {:?} of a row of {}..{end}",
                        span.range,
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
                let first = span.rows.start + (range.start - span.range.start);
                parts.push(features.narrow(0, first, range.len())?);
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
