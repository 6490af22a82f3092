//! One question, answered by the candidate too, and both answers scored by both versions.

use std::sync::Arc;

use uuid::Uuid;

use super::{
    Sample,
    totals::{CANDIDATE, Compared, Judged, Of, SERVED},
};
use crate::{
    config::Guard,
    engine::{self, Encoded, GuardParams, Sampling, fair::Share},
    guard::{Mode, Thresholds, render::Style, report::report},
    reward::{
        finish::WrittenBy,
        scorer::{Given, Scorer},
    },
    serve::{
        app::{App, blocking},
        chat::{How, collect, encode_file},
        error::ApiError,
        openai::{check::guard_params, request::GuardRequest},
        served::{Served, Turn},
    },
    vlm::template::Message,
};

/// Has the candidate answer too, and compares.
pub(super) async fn compare(
    app: &Arc<App>,
    candidate: &Arc<Served>,
    sample: Sample,
) -> Result<Compared, String> {
    let Sample {
        served,
        asked,
        answer,
    } = sample;
    let versions: Of<&Arc<Served>> = [&served, candidate];
    let mut images = Vec::with_capacity(versions.len());
    for version in versions {
        let turn = Turn {
            scope: asked.scope.clone(),
            ..Turn::with(app, Arc::clone(version))
        };
        images.push(
            encode_file(&turn, &asked.file, "messages")
                .await
                .map_err(said)?,
        );
    }
    let prompt = candidate.bundle.prompt(&asked.messages)?;
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
        max_tokens: asked.max_tokens,
        stop: asked.stop,
        sampling: Sampling::default(),
        top_logprobs: None,
        guard,
        unanswerable: None,
        gate: None,
    };
    let how = How {
        guard,
        show_withheld: false,
        render: Style::Plain,
        logprobs: false,
        include_usage: false,
        familiarity: None,
    };
    let stream = candidate
        .engine
        .submit(request)
        .map_err(|e| e.to_string())?;
    let other = collect(stream, how).await.map_err(|e| e.to_string())?.text;
    let texts: Of<String> = [answer, other];
    let words = [SERVED, CANDIDATE].map(|who| texts[who].split_whitespace().count());
    let equal = texts[SERVED] == texts[CANDIDATE];
    let (guard, candidate) = (
        Guard {
            mode: Mode::Flag,
            ..app.config.guard.clone()
        },
        Arc::clone(candidate),
    );
    let judged = blocking(move || {
        let by = |scorer: &Served, image: &Encoded| {
            judge(scorer, &guard, image, &asked.messages, &texts)
        };
        Ok::<_, String>([
            by(&served, &images[SERVED])?,
            by(&candidate, &images[CANDIDATE])?,
        ])
    });
    let [by_served, by_candidate] = judged.await.map_err(said)??;
    let judged = [SERVED, CANDIDATE].map(|who| [by_served[who], by_candidate[who]]);
    Ok(Compared {
        equal,
        words,
        judged,
    })
}

fn said(error: ApiError) -> String {
    error.body.error.message
}

/// Returns what a version's scorer says about both answers.
fn judge(
    version: &Served,
    guard: &Guard,
    image: &Encoded,
    messages: &[Message],
    texts: &Of<String>,
) -> Result<Of<Option<Judged>>, String> {
    let Some(reward) = &version.bundle.reward else {
        return Ok([None; 2]);
    };
    let params = guard_params(
        &GuardRequest::default(),
        guard,
        version.bundle.calibration.as_ref(),
    )
    .map_err(said)?;
    // With caches of its own: users' texts do not wait for it.
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

/// `None` for an answer without words.
fn judge_one(
    version: &Served,
    scorer: &Scorer,
    thresholds: Thresholds,
    image: &Encoded,
    messages: &[Message],
    text: &str,
) -> Result<Option<Judged>, String> {
    let mut tokens = version.bundle.prompt(messages)?;
    let prompt = tokens.len();
    let response = version.bundle.response(text.trim_start())?;
    if response.is_empty() {
        return Ok(None);
    }
    tokens.extend(&response);
    let (scored, _) = scorer
        .score(&[Given {
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
        Style::Plain,
    );
    Ok(report.mean_score.map(|reward| Judged {
        reward: reward.into(),
        flagged: report.spans.len(),
    }))
}
