//! The engine against the toy model: who joins, who leaves, what fails, and how it ends. A gate in
//! the model holds every step until the test lets it go, so no test depends on time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::Sender,
    },
    time::Duration,
};

use super::fair::Share;
use super::testing::{ANY, ReceivedEvents, Toy, ToyReward, engine, listen, request, start};
use super::*;
use crate::guard::{Mode, Verdict};

/// An engine whose steps the test lets go one by one.
fn gated(config: EngineConfig) -> (EngineHandle, Arc<Toy>, Sender<()>) {
    let (toy, gate) = Toy::gated();
    (start(&toy, &Arc::default(), config), toy, gate)
}

/// Waits for what another thread is about to make true.
fn until(mut condition: impl FnMut() -> bool) {
    while !condition() {
        std::thread::yield_now();
    }
}

/// Lets `n` steps go, and waits until they have run.
fn go(toy: &Toy, gate: &Sender<()>, n: usize) {
    let before = toy.steps();
    (0..n).for_each(|_| gate.send(()).unwrap());
    until(|| toy.steps() == before + n);
}

/// A request that the model answers at length.
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
fn a_client_that_leaves_frees_its_slot_before_the_next_step() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let first = handle.submit(request(1.0, &[5])).unwrap();
    until(|| handle.health().running == 1);
    let second = handle.submit(request(2.0, &[6, 6])).unwrap();
    drop(first);
    go(&toy, &gate, 2);
    let log = toy.log.lock().unwrap().clone();
    assert_eq!(log[0], [(0, 0, vec![5])]);
    assert_eq!(
        log[1],
        [(0, 0, vec![6, 6])],
        "the second request has the slot in the step after the first left"
    );
    (0..60).for_each(|_| gate.send(()).unwrap());
    assert_eq!(
        listen(second),
        listen(
            engine(EngineConfig::default())
                .submit(request(2.0, &[6, 6]))
                .unwrap()
        )
    );
}

