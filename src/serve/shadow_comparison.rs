//! Comparison of one answer with the shadow's: both are scored by both versions.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    shadow::Sample,
    shadow_totals::{CANDIDATE, ComparedAnswers, PerVersion, SERVED, ShadowScore},
};
use crate::{
    config::GuardSection,
    engine::{self, EncodedImage, GuardParams, Sampling, fair::Share},
    guard::{Mode, Thresholds, render::RenderStyle, report::report},
    reward::{
        finish::WrittenBy,
        scorer::{Scorer, TextWithImage},
    },
    serve::{
        app::{App, blocking},
        chat::{AnswerForm, collect, encode_file},
        error::ApiError,
        openai::{check::guard_params, request::GuardRequest},
        served::{RequestContext, ServedVersion},
    },
    vlm::processor::template::Message,
};

/// Generates the shadow's answer and compares.
pub(super) async fn compare(
    app: &Arc<App>,
    candidate: &Arc<ServedVersion>,
    sample: Sample,
) -> Result<ComparedAnswers, String> {
    let Sample {
        served,
        question,
        answer,
    } = sample;
    let versions: PerVersion<&Arc<ServedVersion>> = [&served, candidate];
    let mut images = Vec::with_capacity(versions.len());
    for version in versions {
        let context = RequestContext {
            scope: question.scope.clone(),
            ..RequestContext::with_version(app, Arc::clone(version))
        };
        images.push(
            encode_file(&context, &question.file, "messages")
                .await
                .map_err(error_message)?,
        );
    }
    let prompt = candidate.bundle.prompt(&question.messages)?;
    let guard = GuardParams::new(
        if candidate.bundle.reward.is_some() {
            Mode::Score
        } else {
            Mode::Off
        },
        0.5,
    );
    let request = engine::Request {
        id: format!("shadow-{}", Uuid::new_v4().simple()).into(),
        share: Share::default(),
        rank: 0,
        image: images[CANDIDATE].image.clone(),
        finisher: candidate
            .bundle
            .finisher(images[CANDIDATE].evidence.as_ref(), WrittenBy::Policy),
        prompt,
        max_tokens: question.max_tokens,
        stop: question.stop,
        sampling: Sampling::default(),
        top_logprobs: None,
        guard,
        unanswerable: None,
        gate: None,
    };
    let form = AnswerForm {
        guard,
        show_withheld: false,
        render: RenderStyle::Plain,
        logprobs: false,
        include_usage: false,
        familiarity: None,
    };
    let stream = candidate
        .engine
        .submit(request)
        .map_err(|e| e.to_string())?;
    let other = collect(stream, form).await.map_err(|e| e.to_string())?.text;
    let texts: PerVersion<String> = [answer, other];
    let words = [SERVED, CANDIDATE].map(|author| texts[author].split_whitespace().count());
    let equal = texts[SERVED] == texts[CANDIDATE];
    let (guard, candidate) = (
        GuardSection {
            mode: Mode::Flag,
            ..app.config.guard.clone()
        },
        Arc::clone(candidate),
    );
    let judged = blocking(move || {
        let score_with = |scorer: &ServedVersion, image: &EncodedImage| {
            judge(scorer, &guard, image, &question.messages, &texts)
        };
        Ok::<_, String>([
            score_with(&served, &images[SERVED])?,
            score_with(&candidate, &images[CANDIDATE])?,
        ])
    });
    let [by_served, by_candidate] = judged.await.map_err(error_message)??;
    let judged = [SERVED, CANDIDATE].map(|author| [by_served[author], by_candidate[author]]);
    Ok(ComparedAnswers {
        equal,
        words,
        judged,
    })
}

fn error_message(error: ApiError) -> String {
    error.body.error.message
}

/// Scores both answers with one version's scorer.
fn judge(
    version: &ServedVersion,
    guard: &GuardSection,
    image: &EncodedImage,
    messages: &[Message],
    texts: &PerVersion<String>,
) -> Result<PerVersion<Option<ShadowScore>>, String> {
    let Some(reward) = &version.bundle.reward else {
        return Ok([None; 2]);
    };
    let params = guard_params(
        &GuardRequest::default(),
        guard,
        version.bundle.calibration.as_ref(),
    )
    .map_err(error_message)?;
    // A scorer with caches of its own, so that users' requests do not wait for it.
    let scorer = Scorer::new(
        Arc::clone(&version.bundle.vlm),
        Arc::clone(reward),
        1,
        version.engine.context_len(),
    );
    let [first, second] = texts;
    let judge = |text: &str| judge_one(version, &scorer, params.thresholds, image, messages, text);
    Ok([judge(first)?, judge(second)?])
}

/// Scores one answer; `None` if it has no words.
fn judge_one(
    version: &ServedVersion,
    scorer: &Scorer,
    thresholds: Thresholds,
    image: &EncodedImage,
    messages: &[Message],
    text: &str,
) -> Result<Option<ShadowScore>, String> {
    let mut tokens = version.bundle.prompt(messages)?;
    let prompt = tokens.len();
    let response = version.bundle.response(text.trim_start())?;
    if response.is_empty() {
        return Ok(None);
    }
    tokens.extend(&response);
    let (scored, _) = scorer
        .score(&[TextWithImage {
            image: &image.image,
            tokens: &tokens,
            prompt,
        }])
        .map_err(|e| e.to_string())?;
    let Some(mut scored) = scored.into_iter().next() else {
        return Ok(None);
    };
    let pieces = response
        .iter()
        .map(|&id| version.bundle.tokenizer.bytes(id));
    if let Some(finisher) = version
        .bundle
        .finisher(image.evidence.as_ref(), WrittenBy::Policy)
    {
        finisher.finish_scored(pieces.clone(), &mut scored);
    }
    let report = report(
        pieces,
        &scored.rewards,
        Mode::Flag,
        thresholds,
        RenderStyle::Plain,
    );
    Ok(report.mean_score.map(|reward| ShadowScore {
        reward: reward.into(),
        flagged: report.spans.len(),
    }))
}
