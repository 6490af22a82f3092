//! Admission, cancellation, failures and shutdown of the engine with the toy model. A gate in the
//! model holds every step until the test releases it, so no test depends on time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::Sender,
    },
    time::Duration,
};

use super::fair::Share;
use super::testing::{
    ANY, ReceivedEvents, SeenRow, Toy, ToyReward, collect_events, engine, request, start,
};
use super::*;
use crate::{
    guard::{Mode, Verdict},
    vlm::prompt::Prompt,
};

/// Starts an engine whose steps the test releases one by one.
fn gated(config: EngineConfig) -> (EngineHandle, Arc<Toy>, Sender<()>) {
    let (toy, gate) = Toy::gated();
    (start(&toy, &Arc::default(), config), toy, gate)
}

/// Waits for a condition that another thread makes true.
fn wait_until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// Releases `n` steps and waits until they have run.
fn run_steps(toy: &Toy, gate: &Sender<()>, n: usize) {
    let before = toy.steps();
    (0..n).for_each(|_| gate.send(()).unwrap());
    wait_until(|| toy.steps() == before + n);
}

/// Returns a request with a long answer.
fn long(image: f32) -> Request {
    Request {
        max_tokens: 100,
        sampling: Sampling {
            temperature: 3.0,
            seed: 5,
            ..Sampling::default()
        },
        ..request(image, &[5])
    }
}

#[test]
fn a_disconnect_frees_the_slot_before_the_next_step() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let first = handle.submit(request(1.0, &[5])).unwrap();
    wait_until(|| handle.health().running == 1);
    let second = handle.submit(request(2.0, &[6, 6])).unwrap();
    drop(first);
    run_steps(&toy, &gate, 2);
    let log = toy.log.lock().unwrap().clone();
    assert_eq!(log[0], [(0, 0, vec![5])]);
    assert_eq!(
        log[1],
        [(0, 0, vec![6, 6])],
        "the second request has the slot in the step after the first left"
    );
    (0..60).for_each(|_| gate.send(()).unwrap());
    assert_eq!(
        collect_events(second),
        collect_events(
            engine(EngineConfig::default())
                .submit(request(2.0, &[6, 6]))
                .unwrap()
        )
    );
}

#[test]
fn a_waiting_request_of_a_disconnected_client_never_runs() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        max_waiting: 2,
        ..EngineConfig::default()
    });
    let running = handle.submit(request(1.0, &[5])).unwrap();
    wait_until(|| handle.health().running == 1);
    drop(handle.submit(request(2.0, &[6])).unwrap());
    let last = handle.submit(request(3.0, &[7])).unwrap();
    assert!(matches!(
        handle.submit(request(4.0, &[8])),
        Err(EngineError::QueueFull {
            waiting: 2,
            retry_after_s: 1
        })
    ));
    run_steps(&toy, &gate, 1);
    wait_until(|| handle.health().waiting == 1);
    let late = handle.submit(request(4.0, &[8])).unwrap();
    drop(gate);
    for stream in [running, last, late] {
        collect_events(stream).end.unwrap();
    }
    let prompts: Vec<Vec<u32>> = toy
        .log
        .lock()
        .unwrap()
        .iter()
        .flatten()
        .filter(|r| r.1 == 0)
        .map(|r| r.2.clone())
        .collect();
    assert_eq!(prompts, [vec![5], vec![7], vec![8]]);
}

#[test]
fn a_reservation_counts_as_waiting_until_dropped() {
    let handle = engine(EngineConfig {
        max_batch: 1,
        max_waiting: 0,
        ..EngineConfig::default()
    });
    let reservation = handle.reserve(&Share::default()).unwrap();
    assert_eq!(handle.health().waiting, 1);
    assert!(matches!(
        handle.submit(request(1.0, &[5])),
        Err(EngineError::QueueFull { .. })
    ));
    let bad = Request {
        prompt: std::sync::Arc::default(),
        ..request(1.0, &[5])
    };
    assert!(matches!(
        reservation.submit(bad),
        Err(EngineError::Invalid(_))
    ));
    collect_events(
        handle
            .reserve(&Share::default())
            .unwrap()
            .submit(request(1.0, &[5]))
            .unwrap(),
    )
    .end
    .unwrap();
}

