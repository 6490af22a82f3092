//! The engine with real networks on random weights.

use std::{convert::Infallible, sync::Arc, time::Duration};

use candor::{
    engine::{
        CacheScope, Engine, EngineConfig, EngineHandle, Event, EventStream, FinishReason,
        GeneratedToken, GuardParams, ImageCache, Request, Sampling, fair::Share,
    },
    guard::{GuardReport, Mode},
    reward::TokenReward,
    util::digest::HashedFile,
    vlm::{
        Logits, Outputs, Row, VisionLanguageModel,
        processor::ImageOptions,
        prompt::{ImageFeatures, ImageId},
    },
};

use crate::support::{Linear, byte_tokenizer, model, pixels, prompt_about_an_image};

struct House {
    vlm: Arc<dyn VisionLanguageModel>,
    reward: Arc<Linear>,
}

impl House {
    fn new(seed: u64) -> Self {
        let vlm = model(seed);
        let reward = Linear::new(vlm.spec().layers, vlm.spec().width, seed);
        Self { vlm, reward }
    }

    fn engine(&self, max_batch: usize) -> EngineHandle {
        let config = EngineConfig {
            max_batch,
            ..EngineConfig::default()
        };
        Engine::start(
            self.vlm.clone(),
            Some(self.reward.clone()),
            byte_tokenizer(),
            config,
        )
        .unwrap()
    }

    fn image(&self, seed: u64) -> ImageFeatures {
        ImageFeatures {
            id: ImageId([seed as u8; 32]),
            features: self.vlm.encode(&pixels(seed)).unwrap(),
        }
    }

    fn request(&self, seed: u64) -> Request {
        let tokenizer = byte_tokenizer();
        let prompt = tokenizer
            .encode(&format!(
                "<user>{}?<assistant>",
                "what ".repeat(1 + seed as usize % 3)
            ))
            .unwrap();
        Request {
            id: format!("request-{seed}").into(),
            share: Share::new(["a", "b", "c"][seed as usize % 5 % 3], 1 + seed as u32 % 2),
            rank: seed as usize % 3,
            images: vec![self.image(seed)],
            finisher: None,
            prompt: Arc::new(prompt_about_an_image(&prompt)),
            reader: None,
            max_tokens: 5 + seed as usize % 20,
            stop: Vec::new(),
            sampling: Sampling {
                temperature: [0.0, 0.8][seed as usize % 2],
                seed,
                ..Sampling::default()
            },
            top_logprobs: Some(2),
            guard: GuardParams::new([Mode::Flag, Mode::Off, Mode::Score][seed as usize % 3], 0.5),
            unanswerable: None,
            gate: None,
            observer: None,
        }
    }
}

/// The answer's text, tokens and end.
async fn listen(
    mut stream: EventStream,
) -> (
    String,
    Vec<GeneratedToken>,
    (FinishReason, usize, usize, Option<GuardReport>),
) {
    let (mut text, mut all) = (String::new(), Vec::new());
    while let Some(event) = stream.next().await {
        match event {
            Event::Delta {
                text: more, tokens, ..
            } => {
                text += &more;
                all.extend(tokens);
            }
            Event::Finished {
                reason,
                prompt_tokens,
                completion_tokens,
                guard,
            } => {
                return (text, all, (reason, prompt_tokens, completion_tokens, guard));
            }
            Event::Failed(error) => panic!("{error}"),
        }
    }
    panic!("the stream ended without an end");
}

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[tokio::test]
async fn a_batch_says_and_scores_what_each_request_would_alone() {
    let house = House::new(1);
    let (alone, together) = (house.engine(1), house.engine(5));
    let requests: Vec<Request> = (0..18).map(|i| house.request(i)).collect();
    let streams: Vec<EventStream> = requests
        .iter()
        .map(|r| together.submit(r.clone()).unwrap())
        .collect();
    let (mut scored, mut spans) = (0, 0);
    for (request, stream) in requests.into_iter().zip(streams) {
        let off = request.guard.mode == Mode::Off;
        let (text, tokens, end) = listen(stream).await;
        let (expected_text, expected, expected_end) = listen(alone.submit(request).unwrap()).await;
        let ids = |tokens: &[GeneratedToken]| tokens.iter().map(|t| t.token.id).collect::<Vec<_>>();
        let rewards =
            |tokens: &[GeneratedToken]| tokens.iter().filter_map(|t| t.reward).collect::<Vec<_>>();
        let logprobs =
            |tokens: &[GeneratedToken]| tokens.iter().map(|t| t.token.logprob).collect::<Vec<_>>();
        assert_eq!((text, ids(&tokens)), (expected_text, ids(&expected)));
        assert!(
            near(&rewards(&tokens), &rewards(&expected))
                && near(&logprobs(&tokens), &logprobs(&expected))
        );
        assert_eq!(
            (end.0, end.1, end.2),
            (expected_end.0, expected_end.1, expected_end.2)
        );
        assert_eq!(rewards(&tokens).len(), if off { 0 } else { tokens.len() });
        let found = |report: Option<GuardReport>| {
            report.map_or(Vec::new(), |r| {
                r.spans
                    .into_iter()
                    .map(|s| (s.start, s.end, s.text))
                    .collect()
            })
        };
        assert_eq!(
            end.3.as_ref().map(|r| r.verdict),
            expected_end.3.as_ref().map(|r| r.verdict)
        );
        let (found, expected) = (found(end.3), found(expected_end.3));
        assert_eq!(found, expected);
        spans += found.len();
        scored += rewards(&tokens).len();
    }
    assert!(
        scored > 20 && spans > 2,
        "{scored} tokens scored, {spans} spans"
    );
}

