//! Threads that share the loops of a computation.
//!
//! A forward pass is hundreds of short loops with little between them. Threads that sleep after
//! each are woken too late, so those of the team wait for the next loop by looking for it, for a
//! few microseconds, and sleep when none comes.

use std::{
    hint,
    panic::{AssertUnwindSafe, catch_unwind},
    ptr,
    sync::{
        Mutex, OnceLock, TryLockError,
        atomic::{
            AtomicBool, AtomicPtr, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        },
    },
    thread::{self, Thread},
};

use rayon::prelude::*;

/// Looks for a new loop before a thread sleeps: some 30 microseconds.
const LOOKS: u32 = 1 << 11;

/// Looks for the end of a loop before a thread lets others run.
const BUSY_LOOKS: u32 = 1 << 8;

/// Set in [`Team::state`] while threads may join the loop.
const OPEN: u64 = 1 << 16;

/// Step of the loop's number in [`Team::state`].
const NEXT: u64 = 1 << 17;

/// A loop: its body, and how far it is.
struct Loop<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    parts: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Loop<'_> {
    fn run(&self) {
        loop {
            let part = self.next.fetch_add(1, Relaxed);
            if part >= self.parts {
                return;
            }
            (self.body)(part);
        }
    }
}

/// The threads, and the loop that they share.
struct Team {
    /// Held by the thread whose loop it is.
    turn: Mutex<()>,
    current: AtomicPtr<Loop<'static>>,
    /// Threads in the loop (16 bits), whether it is open, and its number.
    state: AtomicU64,
    asleep: AtomicUsize,
    helpers: OnceLock<Vec<Thread>>,
}

static TEAM: Team = Team {
    turn: Mutex::new(()),
    current: AtomicPtr::new(ptr::null_mut()),
    state: AtomicU64::new(0),
    asleep: AtomicUsize::new(0),
    helpers: OnceLock::new(),
};

impl Team {
    /// Returns the helpers: one thread less than rayon has.
    fn helpers(&'static self) -> &'static [Thread] {
        self.helpers.get_or_init(|| {
            let count = rayon::current_num_threads().saturating_sub(1);
            let helper = |i| {
                let builder = thread::Builder::new().name(format!("team-{i}"));
                // Without a thread the others do its part.
                builder.spawn(|| self.help()).ok()
            };
            let started = (0..count.min(usize::from(u16::MAX))).filter_map(helper);
            started.map(|handle| handle.thread().clone()).collect()
        })
    }

    /// Joins one loop after the other, forever.
    #[allow(unsafe_code)]
    fn help(&self) {
        let (mut last, mut looks) = (0, 0);
        loop {
            let state = self.state.load(Acquire);
            let number = state / NEXT;
            if state & OPEN == 0 || number == last {
                looks += 1;
                if looks < LOOKS {
                    hint::spin_loop();
                    continue;
                }
                self.asleep.fetch_add(1, SeqCst);
                if self.state.load(SeqCst) == state {
                    thread::park();
                }
                self.asleep.fetch_sub(1, SeqCst);
                looks = 0;
                continue;
            }
            let joined = self
                .state
                .compare_exchange(state, state + 1, AcqRel, Relaxed);
            if joined.is_ok() {
                // SAFETY: the loop lives until its owner has closed it and nobody is in it any
                // more, and this thread joined while it was open.
                let current = unsafe { &*self.current.load(Relaxed) };
                if catch_unwind(AssertUnwindSafe(|| current.run())).is_err() {
                    current.panicked.store(true, Relaxed);
                }
                self.state.fetch_sub(1, Release);
                (last, looks) = (number, 0);
            }
        }
    }

    /// Shares a loop with the helpers and returns when all its parts are done.
    fn share(&self, shared: &Loop<'_>, helpers: &[Thread]) {
        /// Closes the loop and waits for the helpers in it, also when the body panics.
        struct Closing<'a>(&'a Team);
        impl Drop for Closing<'_> {
            fn drop(&mut self) {
                let mut looks = 0;
                let mut state = self.0.state.fetch_and(!OPEN, AcqRel);
                while !state.is_multiple_of(OPEN) {
                    looks += 1;
                    if looks < BUSY_LOOKS {
                        hint::spin_loop();
                    } else {
                        thread::yield_now();
                    }
                    state = self.0.state.load(Acquire);
                }
            }
        }
        // The lifetime ends when `Closing` is dropped; see `help`.
        self.current
            .store(ptr::from_ref(shared).cast_mut().cast(), Relaxed);
        let closing = Closing(self);
        let number = self.state.load(Relaxed) / NEXT;
        self.state
            .store((number + 1).wrapping_mul(NEXT) | OPEN, SeqCst);
        if self.asleep.load(SeqCst) > 0 {
            helpers.iter().for_each(Thread::unpark);
        }
        shared.run();
        drop(closing);
    }
}