/// Returns a competitor's requests with this prompt whose answers have at least `tokens` tokens.
fn requests_with_long_answers(
    who: &str,
    prompt: u32,
    tokens: usize,
) -> impl Iterator<Item = Request> {
    let (handle, share) = (engine(EngineConfig::default()), Share::new(who, 1));
    let requests = (0..500).map(move |image| Request {
        share: share.clone(),
        ..request(image as f32, &[prompt])
    });
    requests.filter(move |request| {
        collect_events(handle.submit(request.clone()).unwrap())
            .tokens
            .len()
            >= tokens
    })
}

#[test]
fn a_late_competitor_of_a_full_engine_runs_at_once_and_in_every_step() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 2,
        max_waiting: 3,
        ..EngineConfig::default()
    });
    let mut requests = requests_with_long_answers("greedy", 5, 9);
    let mut submit = || handle.submit(requests.next().unwrap());
    let mut greedy = vec![submit().unwrap()];
    wait_until(|| handle.health().running == 1);
    greedy.extend((0..4).map(|_| submit().unwrap()));
    run_steps(&toy, &gate, 1);
    wait_until(|| handle.health().running == 2);
    assert!(matches!(
        submit(),
        Err(EngineError::QueueFull { waiting: 3, .. })
    ));
    let late = requests_with_long_answers("late", 6, 9).next().unwrap();
    let alone = collect_events(
        engine(EngineConfig::default())
            .submit(late.clone())
            .unwrap(),
    );
    let late = handle.submit(late).unwrap();
    run_steps(&toy, &gate, 1);
    wait_until(|| handle.health().running == 3);
    drop(gate);
    assert_eq!(collect_events(late), alone);
    greedy
        .into_iter()
        .for_each(|stream| collect_events(stream).end.map(|_| ()).unwrap());
    let log = toy.log.lock().unwrap();
    let joined = log
        .iter()
        .position(|rows| rows.iter().any(|row| row.1 == 0 && row.2 == [6]))
        .unwrap();
    assert_eq!(joined, 2, "the first step after it came: {log:?}");
    let slot = log[joined].iter().find(|row| row.2 == [6]).unwrap().0;
    let steps: Vec<usize> = (joined..log.len())
        .filter(|&i| log[i].iter().any(|row| row.0 == slot))
        .take(alone.tokens.len())
        .collect();
    assert_eq!(
        steps,
        (joined..joined + steps.len()).collect::<Vec<_>>(),
        "it is computed in every step"
    );
    assert!(
        steps.iter().any(|&i| log[i].len() == 1),
        "and some steps are its own: {log:?}"
    );
}

#[test]
fn a_completion_with_many_answers_does_not_block_later_requests() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        max_prefills: 1,
        ..EngineConfig::default()
    });
    let many = |rank: usize| {
        handle
            .submit(Request {
                rank,
                max_tokens: 1,
                ..request(rank as f32, &[7])
            })
            .unwrap()
    };
    let mut streams = vec![many(0)];
    wait_until(|| handle.health().running == 1);
    streams.extend((1..12).map(many));
    streams.push(
        handle
            .submit(Request {
                max_tokens: 1,
                ..request(1.0, &[8])
            })
            .unwrap(),
    );
    drop(gate);
    streams
        .into_iter()
        .for_each(|stream| collect_events(stream).end.map(|_| ()).unwrap());
    let prompts: Vec<u32> = toy
        .log
        .lock()
        .unwrap()
        .iter()
        .flatten()
        .filter(|row| row.1 == 0)
        .map(|row| row.2[0])
        .collect();
    assert_eq!(prompts.len(), 13);
    assert_eq!(
        prompts.iter().position(|&prompt| prompt == 8),
        Some(3),
        "{prompts:?}"
    );
}

