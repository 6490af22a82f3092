//! Answers of the engine with the toy model.

use std::{
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use proptest::prelude::*;

use super::testing::{
    CONTEXT, IMAGE_TOKENS, SENTENCE_PROMPT, Toy, ToyReward, collect_events, continuation, engine,
    request, start, tokenizer,
};
use super::*;
use crate::{
    guard::{
        self, Action, Mode, OnExhausted, Verdict,
        abstain::{AnswerGate, SHORT_ANSWER},
        question::Unanswerable,
        render::is_whole,
        sentence::repeats,
        spans::spans,
        words::{with_threshold, words},
    },
    reward::{finish::WrittenBy, scorer::TextRewards, testing::finisher},
    vlm::models::candor_mini::image_first,
};

/// Content of the model's cache after the prompt.
fn context(request: &Request) -> Vec<f32> {
    let image = request.images[0].features.flatten_all().unwrap();
    let mut context: Vec<f32> = image.to_vec1().unwrap();
    let text = &request.prompt.tokens[IMAGE_TOKENS..];
    context.extend(text.iter().map(|&t| t as f32));
    context
}

/// Reference implementation: greedy decoding without engine, batch or cache. Returns ids, rewards,
/// and `true` if end of sequence was reached.
fn reference(request: &Request, budget: usize) -> (Vec<u32>, Vec<f32>, bool) {
    let mut context = context(request);
    let (mut ids, mut rewards) = (Vec::new(), Vec::new());
    loop {
        let logits = continuation(&context).0;
        let allowed = (0..logits.len()).filter(|&i| i != 1 && i != 2);
        let best = allowed
            .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
            .unwrap();
        if best == 0 || ids.len() == budget {
            let reached_end = ids.len() < budget;
            return (ids, rewards, reached_end);
        }
        ids.push(best as u32);
        context.push(best as f32);
        rewards.push(continuation(&context).1);
    }
}

fn bytes(ids: &[u32]) -> Vec<Vec<u8>> {
    ids.iter()
        .map(|&id| tokenizer().bytes(id).to_vec())
        .collect()
}

#[test]
fn answers_match_the_reference_implementation() {
    let handle = engine(EngineConfig {
        max_batch: 3,
        ..EngineConfig::default()
    });
    for mode in [Mode::Off, Mode::Score, Mode::Flag] {
        let mut seen = (0, 0, 0);
        let requests: Vec<Request> = (0..30)
            .map(|i| Request {
                guard: GuardParams::new(mode, 0.4),
                ..request(i as f32, &[5, 6])
            })
            .collect();
        let streams: Vec<EventStream> = requests
            .iter()
            .map(|r| handle.submit(r.clone()).unwrap())
            .collect();
        for (request, received) in requests.iter().zip(streams.into_iter().map(collect_events)) {
            let (ids, rewards, eos) = reference(request, 12);
            let pieces = bytes(&ids);
            let (text, words) = words(pieces.iter().map(Vec::as_slice), &rewards);
            assert_eq!(
                (received.ids(), received.text()),
                (ids.clone(), text.clone())
            );
            let (reason, prompt_tokens, completion_tokens, report) = received.end.clone().unwrap();
            assert_eq!(
                (prompt_tokens, completion_tokens),
                (IMAGE_TOKENS + 2, ids.len())
            );
            assert_eq!(
                reason,
                if eos {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                }
            );
            if mode == Mode::Off {
                assert_eq!((received.rewards(), report), (vec![], None));
                continue;
            }
            assert_eq!(received.rewards(), rewards);
            let expected = if mode == Mode::Flag {
                spans(&text, &with_threshold(words, 0.4), Action::Flagged)
            } else {
                vec![]
            };
            let report = report.unwrap();
            assert_eq!((&received.spans, &report.spans), (&expected, &expected));
            assert_eq!(report.alt_text.is_some(), mode == Mode::Flag);
            seen.0 += usize::from(report.verdict == Verdict::Flagged);
            seen.1 += usize::from(report.verdict == Verdict::Clean);
            seen.2 += usize::from(eos);
        }
        assert!(
            mode == Mode::Off || (seen.0 > 0 && seen.1 > 0 && seen.2 > 0),
            "{seen:?}"
        );
    }
}

/// Rewards finished during decoding equal those finished on the whole text, with and without
/// repairs and stop strings.
#[test]
fn finished_rewards_match_those_of_the_whole_text() {
    let handle = engine(EngineConfig::default());
    let finisher = finisher([1.0, -1.0, 0.0], WrittenBy::Policy);
    let (mut finished, mut repaired, mut moved) = (0, 0, 0);
    for image in 0..40 {
        let modes = [
            (Mode::Score, 0, "never"),
            (Mode::Flag, 0, "s"),
            (Mode::Regenerate, usize::MAX, "never"),
            (Mode::Block, usize::MAX, "never"),
        ];
        for (mode, window, stop) in modes {
            let guard = GuardParams {
                window,
                ..GuardParams::new(mode, 0.6)
            };
            let plain = Request {
                guard,
                max_tokens: 20,
                stop: vec![stop.to_owned()],
                ..request(image as f32, &[5, 6])
            };
            let request = Request {
                finisher: Some(Arc::clone(&finisher)),
                ..plain.clone()
            };
            let received = collect_events(handle.submit(request.clone()).unwrap());
            let mut context = context(&request);
            let mut scorer = |id: u32| {
                context.push(id as f32);
                continuation(&context).1
            };
            let rewards: Vec<f32> = received.ids().into_iter().map(&mut scorer).collect();
            let log_probabilities = received
                .tokens
                .iter()
                .map(|token| token.token.logprob)
                .collect();
            let mut scored = TextRewards {
                rewards: rewards.clone(),
                log_probabilities,
            };
            let (text, mut pieces) = (received.text(), bytes(&received.ids()));
            if String::from_utf8_lossy(&pieces.concat()) != text {
                // A stop string ended the text within a token.
                if text.contains(char::REPLACEMENT_CHARACTER) {
                    continue;
                }
                let mut left = text.len();
                for piece in &mut pieces {
                    piece.truncate(left);
                    left -= piece.len();
                }
            }
            finisher.finish_scored(pieces.iter().map(Vec::as_slice), &mut scored);
            assert_eq!(received.rewards(), scored.rewards, "{text:?} in {mode:?}");
            let report = received.report();
            check_report(&received, &report, &request);
            assert_eq!(received.spans, report.spans);
            assert_eq!(
                collect_events(handle.submit(request).unwrap()),
                received,
                "the same again"
            );
            finished += usize::from(scored.rewards != rewards);
            repaired += usize::from(report.verdict == Verdict::Repaired);
            moved += usize::from(
                mode == Mode::Score
                    && collect_events(handle.submit(plain).unwrap()).report().score != report.score,
            );
        }
    }
    assert!(
        finished > 10 && repaired > 0 && moved > 0,
        "{finished} finished, {repaired} repaired, {moved} scores moved"
    );
}

/// Words already sent keep their rewards when later words are repaired.
#[test]
fn sent_words_keep_their_rewards_after_a_repair() {
    let handle = engine(EngineConfig::default());
    let finisher = finisher([1.0, -1.0, 0.0], WrittenBy::Policy);
    let mut repaired = 0;
    for image in 0..60 {
        for window in [0, 1, 2] {
            let guard = GuardParams {
                window,
                ..GuardParams::new(Mode::Regenerate, 0.6)
            };
            let request = Request {
                guard,
                max_tokens: 20,
                finisher: Some(Arc::clone(&finisher)),
                ..request(image as f32, &[5, 6])
            };
            let received = collect_events(handle.submit(request.clone()).unwrap());
            let report = received.report();
            check_report(&received, &report, &request);
            assert_eq!(received.spans, report.spans);
            assert_eq!(received.rewards().len(), received.tokens.len());
            // The verdict follows from the rewards sent.
            let pieces = bytes(&received.ids());
            let (text, words) = words(pieces.iter().map(Vec::as_slice), &received.rewards());
            assert_eq!(text, received.text());
            let low = with_threshold(words, 0.6)
                .iter()
                .any(crate::guard::words::Word::is_flagged);
            assert_eq!(
                low,
                report.verdict == Verdict::Flagged,
                "{text:?} {report:?}"
            );
            repaired += usize::from(report.verdict == Verdict::Repaired);
        }
    }
    assert!(repaired > 5, "{repaired}");
}

#[test]
fn answers_do_not_depend_on_competitors() {
    let alone = engine(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    for takes_turns in [true, false] {
        let together = engine(EngineConfig {
            max_batch: 4,
            takes_turns,
            ..EngineConfig::default()
        });
        let modes = [Mode::Regenerate, Mode::Off, Mode::Flag, Mode::Block];
        let request_for = |i: usize| Request {
            share: fair::Share::new(["a", "b", "c"][i * i % 7 % 3], 1 + i as u32 % 3),
            rank: i % 4,
            guard: GuardParams::new(modes[i % 4], 0.4),
            max_tokens: 5 + i % 20,
            ..request(i as f32, &[5, 6])
        };
        let streams: Vec<EventStream> = (0..48)
            .map(|i| together.submit(request_for(i)).unwrap())
            .collect();
        for (i, stream) in streams.into_iter().enumerate() {
            assert_eq!(
                collect_events(stream),
                collect_events(alone.submit(request_for(i)).unwrap()),
                "{i}"
            );
        }
    }
}

#[test]
fn deltas_of_scored_text_are_whole_words() {
    let handle = engine(EngineConfig::default());
    let mut deltas = 0;
    for image in 0..20 {
        let received = collect_events(
            handle
                .submit(Request {
                    max_tokens: 30,
                    ..request(image as f32, &[5, 7])
                })
                .unwrap(),
        );
        let mut shown = String::new();
        for delta in received
            .deltas
            .iter()
            .take(received.deltas.len().saturating_sub(1))
        {
            shown += delta;
            let rest = &received.text()[shown.len()..];
            let inside =
                shown.ends_with(char::is_alphanumeric) && rest.starts_with(char::is_alphanumeric);
            assert!(!inside, "{shown:?} was cut inside a word, {rest:?} follows");
            deltas += 1;
        }
    }
    assert!(deltas > 40, "{deltas}");
}

#[test]
fn log_probabilities_ignore_temperature_and_penalties() {
    let sampling = Sampling {
        temperature: 1.5,
        seed: 3,
        frequency_penalty: 1.0,
        ..Sampling::default()
    };
    let request = Request {
        sampling,
        ..request(1.0, &[5])
    };
    let received = collect_events(
        engine(EngineConfig::default())
            .submit(request.clone())
            .unwrap(),
    );
    let mut context = context(&request);
    assert!(!received.tokens.is_empty());
    for token in &received.tokens {
        let logits = continuation(&context).0;
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        for a in std::iter::once(&token.token).chain(&token.top) {
            assert!((a.logprob.exp() - logits[a.id as usize].exp() / sum).abs() < 1e-5);
        }
        assert!(token.top.len() == 2 && token.top[0].logprob >= token.top[1].logprob);
        context.push(token.token.id as f32);
    }
}

#[test]
fn a_stop_string_across_tokens_ends_the_answer_before_it() {
    let handle = engine(EngineConfig::default());
    let mut inside_a_token = 0;
    for image in 0..40 {
        let plain = Request {
            max_tokens: 25,
            ..request(image as f32, &[5])
        };
        let whole = collect_events(handle.submit(plain.clone()).unwrap()).text();
        let chars: Vec<char> = whole.chars().collect();
        for at in (0..chars.len().saturating_sub(6)).step_by(3) {
            let stop: String = chars[at..at + 6].iter().collect();
            let received = collect_events(
                handle
                    .submit(Request {
                        stop: vec!["never".to_owned(), stop.clone()],
                        ..plain.clone()
                    })
                    .unwrap(),
            );
            let expected = &whole[..whole.find(&stop).unwrap()];
            assert_eq!(received.text(), expected);
            let report = received.report();
            assert_eq!(
                received.end,
                Ok((
                    FinishReason::Stop,
                    IMAGE_TOKENS + 1,
                    received.tokens.len(),
                    Some(report.clone())
                ))
            );
            assert_eq!(received.rewards().len(), received.tokens.len());
            assert_eq!(received.spans, report.spans);
            let pieces: Vec<u8> = received
                .tokens
                .iter()
                .flat_map(|t| t.token.bytes.clone())
                .collect();
            assert!(String::from_utf8_lossy(&pieces).starts_with(expected));
            inside_a_token += usize::from(pieces.len() > expected.len());
        }
    }
    assert!(inside_a_token > 10);
}

#[test]
fn max_tokens_and_the_context_end_an_answer() {
    let handle = engine(EngineConfig {
        context_len: 10,
        ..EngineConfig::default()
    });
    let long = |prompt: &[u32]| Request {
        max_tokens: 100,
        ..request(6.0, prompt)
    };
    assert!(
        reference(&long(&[5; 3]), 20).0.len() > 8,
        "an image that the model has much to say about"
    );
    let received = collect_events(handle.submit(long(&[5; 3])).unwrap());
    assert_eq!((received.tokens.len(), received.rewards().len()), (5, 5));
    assert_eq!(received.end.unwrap().0, FinishReason::Length);
    assert_eq!(
        handle.submit(long(&[5; 8])).unwrap_err(),
        EngineError::PromptTooLong {
            prompt_tokens: 10,
            context_len: 10
        }
    );
}

#[test]
fn readings_that_come_late_give_the_same_answers() {
    let late = Arc::new(ToyReward {
        lag: 4,
        ..ToyReward::default()
    });
    let handles = [
        engine(EngineConfig::default()),
        start(&Toy::new(), &late, EngineConfig::default()),
    ];
    for image in 0..40 {
        for mode in [Mode::Score, Mode::Flag] {
            let request = Request {
                guard: GuardParams::new(mode, 0.5),
                max_tokens: 3 + image % 12,
                ..request(image as f32, &[5])
            };
            let [on_time, late] = handles
                .each_ref()
                .map(|handle| collect_events(handle.submit(request.clone()).unwrap()));
            assert_eq!(on_time.text(), late.text(), "{image} in {mode:?}");
            assert_eq!(on_time.ids(), late.ids());
            assert_eq!(on_time.rewards(), late.rewards());
            assert_eq!(on_time.spans, late.spans);
            let reports = [&on_time, &late].map(|received| {
                let report = received.report();
                (report.verdict, report.score, report.spans)
            });
            assert_eq!(reports[0], reports[1]);
        }
    }
}

#[test]
fn invalid_requests_are_rejected_at_submission() {
    let scored = engine(EngineConfig::default());
    let unscored = Engine::start(Toy::new(), None, tokenizer(), EngineConfig::default()).unwrap();
    let good = request(0.0, &[5]);
    let refused = |handle: &EngineHandle, request: Request| {
        matches!(handle.submit(request), Err(EngineError::Invalid(_)))
    };
    assert!(refused(
        &scored,
        Request {
            prompt: Arc::default(),
            ..good.clone()
        }
    ));
    assert!(refused(
        &scored,
        Request {
            prompt: Arc::new(image_first(IMAGE_TOKENS, &[28])),
            ..good.clone()
        }
    ));
    assert!(refused(
        &scored,
        Request {
            max_tokens: 0,
            ..good.clone()
        }
    ));
    assert!(refused(
        &scored,
        Request {
            images: Vec::new(),
            ..good.clone()
        }
    ));
    assert!(refused(&unscored, good.clone()));
    assert!(
        unscored
            .submit(Request {
                guard: GuardParams::new(Mode::Off, 0.1),
                ..good
            })
            .is_ok()
    );
}

#[test]
fn an_engine_without_capacity_does_not_start() {
    let start = |config| Engine::start(Toy::new(), None, tokenizer(), config).is_err();
    assert!(start(EngineConfig {
        max_batch: 0,
        ..EngineConfig::default()
    }));
    assert!(start(EngineConfig {
        context_len: 0,
        ..EngineConfig::default()
    }));
    assert!(start(EngineConfig {
        prefill_chunk: Some(0),
        ..EngineConfig::default()
    }));
}

/// Asserts invariants of every report: the repair budget, and offsets that match the text exactly.
fn check_report(
    received: &super::testing::ReceivedEvents,
    report: &crate::guard::GuardReport,
    request: &Request,
) {
    assert!(
        report.extra_tokens as usize <= request.guard.max_attempts,
        "{report:?}"
    );
    assert!(
        report.attempts as usize <= request.guard.max_attempts,
        "{report:?}"
    );
    let chars: Vec<char> = received.text().chars().collect();
    for span in &report.spans {
        assert_eq!(
            chars[span.start..span.end].iter().collect::<String>(),
            span.text,
            "{report:?}"
        );
    }
    if request.guard.on_exhausted != OnExhausted::Flag {
        assert!(
            received.deltas.len() <= 1 && !report.spans.iter().any(crate::guard::Span::is_unhedged),
            "{report:?}"
        );
        assert!(
            report
                .alt_text
                .as_ref()
                .is_none_or(|alt| *alt == received.text()),
            "{report:?}"
        );
    }
    assert!(
        report
            .spans
            .windows(2)
            .all(|pair| pair[0].end <= pair[1].start),
        "{report:?}"
    );
    match report.verdict {
        Verdict::Blocked => assert!(
            received.end.clone().unwrap().0 == FinishReason::ContentFilter
                && request.guard.mode == Mode::Block
        ),
        Verdict::Clean | Verdict::Repaired => {
            assert!(
                report
                    .spans
                    .iter()
                    .all(|span| matches!(span.action, Action::Regenerated | Action::Omitted))
            )
        }
        Verdict::Flagged | Verdict::Unscored => {}
        Verdict::Abstained => panic!("nothing was to be withheld"),
    }
}

/// Asserts that every token has the log-probability and reward of the model after the tokens before
/// it.
fn check_tokens(request: &Request, received: &super::testing::ReceivedEvents) {
    let mut context = context(request);
    for token in &received.tokens {
        let logits = continuation(&context).0;
        let sum: f32 = logits.iter().map(|l| l.exp()).sum();
        let expected = (logits[token.token.id as usize].exp() / sum).ln();
        assert!((token.token.logprob - expected).abs() < 1e-5);
        context.push(token.token.id as f32);
        assert!(
            token
                .reward
                .is_none_or(|reward| reward == continuation(&context).1)
        );
    }
}

/// A gate that withholds everything reports each probability and withheld text. A gate that
/// withholds nothing changes at most what is flagged.
#[test]
fn the_gate_judges_short_answers_only() {
    let handle = engine(EngineConfig::default());
    let (mut withheld, mut long, mut held_back, mut unflagged) = (0, 0, 0, 0);
    for image in 0..40 {
        for mode in [Mode::Flag, Mode::Regenerate] {
            let plain = Request {
                guard: GuardParams::new(mode, 0.4),
                max_tokens: 20,
                ..request(image as f32, &[5, 6])
            };
            let answer_with = |below: f32| {
                let gate = AnswerGate::new(below, |answer| {
                    assert!(answer.log_probability < 0.0 && !answer.text.is_empty());
                    0.5
                });
                collect_events(
                    handle
                        .submit(Request {
                            gate: Some(Arc::new(gate)),
                            ..plain.clone()
                        })
                        .unwrap(),
                )
            };
            let received = answer_with(0.0);
            let (answer, closed, open) = (
                collect_events(handle.submit(plain.clone()).unwrap()),
                answer_with(0.75),
                answer_with(0.5),
            );
            assert_eq!((open.text(), &open.tokens), (answer.text(), &answer.tokens));
            assert_eq!(
                received.deltas, answer.deltas,
                "what is never withheld is shown as ever"
            );
            assert_eq!(
                received.report().answer_probability.is_some(),
                (1..=SHORT_ANSWER).contains(&answer.tokens.len())
            );
            assert_eq!(
                guard::GuardReport {
                    answer_probability: None,
                    ..received.report()
                },
                answer.report()
            );
            let is_judged = open.report().answer_probability == Some(0.5);
            if is_judged {
                // Its probability is above the threshold, whatever its words' rewards.
                let (given, written) = (open.report(), answer.report());
                assert_eq!(
                    (given.score.is_some(), open.flagged_tokens),
                    (written.score.is_some(), 0)
                );
                assert!(given.score.is_none_or(|score| score == 0.5), "{given:?}");
                assert!(
                    !matches!(given.verdict, Verdict::Flagged)
                        && given.spans.iter().all(|span| !span.is_unhedged()),
                    "{given:?}"
                );
                unflagged += usize::from(written.verdict == Verdict::Flagged);
            } else {
                assert_eq!(
                    (open.report(), open.flagged_tokens),
                    (answer.report(), answer.flagged_tokens)
                );
            }
            if answer.tokens.is_empty() || answer.tokens.len() > SHORT_ANSWER {
                assert_eq!(
                    (closed.text(), closed.report(), is_judged),
                    (answer.text(), answer.report(), false)
                );
                long += usize::from(!answer.tokens.is_empty());
                continue;
            }
            if !is_judged {
                // A repair shortened it after its start had been sent.
                assert_eq!(closed.report(), answer.report());
                continue;
            }
            assert!(
                open.deltas.len() == 1,
                "nothing is shown before it is decided: {open:?}"
            );
            held_back += usize::from(answer.deltas.len() > 1);
            let report = closed.report();
            assert_eq!(
                (closed.deltas.as_slice(), &closed.tokens, &closed.spans),
                (
                    &[Unanswerable::Unsure.wording().to_owned()][..],
                    &vec![],
                    &vec![]
                )
            );
            assert_eq!(
                (report.verdict, report.reason, report.score),
                (Verdict::Abstained, Some(Unanswerable::Unsure), None)
            );
            assert_eq!(
                (report.withheld, report.answer_probability),
                (Some(answer.text()), Some(0.5))
            );
            let extra = answer.report().extra_tokens as usize + answer.tokens.len();
            assert_eq!(
                (report.extra_tokens as usize, report.attempts),
                (extra, answer.report().attempts)
            );
            let (reason, prompt_tokens, completion_tokens, _) = closed.end.unwrap();
            assert_eq!(
                (reason, prompt_tokens, completion_tokens),
                (FinishReason::Stop, IMAGE_TOKENS + 2, 0)
            );
            withheld += 1;
        }
    }
    assert!(
        withheld > 10 && long > 3 && held_back > 3,
        "{withheld} withheld, {long} long, {held_back} held back"
    );
    assert!(unflagged > 0, "no answer had a word of low reward");
}

/// A short answer that passes the gate but is below the threshold is flagged as a whole.
#[test]
fn a_short_answer_is_flagged_by_its_probability() {
    let handle = engine(EngineConfig::default());
    let mut flagged = 0;
    for image in 0..40 {
        let gate = |below: f32| Some(Arc::new(AnswerGate::new(below, |_| 0.6)));
        let answer_with = |threshold: f32, below: f32| {
            let guard = GuardParams::new(Mode::Flag, threshold);
            collect_events(
                handle
                    .submit(Request {
                        guard,
                        gate: gate(below),
                        max_tokens: 6,
                        ..request(image as f32, &[5, 6])
                    })
                    .unwrap(),
            )
        };
        let (low, high) = (answer_with(0.0, 0.5), answer_with(0.7, 0.5));
        let claims = high
            .report()
            .spans
            .iter()
            .all(|span| span.score == 0.6 && span.action == guard::Action::Flagged);
        assert!(claims && low.report().spans.is_empty(), "{high:?}");
        if let Some(score) = high
            .report()
            .score
            .filter(|_| high.report().verdict != Verdict::Unscored)
        {
            // An answer of function words alone has no claims.
            assert_eq!(
                (score, high.report().verdict == Verdict::Flagged),
                (0.6, !high.report().spans.is_empty())
            );
            assert_eq!(low.report().verdict, Verdict::Clean);
            flagged += usize::from(high.flagged_tokens > 0);
        }
        assert_eq!(
            high.report().answer_probability,
            low.report().answer_probability
        );
    }
    assert!(flagged > 10, "{flagged}");
}

/// Unanswerable questions never reach the model.
#[test]
fn an_abstention_runs_no_step() {
    let toy = Toy::new();
    let handle = start(&toy, &Arc::default(), EngineConfig::default());
    let received = collect_events(
        handle
            .submit(Request {
                unanswerable: Some(Unanswerable::Time),
                ..request(1.0, &[5, 6])
            })
            .unwrap(),
    );
    assert_eq!(
        (received.text().as_str(), received.tokens.len(), toy.steps()),
        (Unanswerable::Time.wording(), 0, 0)
    );
    let (reason, prompt_tokens, completion_tokens, report) = received.end.clone().unwrap();
    assert_eq!(
        (reason, prompt_tokens, completion_tokens),
        (FinishReason::Stop, IMAGE_TOKENS + 2, 0)
    );
    assert_eq!(
        report.map(|report| (report.verdict, report.reason, report.withheld)),
        Some((Verdict::Abstained, Some(Unanswerable::Time), None))
    );
    let long = Request {
        unanswerable: Some(Unanswerable::Time),
        ..request(1.0, &[5; CONTEXT])
    };
    assert!(
        matches!(handle.submit(long), Err(EngineError::PromptTooLong { .. })),
        "what could never run is an error as before"
    );
    assert_eq!(handle.health().waiting, 0);
}

/// A scorer that fails while candidates are decoded leaves the answer intact, and decoding
/// continues.
#[test]
fn a_scorer_failure_during_repair_keeps_the_answer_consistent() {
    let mut in_repair = 0;
    for image in 0..12 {
        for fails_after in 3..40 {
            let (toy, reward) = (Toy::new(), Arc::new(ToyReward::default()));
            reward.fails_after.store(fails_after, SeqCst);
            let handle = start(
                &toy,
                &reward,
                EngineConfig {
                    on_error: OnError::FailOpen,
                    ..EngineConfig::default()
                },
            );
            let request = Request {
                guard: GuardParams::new(Mode::Regenerate, 0.7),
                max_tokens: 8,
                ..request(image as f32, &[5, 6])
            };
            let received = collect_events(handle.submit(request.clone()).unwrap());
            check_tokens(&request, &received);
            if received.report().verdict == Verdict::Unscored {
                let log = toy.log.lock().unwrap();
                let last_tried = log.iter().rposition(|rows| rows.len() > 1);
                let unscored = received.tokens.len() - received.rewards().len();
                in_repair +=
                    usize::from(last_tried.is_some_and(|at| log.len() - at <= unscored + 2));
            }
        }
    }
    assert!(in_repair > 10, "{in_repair}");
}

/// After a repair, log-probabilities and rewards are those of the final text: rollback leaves
/// nothing behind in any cache.
#[test]
fn repaired_answers_have_the_model_outputs_of_their_text() {
    let handle = engine(EngineConfig::default());
    let (mut repaired, mut blocked) = (0, 0);
    for image in 0..60 {
        for (mode, window) in [
            (Mode::Regenerate, usize::MAX),
            (Mode::Regenerate, 0),
            (Mode::Regenerate, 2),
            (Mode::Block, usize::MAX),
        ] {
            for max_tokens in [2, 4, 20] {
                // A higher threshold for `block`, so that some words cannot be repaired.
                let threshold = if mode == Mode::Block { 0.9 } else { 0.6 };
                let guard = GuardParams {
                    window,
                    ..GuardParams::new(mode, threshold)
                };
                let request = Request {
                    guard,
                    max_tokens,
                    ..request(image as f32, &[5, 6])
                };
                let received = collect_events(handle.submit(request.clone()).unwrap());
                check_tokens(&request, &received);
                assert_eq!(received.rewards().len(), received.tokens.len());
                let report = received.report();
                check_report(&received, &report, &request);
                assert_eq!(received.spans, report.spans);
                repaired += usize::from(report.verdict == Verdict::Repaired);
                blocked += usize::from(report.verdict == Verdict::Blocked);
                let again = collect_events(handle.submit(request).unwrap());
                assert_eq!(again, received, "the same again");
            }
        }
    }
    assert!(
        repaired > 10 && blocked > 10,
        "{repaired} repaired, {blocked} blocked"
    );
}

/// A regenerated sentence replaces the original only if it is as complete, does not repeat itself,
/// and keeps the objects that were not flagged.
#[test]
fn repaired_sentences_are_complete_and_keep_grounded_objects() {
    let handle = start(
        &Toy::writing_sentences(),
        &Arc::default(),
        EngineConfig::default(),
    );
    let (mut whole, mut repaired, mut restored) = (0, 0, 0);
    for image in 0..120 {
        for window in [0, 2, usize::MAX] {
            let answer_in = |mode| {
                let guard = GuardParams {
                    window,
                    ..GuardParams::new(mode, 0.6)
                };
                collect_events(
                    handle
                        .submit(Request {
                            guard,
                            max_tokens: 24,
                            ..request(image as f32, &SENTENCE_PROMPT)
                        })
                        .unwrap(),
                )
            };
            let (first, received) = (answer_in(Mode::Flag), answer_in(Mode::Regenerate));
            let (before, after) = (first.text(), received.text());
            check_report(
                &received,
                &received.report(),
                &Request {
                    guard: GuardParams::new(Mode::Regenerate, 0.6),
                    ..request(image as f32, &SENTENCE_PROMPT)
                },
            );
            if first.end.clone().unwrap().0 != FinishReason::Stop
                || before.matches('.').count() != 1
                || before == after
            {
                restored += usize::from(before == after && received.report().attempts > 0);
                continue;
            }
            assert!(!is_whole(&before) || is_whole(&after), "{before} → {after}");
            assert!(!repeats(&after) || repeats(&before), "{before} → {after}");
            let pieces: Vec<Vec<u8>> = first.tokens.iter().map(|t| t.token.bytes.clone()).collect();
            let (text, words) = words(pieces.iter().map(Vec::as_slice), &first.rewards());
            for word in with_threshold(words, 0.6)
                .iter()
                .filter(|word| !word.is_flagged())
            {
                let name = &text[word.bytes.clone()];
                assert!(
                    !["dog", "cat", "grass"].contains(&name) || after.contains(name),
                    "{before} → {after}"
                );
            }
            whole += usize::from(is_whole(&before));
            repaired += usize::from(received.report().verdict == Verdict::Repaired);
        }
    }
    assert!(
        whole > 5 && repaired > 5 && restored > 5,
        "{whole} whole, {repaired} repaired, {restored} left as they were"
    );
}

/// A blocked answer ends after a whole sentence or is empty, whatever the window.
#[test]
fn blocked_answers_end_with_whole_sentences() {
    let handle = engine(EngineConfig::default());
    let mut blocked = 0;
    for image in 0..60 {
        for window in [0, 3, usize::MAX] {
            let guard = GuardParams {
                window,
                ..GuardParams::new(Mode::Block, 0.8)
            };
            let received = collect_events(
                handle
                    .submit(Request {
                        guard,
                        max_tokens: 12,
                        ..request(image as f32, &[5, 6])
                    })
                    .unwrap(),
            );
            if received.report().verdict == Verdict::Blocked {
                let text = received.text();
                let rest = text
                    .rsplit(char::is_alphanumeric)
                    .next()
                    .unwrap_or_default();
                assert!(rest.contains(['.', '\n']) || rest == text, "{text:?}");
                blocked += 1;
            }
        }
    }
    assert!(blocked > 20, "{blocked}");
}

fn any_request() -> impl Strategy<Value = Request> {
    let sampling = (
        prop_oneof![Just(0.0), Just(0.7), Just(2.0)],
        prop_oneof![Just(1.0), Just(0.8)],
        any::<u64>(),
        prop_oneof![Just(0.0f32), Just(0.9)],
    );
    let stop = prop_oneof![
        Just(vec![]),
        Just(vec!["a d".to_owned()]),
        Just(vec!["dog".to_owned(), ". ".to_owned()])
    ];
    let mode = prop_oneof![
        Just(Mode::Off),
        Just(Mode::Score),
        Just(Mode::Flag),
        Just(Mode::Regenerate),
        Just(Mode::Block)
    ];
    let on_exhausted = prop_oneof![
        Just(OnExhausted::Flag),
        Just(OnExhausted::Hedge),
        Just(OnExhausted::Omit)
    ];
    (
        0u8..9,
        proptest::collection::vec(3u32..28, 1..8),
        1usize..50,
        sampling,
        stop,
        mode,
        0.0f32..1.0,
        on_exhausted,
    )
        .prop_map(
            |(
                image,
                prompt,
                max_tokens,
                (temperature, top_p, seed, presence_penalty),
                stop,
                mode,
                threshold,
                on_exhausted,
            )| Request {
                max_tokens,
                stop,
                sampling: Sampling {
                    temperature,
                    top_p,
                    seed,
                    presence_penalty,
                    ..Sampling::default()
                },
                guard: GuardParams {
                    on_exhausted,
                    ..GuardParams::new(mode, threshold)
                },
                ..request(f32::from(image), &prompt)
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A request's events do not depend on the rest of the batch.
    #[test]
    fn a_request_gets_the_same_events_alone_and_in_any_batch(
        requests in proptest::collection::vec((any_request(), proptest::option::of(0usize..6)),
            1..14), max_batch in 1usize..6, max_prefills in 1usize..4, prefill_chunk in 1usize..8,
        // A sequence with all its candidates takes 15 blocks of 16 positions of 8 bytes.
        blocks in 15u64..60,
    ) {
        let alone = engine(EngineConfig { max_batch: 1, ..EngineConfig::default() });
        let (toy, reward) = (Toy::new(), Arc::default());
        let (prefill_chunk, kv_bytes) = (Some(prefill_chunk), blocks * 16 * 8);
        let handle = start(&toy, &reward, EngineConfig { max_batch, max_prefills, prefill_chunk,
            kv_bytes, ..EngineConfig::default() });
        let threads: Vec<_> = requests.iter().cloned().map(|(request, leaves_after)| {
            let mut stream = handle.submit(request).unwrap();
            std::thread::spawn(move || match leaves_after {
                Some(events) => {
                    (0..events).for_each(|_| drop(stream.blocking_next()));
                    None
                }
                None => Some(collect_events(stream)),
            })
        }).collect();
        for ((request, _), thread) in requests.iter().zip(threads) {
            if let Some(received) = thread.join().unwrap() {
                let expected = collect_events(alone.submit(request.clone()).unwrap());
                prop_assert_eq!(&received, &expected);
                let (reason, prompt_tokens, completion_tokens, report) =
                    received.end.clone().unwrap();
                prop_assert_eq!(completion_tokens, received.tokens.len());
                prop_assert_eq!(report.is_some(), request.guard.mode != Mode::Off);
                if let Some(report) = report {
                    prop_assert_eq!(&received.spans, &report.spans);
                    prop_assert_eq!(received.rewards().len(), completion_tokens);
                    prop_assert_eq!(report.verdict == Verdict::Unscored, report.score.is_none());
                }
                if let Some(report) = &received.end.clone().unwrap().3 {
                    check_report(&received, report, request);
                }
                prop_assert!(reason != FinishReason::Length
                    || completion_tokens == request.max_tokens.min(CONTEXT - prompt_tokens));
            }
        }
        let log = toy.log.lock().unwrap();
        let max_rows = max_batch * (1 + EngineConfig::default().repair.candidates);
        prop_assert!(log.iter().all(|rows| rows.len() <= max_rows
            && rows.iter().filter(|r| r.1 == 0).count() <= max_prefills));
    }
}

#[test]
fn an_idle_engine_is_healthy_and_empty() {
    let handle = engine(EngineConfig::default());
    collect_events(handle.submit(request(0.0, &[5])).unwrap());
    // The last event is sent within the last step; the engine becomes idle soon after.
    while !handle.health().idle {
        std::thread::yield_now();
    }
    let health = handle.health();
    assert_eq!(
        (health.running, health.waiting, health.kv_usage),
        (0, 0, 0.0)
    );
    assert!(health.is_ready(Duration::ZERO));
    assert!(handle.has_scorer() && handle.context_len() == CONTEXT);
}

#[test]
fn the_scorer_gets_only_scored_sequences() {
    let (toy, reward) = (Toy::new(), Arc::new(ToyReward::default()));
    let handle = start(&toy, &reward, EngineConfig::default());
    let off = Request {
        guard: GuardParams::new(Mode::Off, 0.4),
        ..request(1.0, &[5])
    };
    collect_events(handle.submit(off.clone()).unwrap());
    assert_eq!(reward.seen.load(SeqCst), 0);
    let streams = [
        handle.submit(off.clone()).unwrap(),
        handle.submit(request(2.0, &[5, 6])).unwrap(),
        handle.submit(off).unwrap(),
    ];
    let [_, scored, _] = streams.map(collect_events);
    assert_eq!(reward.seen.load(SeqCst), scored.tokens.len());
}