#[tokio::test]
async fn log_probabilities_and_rewards_are_those_of_one_pass_over_the_whole_answer() {
    let house = House::new(2);
    let handle = house.engine(4);
    for seed in [0, 2, 3, 5] {
        let request = Request {
            max_tokens: 24,
            ..house.request(seed)
        };
        let (_, tokens, _) = listen(handle.submit(request.clone()).unwrap()).await;
        let mut ids = request.prompt.tokens.clone();
        ids.extend(tokens.iter().map(|t| t.token.id));
        let mut cache = house.vlm.new_cache(1, 128, 128).unwrap();
        let row = Row {
            spans: &request.prompt.images,
            images: &request.images,
            ..Row::text(0, 0, &ids)
        };
        let outputs = Outputs {
            logits: Logits::All,
            hidden_layers: house.reward.taps(),
        };
        let out = house.vlm.forward(&[row], &mut cache, outputs).unwrap();
        let logits = out.logits.unwrap().to_vec2::<f32>().unwrap();
        let before = request.prompt.tokens.len();
        let logprobs: Vec<f32> = tokens
            .iter()
            .zip(&logits[before - 1..])
            .map(|(t, l)| l[t.token.id as usize] - l.iter().map(|l| l.exp()).sum::<f32>().ln())
            .collect();
        assert!(near(
            &tokens.iter().map(|t| t.token.logprob).collect::<Vec<_>>(),
            &logprobs
        ));
        let rewards = house.reward.rewards(&out.hidden.unwrap()).unwrap();
        assert!(tokens.len() > 3);
        assert!(near(
            &tokens.iter().map(|t| t.reward.unwrap()).collect::<Vec<_>>(),
            &rewards[before..]
        ));
    }
}

#[tokio::test]
async fn an_image_from_the_cache_gives_the_same_answer() {
    let house = House::new(3);
    let (handle, images) = (
        house.engine(2),
        ImageCache::new(house.vlm.clone(), 1 << 20, 1),
    );
    let mut answers = Vec::new();
    for expected_hit in [false, true] {
        let scope = CacheScope::Owner("a".into());
        let file = HashedFile::new(b"the file's bytes".to_vec());
        let (options, share) = (ImageOptions::default(), Share::default());
        let pixels = || Ok::<_, Infallible>(pixels(7));
        let encoded = images.get(&file, &options, &scope, &share, pixels);
        let encoded = encoded.await.unwrap();
        assert_eq!(encoded.hit, expected_hit);
        answers.push(
            listen(
                handle
                    .submit(Request {
                        images: vec![encoded.image],
                        ..house.request(7)
                    })
                    .unwrap(),
            )
            .await,
        );
    }
    answers.push(listen(handle.submit(house.request(7)).unwrap()).await);
    let (text, tokens, end) = &answers[0];
    let logprobs = |tokens: &[GeneratedToken]| -> Vec<f32> {
        let likely = tokens.iter().flat_map(|t| t.top.iter().chain([&t.token]));
        likely.map(|token| token.logprob).collect()
    };
    for (other_text, other_tokens, other_end) in &answers[1..] {
        assert_eq!((other_text, other_end), (text, end));
        // The weights are variables, whose products depend on the number of rows.
        assert!(near(&logprobs(other_tokens), &logprobs(tokens)));
    }
}

#[tokio::test]
async fn clients_that_leave_leave_nothing_behind_and_a_drain_ends_well() {
    let house = House::new(4);
    let handle = house.engine(3);
    let (expected, ..) = listen(handle.submit(house.request(9)).unwrap()).await;
    let stays = handle.submit(house.request(9)).unwrap();
    for seed in 0..12 {
        let mut stream = handle.submit(house.request(seed)).unwrap();
        if seed % 2 == 0 {
            stream.next().await;
        }
    }
    let last = handle.submit(house.request(9)).unwrap();
    handle.drain(Duration::from_secs(300)).await;
    assert_eq!(listen(stays).await.0, expected);
    assert_eq!(listen(last).await.0, expected);
    assert!(!expected.is_empty());
    let health = handle.health();
    assert_eq!(
        (
            health.running,
            health.waiting,
            health.kv_usage,
            health.accepting
        ),
        (0, 0, 0.0, false)
    );
}