#[test]
fn a_step_prefills_at_most_max_prefills_prompts() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 8,
        max_prefills: 2,
        ..EngineConfig::default()
    });
    let streams: Vec<EventStream> = (0..6)
        .map(|i| handle.submit(long(i as f32)).unwrap())
        .collect();
    drop(gate);
    streams
        .into_iter()
        .for_each(|s| collect_events(s).end.map(|_| ()).unwrap());
    let log = toy.log.lock().unwrap();
    let joined: Vec<usize> = log
        .iter()
        .map(|rows| rows.iter().filter(|r| r.1 == 0).count())
        .collect();
    assert!(
        joined.iter().all(|&n| n <= 2) && joined.iter().sum::<usize>() == 6,
        "{joined:?}"
    );
    assert!(
        log.iter()
            .any(|rows| rows.iter().any(|r| r.1 == 0) && rows.iter().any(|r| r.1 > 0)),
        "prompts and decodes share a step"
    );
}

#[test]
fn a_model_error_fails_new_sequences_or_the_batch_but_not_the_engine() {
    let (handle, toy, gate) = gated(EngineConfig::default());
    let first = handle.submit(long(1.0)).unwrap();
    wait_until(|| handle.health().running == 1);
    run_steps(&toy, &gate, 1);
    // `<user>`, which the model never generates.
    toy.fails_on.store(2, SeqCst);
    let broken = handle.submit(request(2.0, &[2])).unwrap();
    // The second step may have been assembled before the submission; then the third has the new
    // request.
    run_steps(&toy, &gate, 2);
    assert_eq!(
        collect_events(broken).end,
        Err(EngineError::Model("token 2 broke the model".to_owned()))
    );
    toy.fails_on.store(ANY, SeqCst);
    drop(gate);
    assert_eq!(
        collect_events(first).end,
        Err(EngineError::Model(format!("token {ANY} broke the model")))
    );
    toy.fails_on.store(usize::MAX, SeqCst);
    collect_events(handle.submit(request(3.0, &[5])).unwrap())
        .end
        .unwrap();
}

#[test]
fn a_panic_in_a_step_fails_its_requests_but_not_the_engine() {
    let toy = Toy::new();
    let handle = start(
        &toy,
        &Arc::default(),
        EngineConfig {
            max_batch: 2,
            ..EngineConfig::default()
        },
    );
    toy.panics.store(true, SeqCst);
    let error = collect_events(handle.submit(request(1.0, &[5])).unwrap())
        .end
        .unwrap_err();
    assert_eq!(
        error,
        EngineError::Model("internal error: the model panicked".to_owned())
    );
    let after = collect_events(handle.submit(request(1.0, &[5])).unwrap());
    assert_eq!(
        after,
        collect_events(
            engine(EngineConfig::default())
                .submit(request(1.0, &[5]))
                .unwrap()
        )
    );
    assert!(handle.health().accepting);
}

/// Token that the model never writes: a prompt of it is told from answers.
const UNWRITTEN: u32 = 2;

/// Starts a request with a long answer, and then one with a long prompt beside it, which is read in
/// parts of four positions; runs both to their ends. Returns what they received, and what they
/// receive alone and unbroken.
fn long_prompt_beside_an_answer(
    toy: &Arc<Toy>,
    gate: Sender<()>,
    prompt: &[u32],
) -> [(ReceivedEvents, ReceivedEvents); 2] {
    let config = EngineConfig {
        prefill_chunk: Some(4),
        ..EngineConfig::default()
    };
    let handle = start(toy, &Arc::default(), config);
    let writing = requests_with_long_answers("", 5, 9).next().unwrap();
    let reading = request(3.0, prompt);
    let first = handle.submit(writing.clone()).unwrap();
    wait_until(|| handle.health().running == 1);
    run_steps(toy, &gate, 1);
    let second = handle.submit(reading.clone()).unwrap();
    drop(gate);
    let alone = |request| collect_events(engine(EngineConfig::default()).submit(request).unwrap());
    let both = [(first, writing), (second, reading)];
    let both = both.map(|(stream, request)| (collect_events(stream), alone(request)));
    wait_until(|| handle.health().idle);
    assert_eq!(handle.health().kv_usage, 0.0);
    both
}