/// Calls `body` with every number below `parts`, on several threads.
///
/// Within a rayon pool its threads share the loop. Elsewhere the team does, or, while it has
/// another thread's loop, rayon's global pool.
pub fn for_parts(parts: usize, body: impl Fn(usize) + Sync) {
    if parts <= 1 || rayon::current_thread_index().is_some() {
        return match parts {
            0 | 1 => (0..parts).for_each(&body),
            _ => (0..parts).into_par_iter().for_each(&body),
        };
    }
    let helpers = TEAM.helpers();
    if helpers.is_empty() {
        return (0..parts).for_each(&body);
    }
    let _turn = match TEAM.turn.try_lock() {
        Ok(turn) => turn,
        // A body that panicked left nothing behind.
        Err(TryLockError::Poisoned(turn)) => turn.into_inner(),
        Err(TryLockError::WouldBlock) => return (0..parts).into_par_iter().for_each(&body),
    };
    let shared = Loop {
        body: &body,
        parts,
        next: AtomicUsize::new(0),
        panicked: AtomicBool::new(false),
    };
    TEAM.share(&shared, helpers);
    assert!(
        !shared.panicked.load(Relaxed),
        "a thread of a shared loop panicked"
    );
}

/// Calls `body` with every item and its index, on several threads.
pub fn for_items<T: Send>(items: &mut [T], body: impl Fn(usize, &mut T) + Sync) {
    /// Address of the items, which every part takes one of.
    struct Items<T>(*mut T);
    // SAFETY: the parts of a loop take different items, which may be sent to other threads.
    #[allow(unsafe_code)]
    unsafe impl<T: Send> Sync for Items<T> {}
    impl<T> Items<T> {
        fn at(&self, i: usize) -> *mut T {
            self.0.wrapping_add(i)
        }
    }
    let all = Items(items.as_mut_ptr());
    for_parts(items.len(), |i| {
        // SAFETY: `i` is below the number of items, and no other part has the same `i`.
        #[allow(unsafe_code)]
        let item = unsafe { &mut *all.at(i) };
        body(i, item);
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use super::*;

    #[test]
    fn every_part_is_done_once_whoever_asks() {
        // Several threads at a time, so that some find the team busy.
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for parts in (0..200).chain([1000]) {
                        let done: Vec<AtomicU32> = (0..parts).map(|_| AtomicU32::new(0)).collect();
                        for_parts(parts, |part| {
                            done[part].fetch_add(1, Relaxed);
                        });
                        assert!(done.iter().all(|count| count.load(Relaxed) == 1));
                    }
                });
            }
        });
    }

    #[test]
    fn items_are_changed_in_place_after_a_pause_too() {
        let mut items = vec![0usize; 64];
        for round in 1..=3 {
            for_items(&mut items, |i, item| *item += i);
            let want: Vec<usize> = (0..64).map(|i| i * round).collect();
            assert_eq!(items, want);
            // Longer than the helpers look for the next loop.
            thread::sleep(std::time::Duration::from_millis(5));
        }
    }

    #[test]
    fn a_loop_within_a_loop_is_done() {
        let sum = AtomicUsize::new(0);
        for_parts(8, |i| {
            for_parts(8, |j| {
                sum.fetch_add(i * j, Relaxed);
            });
        });
        assert_eq!(sum.load(Relaxed), 28 * 28);
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_next_loop_runs() {
        for _ in 0..20 {
            let panicked = catch_unwind(|| {
                for_parts(16, |part| assert_ne!(part, 11, "part 11"));
            });
            assert!(panicked.is_err());
            let done = AtomicUsize::new(0);
            for_parts(16, |_| {
                done.fetch_add(1, Relaxed);
            });
            assert_eq!(done.load(Relaxed), 16);
        }
    }
}
