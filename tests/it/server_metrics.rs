//! The metrics against what clients were shown.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::Path,
    sync::atomic::Ordering::SeqCst,
    thread,
    time::Duration,
};

use candor::{guard::words::words, lexicon::Lexicon};
use serde_json::{Value, json};

use crate::{
    http::{JSON, connect, exchange, get, read, read_until, request},
    served::{Served, about, and, ask, data_url, eventually},
    server_life::send,
};

type Samples = BTreeMap<String, f64>;

/// Every sample of a server, by its name with its labels.
fn scrape(served: &Served) -> Samples {
    let text = get(served.at, "/metrics");
    let lines = text.text().lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// Series of answers: they count what was shown, and nothing else may move them.
const OF_ANSWERS: [&str; 13] = [
    "candor_request_success_total",
    "candor_request_failure_total",
    "candor_responses_total",
    "candor_prompt_tokens_total",
    "candor_generation_tokens_total",
    "candor_candidate_tokens_total",
    "candor_token_reward",
    "candor_scored_tokens_total",
    "candor_flagged_tokens_total",
    "candor_flagged_spans_total",
    "candor_repair_",
    "candor_time_to_first_token_seconds_count",
    "candor_e2e_request_latency_seconds_count",
];

/// What has grown of the series of answers. Sums of rewards are rounded, as they are added up in
/// another order.
fn grown(before: &Samples, after: &Samples) -> Samples {
    let of_answers = after
        .iter()
        .filter(|(name, _)| OF_ANSWERS.iter().any(|prefix| name.starts_with(prefix)));
    let grown =
        of_answers.map(|(name, value)| (name.clone(), value - before.get(name).unwrap_or(&0.0)));
    grown
        .filter(|(_, value)| value.abs() > 1e-9)
        .map(|(name, value)| (name, (value * 1e4).round() / 1e4))
        .collect()
}

/// Bytes and reward of each token.
type Tokens = Vec<(Vec<u8>, Option<f32>)>;

/// What a client was shown of one completion.
#[derive(Debug, Default)]
struct Shown {
    /// Of each choice: the finish reason, the guard's report, its tokens.
    choices: Vec<(String, Value, Tokens)>,
    usage: Value,
}

fn tokens_of(logprobs: &Value) -> Tokens {
    let bytes = |token: &Value| {
        token["bytes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|byte| byte.as_u64().unwrap() as u8)
            .collect()
    };
    let tokens = logprobs["content"].as_array().into_iter().flatten();
    tokens
        .map(|token| {
            (
                bytes(token),
                token["reward"].as_f64().map(|reward| reward as f32),
            )
        })
        .collect()
}

/// Asks, whole or streamed.
fn shown(served: &Served, body: &Value, stream: bool) -> Shown {
    if !stream {
        let reply = served.chat(body).json();
        let choice = |choice: &Value| {
            (
                choice["finish_reason"].as_str().unwrap().to_owned(),
                choice["guard"].clone(),
                tokens_of(&choice["logprobs"]),
            )
        };
        return Shown {
            choices: reply["choices"]
                .as_array()
                .unwrap()
                .iter()
                .map(choice)
                .collect(),
            usage: reply["usage"].clone(),
        };
    }
    let body = and(
        body.clone(),
        json!({"stream": true, "stream_options": {"include_usage": true}}),
    );
    let mut shown = Shown::default();
    for chunk in served.chat(&body).chunks() {
        for choice in chunk["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            if shown.choices.len() <= index {
                shown.choices.resize(index + 1, Default::default());
            }
            let of = &mut shown.choices[index];
            of.2.extend(tokens_of(&choice["logprobs"]));
            if let Some(reason) = choice["finish_reason"].as_str() {
                (of.0, of.1) = (reason.to_owned(), choice["guard"].clone());
            }
        }
        if chunk["usage"].is_object() {
            shown.usage = chunk["usage"].clone();
        }
    }
    shown
}

/// Tokens of low-reward words.
fn flagged_tokens(tokens: &[(Vec<u8>, Option<f32>)], threshold: f32) -> usize {
    let rewards: Vec<f32> = tokens.iter().map_while(|token| token.1).collect();
    let (_, mut words) = words(tokens.iter().map(|token| token.0.as_slice()), &rewards);
    words.iter_mut().for_each(|word| word.threshold = threshold);
    let low = words
        .iter()
        .filter(|word| word.is_flagged())
        .flat_map(|word| word.tokens.clone());
    low.collect::<std::collections::BTreeSet<_>>().len()
}

/// What the series must have grown by.
fn expected(shown: &Shown, mode: &str, threshold: f32) -> Samples {
    let mut all = Samples::new();
    let mut add = |name: String, value: f64| *all.entry(name).or_default() += value;
    let (mut tokens, mut extra) = (0.0, 0.0);
    for (reason, guard, written) in &shown.choices {
        add(
            format!("candor_request_success_total{{finished_reason=\"{reason}\"}}"),
            1.0,
        );
        add(
            format!(
                "candor_responses_total{{verdict=\"{}\"}}",
                guard["verdict"].as_str().unwrap()
            ),
            1.0,
        );
        add("candor_e2e_request_latency_seconds_count".to_owned(), 1.0);
        add(
            "candor_time_to_first_token_seconds_count".to_owned(),
            f64::from(!written.is_empty()),
        );
        tokens += written.len() as f64;
        extra += guard["extra_tokens"].as_f64().unwrap();
        for reward in written.iter().filter_map(|token| token.1).map(f64::from) {
            add("candor_scored_tokens_total".to_owned(), 1.0);
            add("candor_token_reward_count".to_owned(), 1.0);
            add("candor_token_reward_sum".to_owned(), reward);
            for le in [
                "0.05", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "0.95",
                "0.98", "0.99", "1", "+Inf",
            ] {
                let within = le == "+Inf" || reward <= le.parse().unwrap();
                add(
                    format!("candor_token_reward_bucket{{le=\"{le}\"}}"),
                    f64::from(within),
                );
            }
        }
        if !matches!(mode, "off" | "score") {
            add(
                "candor_flagged_tokens_total".to_owned(),
                flagged_tokens(written, threshold) as f64,
            );
        }
        let spans = guard["spans"].as_array().unwrap();
        for span in spans {
            add(
                format!(
                    "candor_flagged_spans_total{{action=\"{}\"}}",
                    span["action"].as_str().unwrap()
                ),
                1.0,
            );
        }
        let taken = spans
            .iter()
            .filter(|span| span["original"].is_string())
            .count() as f64;
        add(
            "candor_repair_attempts_total{outcome=\"taken\"}".to_owned(),
            taken,
        );
        let dropped = (guard["attempts"].as_f64().unwrap() - taken).max(0.0);
        add(
            "candor_repair_attempts_total{outcome=\"dropped\"}".to_owned(),
            dropped,
        );
    }
    let candidates = shown.usage["completion_tokens"].as_f64().unwrap() - tokens;
    add("candor_generation_tokens_total".to_owned(), tokens);
    add("candor_candidate_tokens_total".to_owned(), candidates);
    add(
        "candor_repair_extra_tokens_total".to_owned(),
        extra - candidates,
    );
    add(
        "candor_prompt_tokens_total".to_owned(),
        shown.usage["prompt_tokens"].as_f64().unwrap(),
    );
    all.into_iter()
        .filter(|(_, value)| value.abs() > 1e-9)
        .map(|(name, value)| (name, (value * 1e4).round() / 1e4))
        .collect()
}

fn photographs() -> Vec<String> {
    let photos = ["astronaut", "cat", "coffee", "photographer"]
        .map(|name| format!("tests/fixtures/photos/{name}.jpg"));
    let all = photos
        .into_iter()
        .chain(["src/serve/docs/example.jpg".to_owned()]);
    all.map(|file| {
        data_url(
            "image/jpeg",
            &fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap(),
        )
    })
    .collect()
}

#[track_caller]
fn assert_same(got: &Samples, want: &Samples, what: &str) {
    // Sums of rewards are added up in another order, and were rounded.
    let close = |a: &f64, b: &f64| (a - b).abs() < 1e-3;
    let same = got.len() == want.len()
        && got
            .iter()
            .zip(want)
            .all(|((a, x), (b, y))| a == b && close(x, y));
    assert!(same, "{what}\ncounted {got:#?}\nshown {want:#?}");
}

/// Forty answers in each mode, some of them two to a request, the best of several, or streamed:
/// every series grows by what the responses say.
#[test]
fn answer_metrics_equal_the_sum_of_the_responses() {
    let served = Served::new();
    let photographs = photographs();
    let questions = [
        "",
        "What is in the picture?",
        "Is there a dog in the picture?",
        "What color is it?",
        "How many people are there?",
    ];
    let mut actions = Samples::new();
    for mode in ["off", "score", "flag", "regenerate", "block"] {
        for (i, photograph) in photographs.iter().enumerate() {
            for (j, question) in questions.iter().enumerate() {
                let number = i * questions.len() + j;
                // The high threshold makes work for every mode.
                let threshold = [0.5f32, 0.9][number % 2];
                let mut guard = json!({"mode": mode, "threshold": threshold});
                if mode != "off" && number % 3 == 2 {
                    guard["candidates"] = json!(3);
                }
                let several = json!({"n": 1 + number % 5 / 2, "temperature": number % 2,
                    "seed": number, "logprobs": true});
                let body = and(
                    and(about(photograph, question), several),
                    json!({"guard": guard, "max_tokens": 24}),
                );
                let before = scrape(&served);
                let shown = shown(&served, &body, number % 4 > 1);
                let counted = grown(&before, &scrape(&served));
                assert_same(
                    &counted,
                    &expected(&shown, mode, threshold),
                    &format!("{mode} {number}"),
                );
                for (name, value) in counted
                    .into_iter()
                    .filter(|(name, _)| name.starts_with("candor_flagged_spans"))
                {
                    *actions.entry(name).or_default() += value;
                }
            }
        }
    }
    for action in ["flagged", "regenerated", "blocked"] {
        assert!(
            actions[&format!("candor_flagged_spans_total{{action=\"{action}\"}}")] > 0.0,
            "{action} was never counted"
        );
    }
}

#[test]
fn flagged_spans_are_counted_by_what_they_are_about() {
    let served = Served::new();
    let before = scrape(&served);
    let (mut objects, mut spans) = (0.0, 0);
    for photograph in photographs() {
        let body = and(about(&photograph, ""), json!({"guard": {"threshold": 0.9}}));
        let reply = served.chat(&body).json();
        for span in reply["choices"][0]["guard"]["spans"].as_array().unwrap() {
            let text = span["text"].as_str().unwrap();
            objects += f64::from(!Lexicon::shared().mentions(text).is_empty());
            spans += 1;
        }
    }
    let after = scrape(&served);
    let grown = |name: &str| -> Samples {
        let of = after.iter().filter(|(series, _)| series.starts_with(name));
        of.map(|(series, value)| (series.clone(), value - before[series]))
            .collect()
    };
    let classes = grown("candor_flagged_class_spans_total");
    assert!(objects > 0.0 && spans > 0);
    assert_eq!(
        classes["candor_flagged_class_spans_total{class=\"object\"}"],
        objects
    );
    assert!(classes.values().sum::<f64>() >= f64::from(spans));
    let names = grown("candor_flagged_name_spans_total");
    assert_eq!(names.len(), 50);
    assert!((1.0..=2.0 * objects).contains(&names.values().sum::<f64>()));
}

#[test]
fn prompts_found_in_the_cache_are_counted() {
    let served = Served::new();
    let count = || {
        let of = |what| served.metric(&format!("candor_prefix_cache_{what}_tokens_total"));
        [of("queries"), of("hits")]
    };
    let mut before = count();
    for (repeat, seed) in [(false, 71), (true, 71), (false, 72)] {
        let usage = served.chat(&ask(seed, "")).json()["usage"].clone();
        let after = count();
        let prompt = usage["prompt_tokens"].as_f64().unwrap();
        assert_eq!(after[0] - before[0], prompt);
        let found = after[1] - before[1];
        assert_eq!(found > 0.5 * prompt, repeat, "{found} of {prompt}");
        assert!(found < prompt);
        before = after;
    }
}

#[test]
fn load_is_shown_under_the_names_of_vllm_if_wanted() {
    let gauge = |served: &Served, name: &str| {
        let series = format!("vllm:{name}{{model_name=\"candor-mini\"}}");
        scrape(served).get(&series).copied()
    };
    assert_eq!(gauge(&Served::new(), "num_requests_running"), None);
    let served = Served::with(|config| {
        config.metrics.vllm_names = true;
        (config.engine.max_batch, config.engine.max_waiting) = (1, 2);
    });
    served.valve.allow(0);
    let clients: Vec<_> = (1..=3).map(|seed| send(&served, &ask(seed, ""))).collect();
    let load = || ["num_requests_running", "num_requests_waiting"].map(|name| gauge(&served, name));
    eventually("one runs and two wait", || load() == [Some(1.0), Some(2.0)]);
    assert!(gauge(&served, "kv_cache_usage_perc").is_some());
    served.valve.open();
    for mut client in clients {
        assert_eq!(read(&mut client).status, 200);
    }
    eventually("nothing runs", || load() == [Some(0.0), Some(0.0)]);
}

/// Such answers have no log-probabilities: their tokens are those of the same answers with their
/// flagged words left standing.
#[test]
fn hedged_and_omitted_spans_are_counted_by_action() {
    let served = Served::new();
    for (i, photograph) in photographs().iter().enumerate() {
        for mode in ["flag", "regenerate"] {
            for (on_exhausted, action) in [("hedge", "hedged"), ("omit", "omitted")] {
                for stream in [false, true] {
                    let of = |on_exhausted: &str| {
                        let guard = json!({"mode": mode, "threshold": 0.9,
                            "on_exhausted": on_exhausted, "window": 1000});
                        let body = and(about(photograph, ""), json!({"seed": i, "guard": guard}));
                        let before = scrape(&served);
                        let shown = shown(&served, &body, stream);
                        (shown, grown(&before, &scrape(&served)))
                    };
                    let (plain, mut want) = of("flag");
                    let (rewritten, counted) = of(on_exhausted);
                    let report = |shown: &Shown| shown.choices[0].1.clone();
                    let low = report(&plain)["spans"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .filter(|span| span["action"] == "flagged")
                        .count();
                    // What the guard says is another matter, and so is where an original stands.
                    let verdict = |shown: &Shown| {
                        format!(
                            "candor_responses_total{{verdict=\"{}\"}}",
                            report(shown)["verdict"].as_str().unwrap()
                        )
                    };
                    want.remove(&verdict(&plain));
                    want.insert(verdict(&rewritten), 1.0);
                    if let Some(spans) =
                        want.remove("candor_flagged_spans_total{action=\"flagged\"}")
                    {
                        want.insert(
                            format!("candor_flagged_spans_total{{action=\"{action}\"}}"),
                            spans,
                        );
                    }
                    assert_eq!(
                        report(&rewritten)["spans"]
                            .as_array()
                            .unwrap()
                            .iter()
                            .filter(|span| span["action"] == action)
                            .count(),
                        low
                    );
                    let no_attempts = |samples: &Samples| {
                        let rest = samples
                            .iter()
                            .filter(|(name, _)| !name.starts_with("candor_repair_attempts"));
                        rest.map(|(name, value)| (name.clone(), *value))
                            .collect::<Samples>()
                    };
                    assert_same(
                        &no_attempts(&counted),
                        &no_attempts(&want),
                        &format!("{mode} {on_exhausted} {i} {stream}"),
                    );
                    let attempts = |samples: &Samples| {
                        samples
                            .iter()
                            .filter(|(name, _)| name.starts_with("candor_repair_attempts"))
                            .map(|(_, value)| value)
                            .sum::<f64>()
                    };
                    assert_eq!(
                        attempts(&counted),
                        report(&rewritten)["attempts"].as_f64().unwrap()
                    );
                }
            }
        }
    }
}

#[test]
fn scored_texts_have_separate_metrics() {
    let served = Served::new();
    let image = photographs().swap_remove(1);
    let before = scrape(&served);
    let mut tokens = 0.0;
    for mode in ["score", "flag"] {
        let items: Vec<Value> = ["A cat.", "A purple dog on a frisbee.", "!"]
            .iter()
            .map(|text| json!({"image_url": image, "response": text}))
            .collect();
        let body = json!({"model": "candor-mini", "items": items,
            "guard": {"mode": mode, "threshold": 0.9}});
        let raw = request("POST", "/v1/score", &[JSON], body.to_string().as_bytes());
        let reply = exchange(served.at, &raw);
        assert_eq!(reply.status, 200, "{}", reply.text());
        tokens += reply.json()["usage"]["completion_tokens"].as_f64().unwrap();
    }
    let after = scrape(&served);
    assert_same(&grown(&before, &after), &Samples::new(), "/v1/score");
    let grown = |name: &str| after[name] - before[name];
    assert_eq!(grown("candor_scored_text_tokens_total"), tokens);
    assert!(tokens > 0.0 && grown("candor_scored_text_seconds_count") >= 2.0);
    assert_eq!(
        grown("candor_scored_texts_total{verdict=\"flagged\"}")
            + grown("candor_scored_texts_total{verdict=\"clean\"}"),
        4.0
    );
    assert_eq!(
        grown("candor_scored_texts_total{verdict=\"unscored\"}"),
        2.0
    );
    assert_eq!(
        (
            grown("candor_score_seconds_count"),
            grown("candor_engine_token_reward_count")
        ),
        (0.0, 0.0)
    );
}

/// A stream that its client leaves is counted as far as it was sent, and a whole answer not at all.
#[test]
fn aborted_answer_is_counted_as_far_as_sent() {
    let served = Served::new();
    let body = and(
        ask(1, ""),
        json!({"logprobs": true, "guard": {"threshold": 1.0}, "max_tokens": 40}),
    );
    let before = scrape(&served);
    served.valve.allow(0);
    let mut client = connect(served.at);
    let streamed = and(body.clone(), json!({"stream": true}));
    client
        .write_all(&request(
            "POST",
            "/v1/chat/completions",
            &[JSON],
            streamed.to_string().as_bytes(),
        ))
        .unwrap();
    let stands = || served.valve.stands.load(SeqCst);
    for _ in 0..8 {
        eventually("the engine stands still", stands);
        served.valve.allow(1);
        // Readings wait for each other, but not for long.
        thread::sleep(Duration::from_millis(8));
    }
    let mut text = read_until(&mut client, "\"bytes\"");
    eventually("the engine stands still", stands);
    // What it has let go arrives, and no more.
    client
        .set_read_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let mut more = [0; 4096];
    while let Ok(n @ 1..) = client.read(&mut more) {
        text.push_str(&String::from_utf8_lossy(&more[..n]));
    }
    let shown: Vec<_> = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .flat_map(|chunk| tokens_of(&chunk["choices"][0]["logprobs"]))
        .collect();
    drop(client);
    let aborted = || {
        scrape(&served)["candor_request_success_total{finished_reason=\"abort\"}"]
            - before["candor_request_success_total{finished_reason=\"abort\"}"]
    };
    eventually("it is counted", || aborted() == 1.0);
    served.valve.open();
    eventually("nothing runs", || {
        served.metric("candor_requests_running") == 0.0
    });
    let counted = grown(&before, &scrape(&served));
    let of = |name: &str| counted.get(name).copied().unwrap_or(0.0);
    assert!(!shown.is_empty());
    assert_eq!(of("candor_generation_tokens_total"), shown.len() as f64);
    assert_eq!(of("candor_token_reward_count"), shown.len() as f64);
    assert_eq!(
        of("candor_flagged_tokens_total"),
        flagged_tokens(&shown, 1.0) as f64
    );
    assert_eq!(
        (
            of("candor_time_to_first_token_seconds_count"),
            of("candor_e2e_request_latency_seconds_count")
        ),
        (1.0, 0.0)
    );
    assert_eq!(of("candor_prompt_tokens_total"), 0.0);

    let before = scrape(&served);
    served.valve.allow(5);
    let mut client = connect(served.at);
    client
        .write_all(&request(
            "POST",
            "/v1/chat/completions",
            &[JSON],
            body.to_string().as_bytes(),
        ))
        .unwrap();
    eventually("it is being written", || {
        served.metric("candor_requests_running") == 1.0
    });
    drop(client);
    eventually("nobody is answered", || {
        served.metric(
            "candor_http_requests_in_flight{method=\"POST\",route=\"/v1/chat/completions\"}",
        ) == 0.0
    });
    served.valve.open();
    eventually("nothing runs", || {
        served.metric("candor_requests_running") == 0.0
    });
    let want = Samples::from([(
        "candor_request_success_total{finished_reason=\"abort\"}".to_owned(),
        1.0,
    )]);
    assert_same(&grown(&before, &scrape(&served)), &want, "a whole answer");
}

#[test]
fn labels_exist_before_the_first_request() {
    let served = Served::new();
    let samples = scrape(&served);
    let labels = [
        (
            "responses_total",
            "verdict",
            &[
                "clean",
                "flagged",
                "repaired",
                "blocked",
                "unscored",
                "abstained",
            ][..],
        ),
        (
            "scored_texts_total",
            "verdict",
            &[
                "clean",
                "flagged",
                "repaired",
                "blocked",
                "unscored",
                "abstained",
            ],
        ),
        (
            "flagged_spans_total",
            "action",
            &["flagged", "regenerated", "hedged", "omitted", "blocked"],
        ),
        (
            "request_success_total",
            "finished_reason",
            &["stop", "length", "content_filter", "abort"],
        ),
        (
            "request_failure_total",
            "reason",
            &["queue_full", "invalid", "shutting_down", "scorer", "model"],
        ),
        (
            "flagged_class_spans_total",
            "class",
            &[
                "object",
                "attribute",
                "count",
                "action",
                "relation",
                "other",
            ],
        ),
        ("repair_attempts_total", "outcome", &["taken", "dropped"]),
        ("feedback_total", "label", &["bad", "good", "missing"]),
        (
            "annotation_queue_length",
            "state",
            &["open", "leased", "unassisted", "done", "skipped"],
        ),
    ];
    for (name, label, values) in labels {
        for value in values {
            let series = format!("candor_{name}{{{label}=\"{value}\"}}");
            assert_eq!(samples.get(&series), Some(&0.0), "{series}");
        }
        assert_eq!(
            samples
                .keys()
                .filter(|key| key.starts_with(&format!("candor_{name}{{")))
                .count(),
            values.len(),
            "{name}"
        );
    }
    assert_same(
        &grown(&Samples::new(), &samples),
        &Samples::new(),
        "the server's own first caption",
    );
    for route in candor::serve::ROUTES.iter().chain(candor::serve::METRICS) {
        let labels = format!("{{method=\"{}\",route=\"{}\"}}", route.method, route.path);
        assert!(
            samples.contains_key(&format!(
                "candor_http_request_duration_seconds_count{labels}"
            )),
            "{labels}"
        );
    }
}

#[test]
fn threshold_metrics_equal_the_thresholds_in_force() {
    let served = Served::with(|c| c.guard.thresholds.object = candor::config::Auto::Value(0.75));
    let guard = served.chat(&ask(1, "")).json()["choices"][0]["guard"].clone();
    let samples = scrape(&served);
    let threshold = |kind: &str| samples[&format!("candor_guard_threshold{{kind=\"{kind}\"}}")];
    assert!(
        (threshold("common") - guard["threshold"].as_f64().unwrap()).abs() < 1e-6,
        "{guard}"
    );
    assert_eq!(
        (threshold("object"), threshold("action")),
        (0.75, threshold("common"))
    );
    assert!((0.0..=1.0).contains(&threshold("yes_no")));
}

#[test]
fn failures_and_refusals_are_counted_once_a_request() {
    let served = Served::with(|c| (c.engine.max_batch, c.engine.max_waiting) = (1, 1));
    let failed = |reason: &str| {
        served.metric(&format!(
            "candor_request_failure_total{{reason=\"{reason}\"}}"
        ))
    };
    assert_eq!(
        served
            .chat(&and(ask(1, ""), json!({"n": 2, "temperature": 1.0})))
            .status,
        200
    );
    served.valve.fails.store(true, SeqCst);
    let before = scrape(&served);
    assert_eq!(served.chat(&ask(1, "")).status, 500);
    let want = Samples::from([(
        "candor_request_failure_total{reason=\"model\"}".to_owned(),
        1.0,
    )]);
    assert_same(&grown(&before, &scrape(&served)), &want, "a failed answer");
    eventually("nothing is being written", || {
        served.metric("candor_requests_running") == 0.0
    });
    served.valve.allow(0);
    let mut held = connect(served.at);
    let body = and(ask(1, ""), json!({"n": 2}));
    held.write_all(&request(
        "POST",
        "/v1/chat/completions",
        &[JSON],
        body.to_string().as_bytes(),
    ))
    .unwrap();
    eventually("one is being written", || {
        served.metric("candor_requests_running") == 1.0
    });
    eventually("the engine is full", || {
        served.chat(&ask(3, "")).status == 429
    });
    assert!(failed("queue_full") >= 1.0);
    served.valve.open();
}

#[test]
fn http_duration_lasts_to_the_end_of_the_response() {
    let served = Served::new();
    let body = and(ask(1, ""), json!({"stream": true})).to_string();
    let series = |name: &str, method: &str, route: &str| {
        served.metric(&format!(
            "candor_http_{name}{{method=\"{method}\",route=\"{route}\"}}"
        ))
    };
    let chat = |name: &str| series(name, "POST", "/v1/chat/completions");
    served.valve.allow(2);
    let mut client = connect(served.at);
    client
        .write_all(&request(
            "POST",
            "/v1/chat/completions",
            &[JSON],
            body.as_bytes(),
        ))
        .unwrap();
    read_until(&mut client, "\"role\":\"assistant\"");
    assert_eq!(
        (
            chat("requests_in_flight"),
            chat("request_duration_seconds_count")
        ),
        (1.0, 0.0)
    );
    served.valve.open();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    eventually("it is at its end", || {
        chat("request_duration_seconds_count") == 1.0
    });
    assert_eq!(
        (chat("requests_in_flight"), chat("request_body_bytes_total")),
        (0.0, body.len() as f64)
    );
    assert!(chat("response_body_bytes_total") > 500.0);
    // Whatever clients make up is one series.
    for (method, path) in [
        ("GET", "/a"),
        ("GET", "/v1/b?c=d"),
        ("BREW", "/pot"),
        ("BREW", "/health/live"),
    ] {
        assert!(exchange(served.at, &request(method, path, &[], b"")).status >= 400);
    }
    let reply = exchange(served.at, &request("HEAD", "/health/live", &[], b""));
    assert_eq!(
        (
            reply.status,
            reply.body.len(),
            reply.header("content-length")
        ),
        (200, 0, Some("15"))
    );
    let at = |method: &str, route: &str| series("request_duration_seconds_count", method, route);
    eventually("they are counted", || at("HEAD", "/health/live") == 1.0);
    assert_eq!(
        (
            at("GET", "none"),
            at("other", "none"),
            at("other", "/health/live")
        ),
        (2.0, 1.0, 1.0)
    );
    let text = get(served.at, "/metrics").text().to_owned();
    assert!(!text.contains("BREW") && !text.contains("/pot"), "{text}");
    assert_eq!(
        served.metric("candor_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"}"),
        1.0
    );
}

/// Metrics that show only once there is something to tell.
const LATER: [&str; 3] = [
    "candor_feedback_agreement_ratio",
    "candor_shadow_reward",
    "candor_shadow_flagged_spans",
];

#[test]
fn metrics_table_of_the_documents_is_complete() {
    let served = Served::with(|config| config.metrics.vllm_names = true);
    get(served.at, "/health");
    let text = get(served.at, "/metrics").text().to_owned();
    let types = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE "))
        .map(|line| line.split_once(' ').unwrap());
    let shown: BTreeMap<String, String> = types
        .map(|(name, kind)| (name.to_owned(), kind.to_owned()))
        .collect();
    let docs = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"))
        .unwrap();
    let rows = docs
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let metric = |(name, rest): (&str, &str)| {
        let known = ["candor_", "process_", "vllm:"]
            .iter()
            .any(|prefix| name.starts_with(prefix));
        let (name, labels) = name.split_once('{').map_or((name, ""), |(name, labels)| {
            (name, labels.trim_end_matches('}'))
        });
        known.then(|| {
            (
                name.to_owned(),
                (
                    labels.to_owned(),
                    rest.split(" | ").next().unwrap().to_owned(),
                ),
            )
        })
    };
    let described: BTreeMap<String, (String, String)> = rows.filter_map(metric).collect();
    for (name, kind) in &shown {
        let (labels, described) = described
            .get(name)
            .unwrap_or_else(|| panic!("docs/operations.md does not have {name}"));
        assert_eq!(described, kind, "{name}");
        let sample = text.lines().find(|line| {
            line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name}_sum{{"))
        });
        let inner = sample
            .and_then(|line| line.split_once('{'))
            .and_then(|(_, rest)| rest.rsplit_once('}'));
        let mut has: Vec<&str> = inner
            .into_iter()
            .flat_map(|(inner, _)| inner.split("\","))
            .map(|label| label.split('=').next().unwrap())
            .collect();
        let mut said: Vec<&str> = labels
            .split(',')
            .filter(|label| !label.is_empty())
            .collect();
        has.sort_unstable();
        said.sort_unstable();
        assert_eq!(said, has, "{name}");
    }
    let gone: Vec<_> = described
        .keys()
        .filter(|name| !shown.contains_key(*name) && !LATER.contains(&name.as_str()))
        .collect();
    assert!(gone.is_empty(), "only docs/operations.md has {gone:?}");
}