#[test]
fn an_answer_gets_a_token_with_every_part_of_a_long_prompt() {
    let (toy, gate) = Toy::gated();
    let prompt = [UNWRITTEN; 18];
    for (received, alone) in long_prompt_beside_an_answer(&toy, gate, &prompt) {
        assert_eq!(received, alone);
    }
    let log = toy.log.lock().unwrap();
    let is_part = |row: &&SeenRow| row.2.contains(&UNWRITTEN);
    let steps = log
        .iter()
        .filter(|rows| rows.iter().any(|row| is_part(&row)));
    let steps: Vec<_> = steps.collect();
    let parts: Vec<(usize, usize)> = steps
        .iter()
        .flat_map(|rows| rows.iter().filter(is_part))
        .map(|row| (row.1, row.2.len()))
        .collect();
    // The image takes the first two positions of the first part.
    assert_eq!(parts, [(0, 2), (4, 4), (8, 4), (12, 4), (16, 4)]);
    assert!(steps.iter().all(|rows| rows.len() == 2), "{log:?}");
}

#[test]
fn a_model_error_within_a_prompt_fails_that_request_alone() {
    let (toy, gate) = Toy::gated();
    let prompt = [[5; 9], [UNWRITTEN; 9]].concat();
    toy.fails_on.store(UNWRITTEN as usize, SeqCst);
    let [(writing, alone), (reading, _)] = long_prompt_beside_an_answer(&toy, gate, &prompt);
    assert_eq!(writing, alone);
    let error = EngineError::Model("token 2 broke the model".to_owned());
    assert_eq!(reading.end, Err(error));
    let log = toy.log.lock().unwrap();
    let broke = log
        .iter()
        .flatten()
        .find(|row| row.2.contains(&UNWRITTEN))
        .unwrap();
    assert_eq!((broke.1, broke.2.len()), (8, 4), "the third part");
}

#[test]
fn a_disconnect_within_a_prompt_frees_its_blocks() {
    let (handle, toy, gate) = gated(EngineConfig {
        prefill_chunk: Some(1),
        ..EngineConfig::default()
    });
    let stream = handle.submit(request(1.0, &[5; 18])).unwrap();
    wait_until(|| handle.health().running == 1);
    run_steps(&toy, &gate, 1);
    wait_until(|| handle.health().kv_usage > 0.0);
    drop(stream);
    run_steps(&toy, &gate, 1);
    wait_until(|| handle.health().idle);
    let health = handle.health();
    assert_eq!((health.running, health.kv_usage), (0, 0.0));
    let rows = toy.log.lock().unwrap().concat();
    assert_eq!(rows, [(0, 0, vec![5; 2]), (0, 4, vec![5; 4])]);
    drop(gate);
    let again = collect_events(handle.submit(request(1.0, &[5; 18])).unwrap());
    let alone = engine(EngineConfig::default()).submit(request(1.0, &[5; 18]));
    assert_eq!(again, collect_events(alone.unwrap()));
}

#[test]
fn a_prefix_that_was_read_in_parts_is_reused() {
    let (toy, whole) = (Toy::new(), engine(EngineConfig::default()));
    let config = EngineConfig {
        prefill_chunk: Some(1),
        ..EngineConfig::default()
    };
    let handle = start(&toy, &Arc::default(), config);
    // Six tokens, an image of two positions, and a question.
    let about = |question: u32| {
        let mut prompt = Prompt {
            tokens: [vec![7; 8], vec![question; 7]].concat(),
            images: request(4.0, &[]).prompt.images.clone(),
        };
        prompt.images[0].range = 6..8;
        Request {
            prompt: Arc::new(prompt),
            ..request(4.0, &[])
        }
    };
    for question in [5, 6] {
        let received = collect_events(handle.submit(about(question)).unwrap());
        let expected = collect_events(whole.submit(about(question)).unwrap());
        assert_eq!(received, expected);
    }
    let log = toy.log.lock().unwrap().concat();
    let parts = |question: u32| -> Vec<usize> {
        let behind = log.iter().filter(|row| row.2.contains(&question));
        behind
            .filter(|row| row.2.len() > 1)
            .map(|row| row.2.len())
            .collect()
    };
    assert_eq!((parts(5), parts(6)), (vec![4, 3], vec![4, 3]));
    let begun = log.iter().filter(|row| row.1 == 0 && row.2.is_empty());
    assert_eq!(
        begun.count(),
        2,
        "the parts up to the image's end, once: {log:?}"
    );
}