#[test]
fn a_waiting_request_whose_client_left_never_runs() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        max_waiting: 2,
        ..EngineConfig::default()
    });
    let running = handle.submit(request(1.0, &[5])).unwrap();
    until(|| handle.health().running == 1);
    drop(handle.submit(request(2.0, &[6])).unwrap());
    let last = handle.submit(request(3.0, &[7])).unwrap();
    assert!(matches!(
        handle.submit(request(4.0, &[8])),
        Err(EngineError::QueueFull {
            waiting: 2,
            retry_after_s: 1
        })
    ));
    go(&toy, &gate, 1);
    until(|| handle.health().waiting == 1);
    let late = handle.submit(request(4.0, &[8])).unwrap();
    drop(gate);
    for stream in [running, last, late] {
        listen(stream).end.unwrap();
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
fn a_place_counts_until_it_is_given_back() {
    let handle = engine(EngineConfig {
        max_batch: 1,
        max_waiting: 0,
        ..EngineConfig::default()
    });
    let place = handle.reserve(&Share::default()).unwrap();
    assert_eq!(handle.health().waiting, 1);
    assert!(matches!(
        handle.submit(request(1.0, &[5])),
        Err(EngineError::QueueFull { .. })
    ));
    let bad = Request {
        prompt: Vec::new(),
        ..request(1.0, &[5])
    };
    assert!(matches!(place.submit(bad), Err(EngineError::Invalid(_))));
    listen(
        handle
            .reserve(&Share::default())
            .unwrap()
            .submit(request(1.0, &[5]))
            .unwrap(),
    )
    .end
    .unwrap();
}

/// A competitor's requests with this prompt whose answers have at least so many tokens.
fn lasting(who: &str, prompt: u32, tokens: usize) -> impl Iterator<Item = Request> {
    let (handle, share) = (engine(EngineConfig::default()), Share::new(who, 1));
    let asked = (0..500).map(move |image| Request {
        share: share.clone(),
        ..request(image as f32, &[prompt])
    });
    asked.filter(move |request| {
        listen(handle.submit(request.clone()).unwrap()).tokens.len() >= tokens
    })
}

#[test]
fn whoever_comes_late_to_a_full_engine_comes_in_is_next_and_waits_for_no_step() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 2,
        max_waiting: 3,
        ..EngineConfig::default()
    });
    let mut asked = lasting("greedy", 5, 9);
    let mut submit = || handle.submit(asked.next().unwrap());
    let mut greedy = vec![submit().unwrap()];
    until(|| handle.health().running == 1);
    greedy.extend((0..4).map(|_| submit().unwrap()));
    go(&toy, &gate, 1);
    until(|| handle.health().running == 2);
    assert!(matches!(
        submit(),
        Err(EngineError::QueueFull { waiting: 3, .. })
    ));
    let late = lasting("late", 6, 9).next().unwrap();
    let alone = listen(
        engine(EngineConfig::default())
            .submit(late.clone())
            .unwrap(),
    );
    let late = handle.submit(late).unwrap();
    go(&toy, &gate, 1);
    until(|| handle.health().running == 3);
    drop(gate);
    assert_eq!(listen(late), alone);
    greedy
        .into_iter()
        .for_each(|stream| listen(stream).end.map(|_| ()).unwrap());
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
fn a_completion_of_many_answers_does_not_keep_the_next_waiting_for_all() {
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
    until(|| handle.health().running == 1);
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
        .for_each(|stream| listen(stream).end.map(|_| ()).unwrap());
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
fn few_prompts_are_read_in_one_step() {
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
        .for_each(|s| listen(s).end.map(|_| ()).unwrap());
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
fn a_model_error_fails_the_newcomers_else_the_batch_and_the_engine_lives_on() {
    let (handle, toy, gate) = gated(EngineConfig::default());
    let first = handle.submit(long(1.0)).unwrap();
    until(|| handle.health().running == 1);
    go(&toy, &gate, 1);
    // <user>, which the model never says.
    toy.fails_on.store(2, SeqCst);
    let broken = handle.submit(request(2.0, &[2])).unwrap();
    // The second step may have been gathered before the submission: then the third has the
    // newcomer.
    go(&toy, &gate, 2);
    assert_eq!(
        listen(broken).end,
        Err(EngineError::Model("token 2 broke the model".to_owned()))
    );
    toy.fails_on.store(ANY, SeqCst);
    drop(gate);
    assert_eq!(
        listen(first).end,
        Err(EngineError::Model(format!("token {ANY} broke the model")))
    );
    toy.fails_on.store(usize::MAX, SeqCst);
    listen(handle.submit(request(3.0, &[5])).unwrap())
        .end
        .unwrap();
}

#[test]
fn a_panic_in_a_step_fails_its_requests_and_the_engine_lives_on() {
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
    let error = listen(handle.submit(request(1.0, &[5])).unwrap())
        .end
        .unwrap_err();
    assert_eq!(
        error,
        EngineError::Model("internal error: the model panicked".to_owned())
    );
    let after = listen(handle.submit(request(1.0, &[5])).unwrap());
    assert_eq!(
        after,
        listen(
            engine(EngineConfig::default())
                .submit(request(1.0, &[5]))
                .unwrap()
        )
    );
    assert!(handle.health().accepting);
}

/// Returns whether scored requests and their unscored neighbour end as they should when the scorer
/// breaks before the second token.
fn break_scorer(on_error: OnError, out_of_range: bool) -> (ReceivedEvents, ReceivedEvents) {
    let (toy, gate) = Toy::gated();
    let reward = Arc::new(ToyReward::default());
    let handle = start(
        &toy,
        &reward,
        EngineConfig {
            on_error,
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
    let neighbour = handle.submit(off).unwrap();
    go(&toy, &gate, 3);
    until(|| reward.seen.load(SeqCst) >= 3);
    if out_of_range {
        &reward.out_of_range
    } else {
        &reward.fails
    }
    .store(true, SeqCst);
    drop(gate);
    (listen(scored), listen(neighbour))
}

#[test]
fn a_broken_scorer_fails_what_is_scored_or_leaves_it_unscored() {
    let alone = |mode, image, max_tokens| {
        let guard = GuardParams::new(mode, 0.4);
        listen(
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
        let (scored, neighbour) = break_scorer(OnError::FailClosed, out_of_range);
        assert!(
            matches!(scored.end, Err(EngineError::Scorer(_))),
            "{scored:?}"
        );
        assert_eq!(neighbour, alone(Mode::Off, 1.0, 12));

        let (scored, neighbour) = break_scorer(OnError::FailOpen, out_of_range);
        assert_eq!(scored.text(), alone(Mode::Flag, 4.0, 20).text());
        assert_eq!(scored.report().verdict, Verdict::Unscored);
        assert!(scored.rewards().len() < scored.tokens.len());
        assert_eq!(neighbour.text(), alone(Mode::Off, 1.0, 12).text());
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
fn a_drain_finishes_what_was_accepted_and_takes_nothing_new() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let streams: Vec<EventStream> = (0..3)
        .map(|i| handle.submit(request(i as f32, &[5])).unwrap())
        .collect();
    until(|| handle.health().running == 1);
    let drain = std::thread::spawn({
        let handle = handle.clone();
        move || block_on(handle.drain(Duration::from_secs(600)))
    });
    until(|| !handle.health().accepting);
    assert_eq!(
        handle.submit(request(9.0, &[5])).unwrap_err(),
        EngineError::ShuttingDown
    );
    assert_eq!(toy.steps(), 0);
    drop(gate);
    drain.join().unwrap();
    for stream in streams {
        listen(stream).end.unwrap();
    }
    until(|| handle.commands.is_closed());
    assert_eq!(handle.health().running, 0);
}

#[test]
fn a_drain_fails_what_its_deadline_finds() {
    let (handle, toy, gate) = gated(EngineConfig {
        max_batch: 1,
        ..EngineConfig::default()
    });
    let streams: Vec<EventStream> = (0..2)
        .map(|i| handle.submit(long(i as f32)).unwrap())
        .collect();
    until(|| handle.health().running == 1);
    let drain = std::thread::spawn({
        let handle = handle.clone();
        move || block_on(handle.drain(Duration::ZERO))
    });
    // The step does not end, so the drain gives up waiting; the engine fails the rest as soon as it
    // can.
    drain.join().unwrap();
    assert_eq!(toy.steps(), 0);
    drop(gate);
    for stream in streams {
        assert_eq!(listen(stream).end, Err(EngineError::ShuttingDown));
    }
}

#[test]
fn an_engine_without_handles_finishes_and_ends() {
    let (toy, gate) = Toy::gated();
    let handle = start(&toy, &Arc::default(), EngineConfig::default());
    let stream = handle.submit(request(1.0, &[5])).unwrap();
    drop(handle);
    drop(gate);
    listen(stream).end.unwrap();
    until(|| Arc::strong_count(&toy) == 1);
}

#[derive(Default)]
struct Counts {
    tokens: AtomicUsize,
    gaps: AtomicUsize,
    scored: AtomicUsize,
    most: AtomicUsize,
}

impl Observer for Counts {
    fn load(&self, running: usize, _: usize, kv_usage: f64) {
        assert!((0.0..=1.0).contains(&kv_usage));
        self.most.fetch_max(running, SeqCst);
    }
    fn token(&self, gap: Option<Duration>) {
        self.tokens.fetch_add(1, SeqCst);
        self.gaps.fetch_add(usize::from(gap.is_some()), SeqCst);
    }
    fn scored(&self, rewards: &[f32], _: Duration) {
        self.scored.fetch_add(rewards.len(), SeqCst);
    }
}

#[test]
fn the_observer_is_told_what_happened() {
    let (toy, counts) = (Toy::new(), Arc::new(Counts::default()));
    let handle = start(
        &toy,
        &Arc::default(),
        EngineConfig {
            observer: counts.clone(),
            ..EngineConfig::default()
        },
    );
    let told: Vec<ReceivedEvents> = (0..8)
        .map(|i| listen(handle.submit(request(i as f32, &[5])).unwrap()))
        .collect();
    let tokens: usize = told.iter().map(|t| t.tokens.len()).sum();
    let spoke = told.iter().filter(|t| !t.tokens.is_empty()).count();
    assert_eq!(
        (counts.tokens.load(SeqCst), counts.scored.load(SeqCst)),
        (tokens, tokens)
    );
    assert_eq!(
        (counts.gaps.load(SeqCst), counts.most.load(SeqCst)),
        (tokens - spoke, 1)
    );
    assert!(told.iter().any(|told| told.flagged_tokens > 0));
    for told in told {
        assert_eq!(told.flagged_tokens > 0, !told.spans.is_empty());
        assert!(told.flagged_tokens <= told.tokens.len());
    }
}
