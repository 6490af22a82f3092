//! Receipts of completions, collected while the answers are decoded.

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
    util::digest::HashedFile,
    vlm::processor::message::{Message, question},
};

/// A receipt in the making.
pub(in crate::serve) struct ReceiptDraft {
    context: RequestContext,
    file: Arc<HashedFile>,
    receipt: Receipt,
    written: Vec<Vec<engine::GeneratedToken>>,
    answers: Vec<Option<RecordedChoice>>,
}

/// Properties of a completion that its receipt records.
pub(in crate::serve) struct CompletionSubject<'a> {
    pub(in crate::serve) head: &'a CompletionHead,
    pub(in crate::serve) messages: &'a [Message],
    pub(in crate::serve) user: Option<String>,
    pub(in crate::serve) mode: Mode,
    pub(in crate::serve) file: Arc<HashedFile>,
    pub(in crate::serve) choices: usize,
}

impl ReceiptDraft {
    /// Returns `true` if receipts are stored.
    pub(in crate::serve) fn is_enabled(app: &App) -> bool {
        let sound = app
            .corrections
            .as_ref()
            .is_some_and(|corrections| corrections.store().damage().is_none());
        sound && !app.config.receipts.retention().is_zero()
    }

    /// Starts a receipt; `None` if receipts are disabled.
    pub(in crate::serve) fn new(
        context: &RequestContext,
        subject: CompletionSubject<'_>,
    ) -> Option<Self> {
        let CompletionSubject {
            head,
            messages,
            user,
            mode,
            file,
            choices,
        } = subject;
        let version = &context.served.version;
        let scorer = context
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
                tokenizer: Some(context.served.bundle.tokenizer().digest().to_owned()),
            },
            image: ImageHash::from(file.hash()),
            image_bytes: file.len() as u64,
            prompt: question(messages).unwrap_or_default(),
            user,
            unassisted: mode == Mode::Off,
            choices: Vec::new(),
        };
        let new = || Self {
            context: context.clone(),
            file,
            receipt,
            written: vec![Vec::new(); choices],
            answers: vec![None; choices],
        };
        Self::is_enabled(&context.app).then(new)
    }

    /// Sets the owner.
    pub(in crate::serve) fn with_owner(mut self, owner: &str) -> Self {
        owner.clone_into(&mut self.receipt.owner);
        self
    }

    /// Adds generated tokens of an answer.
    pub(in crate::serve) fn add_tokens(&mut self, index: usize, tokens: &[engine::GeneratedToken]) {
        if let Some(written) = self.written.get_mut(index) {
            written.extend_from_slice(tokens);
        }
    }

    /// Completes an answer.
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
        // If low-reward words were hedged in the answer, its text does not match the scored tokens.
        let tokens = tokens
            .or_else(|_| tokenize(&self.context.served.bundle.vocabulary(), text))
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

    /// Stores the receipt. The response waits for the returned future before it ends, so that other
    /// servers on the same store find the receipt too; it is stored even if the future is dropped.
    pub(in crate::serve) fn store(mut self) -> BoxFuture<'static, ()> {
        let choices = self.answers.into_iter().collect();
        let Some((corrections, choices)) = self.context.app.corrections.as_ref().zip(choices)
        else {
            return async {}.boxed();
        };
        self.receipt.choices = choices;
        let phase = self.context.trace.phase("store");
        let stored = corrections.remember(self.receipt, self.file);
        if stored.is_none() {
            tracing::warn!("a receipt is dropped: too many are waiting to be stored");
            self.context.app.metrics.count_dropped_receipt();
        }
        let Some(stored) = stored else {
            return async {}.boxed();
        };
        async move {
            stored.await;
            drop(phase);
        }
        .boxed()
    }
}
