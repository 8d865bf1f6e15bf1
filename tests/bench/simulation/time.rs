//! Simulated time. Each job is a thread, so that the unchanged code can wait for answers and pauses. Only the thread
//! whose time has come runs, and then yields. A minute therefore takes as long as its events, and a run is repeatable.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

/// Enough stack for an exchange, which is shallow. There are thousands of threads.
const STACK: usize = 128 << 10;

/// What all actors of a simulation share: the simulation's world, and the time.
pub struct Timeline<W> {
    state: Mutex<State<W>>,
}

struct State<W> {
    world: W,
    now: Duration,
    /// The time at which each actor runs next. The number keeps the order of actors with the same time.
    due: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    next: u64,
}

impl<W> State<W> {
    fn add(&mut self, when: Duration, actor: usize) {
        self.due.push(Reverse((when, self.next, actor)));
        self.next += 1;
    }
}

/// One actor's end of a timeline.
pub struct Actor<W> {
    pub number: usize,
    timeline: Arc<Timeline<W>>,
    resumed: Receiver<()>,
    handed_back: Sender<()>,
}

impl<W> Actor<W> {
    pub fn now(&self) -> Duration {
        self.state().now
    }

    /// Looks at the world, or changes it.
    pub fn with<T>(&self, work: impl FnOnce(&mut W, Duration) -> T) -> T {
        let mut state = self.state();
        let now = state.now;
        work(&mut state.world, now)
    }

    pub fn wait(&self, time: Duration) {
        let mut state = self.state();
        let when = state.now + time;
        state.add(when, self.number);
        drop(state);
        self.hand_back();
    }

    /// Waits until another one wakes this one.
    pub fn wait_to_be_woken(&self) {
        self.hand_back();
    }

    pub fn wake(&self, others: impl IntoIterator<Item = usize>) {
        let mut state = self.state();
        let now = state.now;
        for other in others {
            state.add(now, other);
        }
    }

    fn hand_back(&self) {
        let _ = self.handed_back.send(());
        let _ = self.resumed.recv();
    }

    fn state(&self) -> MutexGuard<'_, State<W>> {
        self.timeline.state.lock().expect("no actor panics")
    }
}

impl<W> Drop for Actor<W> {
    fn drop(&mut self) {
        let _ = self.handed_back.send(());
    }
}

/// Starts an actor at each of these times, and runs until all have ended. Returns the world after that.
pub fn play<W: Send + 'static>(world: W, begins: &[Duration], act: fn(&Actor<W>)) -> W {
    let mut state = State { world, now: Duration::ZERO, due: BinaryHeap::new(), next: 0 };
    for (number, begin) in begins.iter().enumerate() {
        state.add(*begin, number);
    }
    let timeline = Arc::new(Timeline { state: Mutex::new(state) });
    let (handed_back, back) = mpsc::channel();
    let mut actors: Vec<Option<Sender<()>>> = begins.iter().map(|_| None).collect();
    loop {
        let number = {
            let mut state = timeline.state.lock().expect("no actor panics");
            let Some(Reverse((when, _, number))) = state.due.pop() else { break };
            state.now = when;
            number
        };
        match &actors[number] {
            Some(resume) => resume.send(()).expect("the actor waits"),
            None => {
                let (resume, resumed) = mpsc::channel();
                let (timeline, handed_back) = (Arc::clone(&timeline), handed_back.clone());
                let actor = Actor { number, timeline, resumed, handed_back };
                let thread = thread::Builder::new().stack_size(STACK);
                thread.spawn(move || act(&actor)).expect("a thread");
                actors[number] = Some(resume);
            }
        }
        back.recv().expect("the actor hands back");
    }
    drop(actors);
    // The last thread may still hold it for a moment.
    let mut timeline = timeline;
    loop {
        match Arc::try_unwrap(timeline) {
            Ok(timeline) => return timeline.state.into_inner().expect("no actor panics").world,
            Err(shared) => timeline = shared,
        }
        thread::yield_now();
    }
}