#[test]
fn answers_that_outgrow_the_cache_wait_for_older_ones_and_none_fails() {
    // Five blocks: each request begins with two, and three are needed for a long answer.
    let (handle, toy, gate) = gated(EngineConfig {
        kv_bytes: 5 * 16 * 8,
        ..EngineConfig::default()
    });
    let alone = engine(EngineConfig::default());
    let requests = (0..500).map(|image| Request {
        max_tokens: 100,
        ..request(image as f32, &[5])
    });
    let answered = requests.map(|r| (r.clone(), collect_events(alone.submit(r).unwrap())));
    let long = answered.filter(|(_, alone)| alone.tokens.len() >= 34);
    let long: Vec<_> = long.take(3).collect();
    assert_eq!(long.len(), 3);
    let mut streams = vec![handle.submit(long[0].0.clone()).unwrap()];
    wait_until(|| handle.health().running == 1);
    let others = long[1..]
        .iter()
        .map(|(r, _)| handle.submit(r.clone()).unwrap());
    streams.extend(others);
    drop(gate);
    for (stream, (_, alone)) in streams.into_iter().zip(&long) {
        assert_eq!(&collect_events(stream), alone);
    }
    let log = toy.log.lock().unwrap();
    assert!(log.iter().all(|rows| rows.len() <= 2), "{log:?}");
    let first = log[0][0].0;
    let second = log.iter().flatten().find(|row| row.0 != first).unwrap().0;
    let steps: Vec<usize> = (0..log.len())
        .filter(|&i| log[i].iter().any(|row| row.0 == second))
        .collect();
    assert!(
        steps.windows(2).any(|pair| pair[1] > pair[0] + 1),
        "the second answer waits for the first to end: {steps:?}"
    );
}

/// Runs a scored and an unscored request with a scorer that breaks before the second token.
fn break_scorer(on_error: OnError, out_of_range: bool) -> (ReceivedEvents, ReceivedEvents) {
    let (toy, gate) = Toy::gated();
    let (reward, counts) = (Arc::new(ToyReward::default()), Arc::new(Counts::default()));
    let handle = start(
        &toy,
        &reward,
        EngineConfig {
            on_error,
            observer: counts.clone(),
            ..EngineConfig::default()
        },
    );
    let off = Request {
        guard: GuardParams::new(Mode::Off, 0.4),
        ..request(1.0, &[5])
    };
    let scored = handle
        .submit(Request {
            max_tokens: 20,
            ..request(4.0, &[5])
        })
        .unwrap();
    let neighbor = handle.submit(off).unwrap();
    run_steps(&toy, &gate, 3);
    wait_until(|| reward.seen.load(SeqCst) >= 2);
    if out_of_range {
        &reward.out_of_range
    } else {
        &reward.fails
    }
    .store(true, SeqCst);
    drop(gate);
    let ended = (collect_events(scored), collect_events(neighbor));
    assert_eq!(
        counts.unscored.load(SeqCst),
        1,
        "the neighbor has no scorer"
    );
    ended
}

