//! What is remembered of completions, gathered while they are written.

use std::sync::Arc;

use futures_util::{FutureExt, future::BoxFuture};

use crate::{
    engine,
    feedback::{
        record::{ImageHash, Receipt, RecordedChoice, Versions},
        tokens::{place, tokenize},
    },
    guard::{GuardReport, Mode},
    serve::{app::App, openai::response::CompletionHead, served::RequestContext},
    vlm::template::{Message, question},
};

/// A receipt of a completion that is being written.
pub(in crate::serve) struct ReceiptDraft {
    turn: RequestContext,
    file: Arc<[u8]>,
    receipt: Receipt,
    written: Vec<Vec<engine::GeneratedToken>>,
    answers: Vec<Option<RecordedChoice>>,
}

/// What a completion is about.
pub(in crate::serve) struct CompletionSubject<'a> {
    pub(in crate::serve) head: &'a CompletionHead,
    pub(in crate::serve) messages: &'a [Message],
    pub(in crate::serve) user: Option<String>,
    pub(in crate::serve) mode: Mode,
    pub(in crate::serve) file: Arc<[u8]>,
    pub(in crate::serve) hash: [u8; 32],
    pub(in crate::serve) choices: usize,
}

impl ReceiptDraft {
    /// Returns `true` if completions are remembered.
    pub(in crate::serve) fn wanted(app: &App) -> bool {
        let sound = app
            .corrections
            .as_ref()
            .is_some_and(|corrections| corrections.store().damage().is_none());
        sound && !app.config.receipts.retention().is_zero()
    }

    /// Begins one, where they are.
    pub(in crate::serve) fn new(
        turn: &RequestContext,
        asked: CompletionSubject<'_>,
    ) -> Option<Self> {
        let CompletionSubject {
            head,
            messages,
            user,
            mode,
            file,
            hash,
            choices,
        } = asked;
        let version = &turn.served.version;
        let scorer = turn
            .served
            .bundle
            .reward
            .as_ref()
            .filter(|_| mode != Mode::Off);
        let receipt = Receipt {
            id: head.id.to_string(),
            created: head.created,
            owner: String::new(),
            versions: Versions {
                model: Some(head.model.to_string()),
                policy: Some(version.to_string()),
                adapter: None,
                reward: scorer.map(|reward| format!("{} {version}", reward.kind())),
            },
            image: ImageHash::from(hash),
            image_bytes: file.len() as u64,
            prompt: question(messages).unwrap_or_default().to_owned(),
            user,
            unassisted: mode == Mode::Off,
            choices: Vec::new(),
        };
        let new = || Self {
            turn: turn.clone(),
            file,
            receipt,
            written: vec![Vec::new(); choices],
            answers: vec![None; choices],
        };
        Self::wanted(&turn.app).then(new)
    }

    /// Gives it to the owner of the key that asked.
    pub(in crate::serve) fn owned_by(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.receipt.owner);
        self
    }

    /// More of an answer was written.
    pub(in crate::serve) fn wrote(&mut self, index: usize, tokens: &[engine::GeneratedToken]) {
        if let Some(written) = self.written.get_mut(index) {
            written.extend_from_slice(tokens);
        }
    }

    /// An answer is complete.
    pub(in crate::serve) fn complete(&mut self, index: usize, text: &str, report: &GuardReport) {
        let Some((written, answer)) = self.written.get_mut(index).zip(self.answers.get_mut(index))
        else {
            return;
        };
        let written = std::mem::take(written);
        let tokens = place(
            text,
            written.iter().map(|t| {
                (
                    t.token.id,
                    &*t.token.bytes,
                    Some(t.token.logprob).filter(|p| p.is_finite()),
                    t.reward,
                )
            }),
        );
        // Where doubted words were hedged in the answer itself, its tokens are not those that were
        // scored.
        let tokens = tokens
            .or_else(|_| tokenize(&self.turn.served.bundle.vocabulary(), text))
            .unwrap_or_default();
        *answer = Some(RecordedChoice {
            response: text.to_owned(),
            tokens,
            verdict: report.verdict,
            threshold: report.threshold,
            spans: report.spans.clone(),
            familiarity: report.familiarity,
        });
    }

    /// All answers are complete. Whoever ends the response waits for the result first: then the
    /// receipt is there for other servers on the same store too. It is kept whether somebody waits
    /// or not.
    pub(in crate::serve) fn keep(mut self) -> BoxFuture<'static, ()> {
        let choices = self.answers.into_iter().collect();
        let Some((corrections, choices)) = self.turn.app.corrections.as_ref().zip(choices) else {
            return async {}.boxed();
        };
        self.receipt.choices = choices;
        let kept = corrections.remember(self.receipt, self.file);
        if kept.is_none() {
            tracing::warn!("a completion is not remembered: too many wait to be kept");
            self.turn.app.metrics.receipt_dropped();
        }
        kept.unwrap_or_else(|| async {}.boxed())
    }
}
