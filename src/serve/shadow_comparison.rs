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
    guard::{Mode, Thresholds, policy, render::RenderStyle, report::report},
    reward::scorer::{Scorer, TextWithImage},
    serve::{
        app::{App, blocking},
        chat::{AnswerForm, collect},
        error::ApiError,
        images::{Encoder, IllustratedPrompt, encode_for, illustrate_files, prompt_about},
        openai::{check::guard_params, request::GuardRequest},
        served::{RequestContext, ServedVersion},
    },
    vlm::{processor::ImageOptions, prompt::Prompt},
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
    let mut judged_images = Vec::with_capacity(versions.len());
    let mut judged_prompts = Vec::with_capacity(versions.len());
    let context = |version: &Arc<ServedVersion>| RequestContext {
        scope: question.scope.clone(),
        ..RequestContext::with_version(app, Arc::clone(version))
    };
    for version in versions {
        let (context, encoder) = (context(version), Encoder::judge(version));
        let (file, messages) = (&question.file, &question.messages);
        let encoded = encode_for(&context, encoder, file, "messages").await;
        judged_images.push(encoded.map_err(error_message)?);
        let prompt = prompt_about(&context, version.bundle.judge(), messages, file);
        judged_prompts.push(prompt.map_err(error_message)?);
    }
    let guard = GuardParams::new(
        if candidate.bundle.reward.is_some() {
            Mode::Score
        } else {
            Mode::Off
        },
        0.5,
    );
    let candidate_context = context(candidate);
    let illustrated = illustrate_files(
        &candidate_context,
        &question.messages,
        vec![(Arc::clone(&question.file), "messages".to_owned())],
        ImageOptions::default(),
        None,
        policy::scores(guard.mode),
    );
    let IllustratedPrompt {
        prompt,
        images,
        reader,
        evidence,
        ..
    } = illustrated.await.map_err(error_message)?;
    let bundle = &candidate.bundle;
    let request = engine::Request {
        id: format!("shadow-{}", Uuid::new_v4().simple()).into(),
        share: Share::default(),
        rank: 0,
        images,
        finisher: bundle.finisher(evidence.as_ref(), bundle.written_by()),
        prompt,
        reader,
        max_tokens: question.max_tokens,
        stop: question.stop.clone(),
        sampling: Sampling::default(),
        top_logprobs: None,
        guard,
        unanswerable: None,
        gate: None,
        observer: None,
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
        let score_with = |version: &ServedVersion, which: usize| {
            let image = &judged_images[which];
            judge(version, &guard, image, &judged_prompts[which], &texts)
        };
        Ok::<_, String>([
            score_with(&served, SERVED)?,
            score_with(&candidate, CANDIDATE)?,
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
    prompt: &Prompt,
    texts: &PerVersion<String>,
) -> Result<PerVersion<Option<ShadowScore>>, String> {
    let own = &version.bundle;
    let reward = match own.scorer {
        Some(_) => own.judge().reader.as_ref().map(|(reward, _)| reward),
        None => own.reward.as_ref(),
    };
    let Some(reward) = reward else {
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
        Arc::clone(&own.judge().vlm),
        Arc::clone(reward),
        1,
        version.scoring_context,
    );
    let [first, second] = texts;
    let judge = |text: &str| judge_one(version, &scorer, params.thresholds, image, prompt, text);
    Ok([judge(first)?, judge(second)?])
}

/// Scores one answer; `None` if it has no words.
fn judge_one(
    version: &ServedVersion,
    scorer: &Scorer,
    thresholds: Thresholds,
    image: &EncodedImage,
    prompt: &Prompt,
    text: &str,
) -> Result<Option<ShadowScore>, String> {
    let judge = version.bundle.judge();
    let mut tokens = prompt.tokens.clone();
    let response = judge.response(text.trim_start())?;
    if response.is_empty() {
        return Ok(None);
    }
    tokens.extend(&response);
    let (scored, _) = scorer
        .score(&[TextWithImage {
            images: std::slice::from_ref(&image.image),
            spans: &prompt.images,
            tokens: &tokens,
            prompt: prompt.tokens.len(),
        }])
        .map_err(|e| e.to_string())?;
    let Some(mut scored) = scored.into_iter().next() else {
        return Ok(None);
    };
    let pieces = response.iter().map(|&id| judge.tokenizer().bytes(id));
    if let Some(finisher) = version
        .bundle
        .finisher(image.evidence.as_ref(), version.bundle.written_by())
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