#[test]
fn a_broken_scorer_fails_scored_requests_or_leaves_them_unscored() {
    let alone = |mode, image, max_tokens| {
        let guard = GuardParams::new(mode, 0.4);
        collect_events(
            engine(EngineConfig::default())
                .submit(Request {
                    max_tokens,
                    guard,
                    ..request(image, &[5])
                })
                .unwrap(),
        )
    };
    for out_of_range in [false, true] {
        let (scored, neighbor) = break_scorer(OnError::FailClosed, out_of_range);
        assert!(
            matches!(scored.end, Err(EngineError::Scorer(_))),
            "{scored:?}"
        );
        assert_eq!(neighbor, alone(Mode::Off, 1.0, 12));

        let (scored, neighbor) = break_scorer(OnError::FailOpen, out_of_range);
        assert_eq!(scored.text(), alone(Mode::Flag, 4.0, 20).text());
        assert_eq!(scored.report().verdict, Verdict::Unscored);
        assert!(scored.rewards().len() < scored.tokens.len());
        assert_eq!(neighbor.text(), alone(Mode::Off, 1.0, 12).text());
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
        .block_on(future)
}

#[test]
fn a_drain_finishes_accepted_requests_and_rejects_new_ones() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let streams: Vec<EventStream> = (0..3)
        .map(|i| handle.submit(request(i as f32, &[5])).unwrap())
        .collect();
    wait_until(|| handle.health().running == 1);
    let drain = std::thread::spawn({
        let handle = handle.clone();
        move || block_on(handle.drain(Duration::from_secs(600)))
    });
    wait_until(|| !handle.health().accepting);
    assert_eq!(
        handle.submit(request(9.0, &[5])).unwrap_err(),
        EngineError::ShuttingDown
    );
    assert_eq!(toy.steps(), 0);
    drop(gate);
    drain.join().unwrap();
    for stream in streams {
        collect_events(stream).end.unwrap();
    }
    wait_until(|| handle.commands.is_closed());
    assert_eq!(handle.health().running, 0);
}

#[test]
fn a_drain_fails_requests_left_at_its_deadline() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let streams: Vec<EventStream> = (0..2)
        .map(|i| handle.submit(long(i as f32)).unwrap())
        .collect();
    wait_until(|| handle.health().running == 1);
    let drain = std::thread::spawn({
        let handle = handle.clone();
        move || block_on(handle.drain(Duration::ZERO))
    });
    // The step does not end, so the drain stops waiting; the engine fails the rest as soon as it
    // can.
    drain.join().unwrap();
    assert_eq!(toy.steps(), 0);
    drop(gate);
    for stream in streams {
        assert_eq!(collect_events(stream).end, Err(EngineError::ShuttingDown));
    }
}

#[test]
fn an_engine_without_handles_finishes_its_requests_and_stops() {
    let (toy, gate) = Toy::gated();
    let handle = start(&toy, &Arc::default(), EngineConfig::default());
    let stream = handle.submit(request(1.0, &[5])).unwrap();
    drop(handle);
    drop(gate);
    collect_events(stream).end.unwrap();
    wait_until(|| Arc::strong_count(&toy) == 1);
}

#[derive(Default)]
struct Counts {
    tokens: AtomicUsize,
    gaps: AtomicUsize,
    scored: AtomicUsize,
    unscored: AtomicUsize,
}

impl Observer for Counts {
    fn token(&self, gap: Option<Duration>) {
        self.tokens.fetch_add(1, SeqCst);
        self.gaps.fetch_add(usize::from(gap.is_some()), SeqCst);
    }
    fn scorer_failed(&self, answers: usize) {
        self.unscored.fetch_add(answers, SeqCst);
    }
    fn scored(&self, rewards: &[f32], _: Duration) {
        self.scored.fetch_add(rewards.len(), SeqCst);
    }
}

#[test]
fn the_observer_counts_tokens_gaps_and_rewards() {
    let (toy, counts) = (Toy::new(), Arc::new(Counts::default()));
    let handle = start(
        &toy,
        &Arc::default(),
        EngineConfig {
            observer: counts.clone(),
            ..EngineConfig::default()
        },
    );
    let received: Vec<ReceivedEvents> = (0..8)
        .map(|i| collect_events(handle.submit(request(i as f32, &[5])).unwrap()))
        .collect();
    let tokens: usize = received.iter().map(|t| t.tokens.len()).sum();
    let spoke = received.iter().filter(|t| !t.tokens.is_empty()).count();
    assert_eq!(
        (counts.tokens.load(SeqCst), counts.scored.load(SeqCst)),
        (tokens, tokens)
    );
    assert_eq!(counts.gaps.load(SeqCst), tokens - spoke);
    assert!(received.iter().any(|received| received.flagged_tokens > 0));
    for received in received {
        assert_eq!(received.flagged_tokens > 0, !received.spans.is_empty());
        assert!(received.flagged_tokens <= received.tokens.len());
    }
}
