//! Threads that share a pass: tasks are handed out one by one, the caller takes part.
//!
//! A pass over a layer lasts microseconds, so threads that wait spin for a moment before they
//! sleep. What a task computes never depends on who runs it.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};

/// Turns of a loop before a thread that waits goes to sleep: tens of microseconds.
const SPINS: u32 = 3_000;

/// Threads of a number that the owner chose.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    sleepers: Vec<Thread>,
    /// One pass at a time.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Shared {
    /// The number of the pass, above [`OPEN`], above the threads that are in it.
    state: AtomicU64,
    /// The pass's job, as the address of a [`Job`] on its caller's stack.
    job: AtomicUsize,
    stop: AtomicBool,
}

/// Threads may still join the pass.
const OPEN: u64 = 1 << 16;

/// Threads in the pass, beside the caller.
const INSIDE: u64 = OPEN - 1;

/// One pass more.
const PASS: u64 = OPEN << 1;

struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    next: AtomicUsize,
    tasks: usize,
    failed: AtomicBool,
}

impl Job<'_> {
    fn help(&self) {
        loop {
            let task = self.next.fetch_add(1, Ordering::Relaxed);
            if task >= self.tasks {
                return;
            }
            if catch_unwind(AssertUnwindSafe(|| (self.work)(task))).is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl Pool {
    /// So many threads, the caller's among them.
    ///
    /// # Errors
    /// The system has none to give.
    pub fn start(threads: usize) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let mut workers = Vec::new();
        for index in 1..threads.max(1) {
            let shared = shared.clone();
            let thread = std::thread::Builder::new().name(format!("kernels-{index}"));
            workers.push(thread.spawn(move || shared.serve())?);
        }
        let sleepers = workers.iter().map(|worker| worker.thread().clone()).collect();
        Ok(Self { shared, workers, sleepers, turn: Mutex::new(()) })
    }

    /// Threads that compute, the caller's among them.
    #[must_use]
    pub fn threads(&self) -> NonZeroUsize {
        NonZeroUsize::MIN.saturating_add(self.workers.len())
    }

    /// Calls `work` once for each of `0..tasks`, on all threads; returns when all are done.
    ///
    /// # Panics
    /// If a task does.
    pub fn each(&self, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || tasks <= 1 {
            return (0..tasks).for_each(work);
        }
        let turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let job = Job { work, next: AtomicUsize::new(0), tasks, failed: AtomicBool::new(false) };
        let shared = &*self.shared;
        shared.job.store(std::ptr::from_ref(&job) as usize, Ordering::Relaxed);
        let before = shared.state.load(Ordering::Relaxed);
        shared.state.store((before + PASS) | OPEN, Ordering::Release);
        self.sleepers.iter().for_each(Thread::unpark);
        job.help();
        // Whoever has not come by now is not waited for: the machine has other work for it.
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0u32;
        while shared.state.load(Ordering::Acquire) & INSIDE != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        drop(turn);
        if job.failed.load(Ordering::Relaxed) {
            resume_unwind(Box::new("a task of a pass panicked"));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A task's panic was told to whoever asked for the pass.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn serve(&self) {
        let mut seen = 0;
        let mut spins = 0u32;
        while !self.stop.load(Ordering::Relaxed) {
            let state = self.state.load(Ordering::Acquire);
            let pass = state / PASS;
            if pass == seen || state & OPEN == 0 {
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop()
                } else {
                    std::thread::park()
                }
                continue;
            }
            let joined = self.state.compare_exchange_weak(
                state,
                state + 1,
                Ordering::AcqRel,
                Ordering::Relaxed,
            );
            if joined.is_err() {
                continue;
            }
            (seen, spins) = (pass, 0);
            let job = self.job.load(Ordering::Relaxed) as *const Job<'_>;
            // SAFETY: the caller of the pass keeps the job alive until nobody is inside, and it
            // was stored before the pass was opened.
            unsafe { &*job }.help();
            self.state.fetch_sub(1, Ordering::Release);
        }
    }
}
