//! The world: virtual time, a queue of events, nodes, and the streams between them.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use taimatsu_peer::session::policy::PATIENCE;
use taimatsu_protocol::{Moment, PeerId, UnixSeconds};

use super::asking::Asking;
use super::directory::Directory;
use super::events::{Action, Event, Model, Timer};
use super::links::{Links, Weather};
use super::luck::Luck;
use super::node::Node;
use super::streams::{Frame, Kind, LaneFrame, Stream, StreamId, WAITING_FRAMES};
use super::trace::Trace;

/// A node's place in the list.
pub type NodeId = usize;

/// An ask's place in the list.
pub type AskId = usize;

/// The wall clock at the start.
const WALL: u64 = 1_800_000_000;

/// A dial into nothing is given up after this.
const DIAL_PATIENCE: Duration = Duration::from_secs(10);

/// More events than this in one moment are a circle.
const MAX_AT_ONCE: u32 = 100_000;

/// Everything.
#[derive(Debug)]
pub struct World {
    pub(crate) now: Moment,
    queue: BTreeMap<(Moment, u64), Event>,
    sequence: u64,
    /// The dice.
    pub luck: Luck,
    /// Distances and cuts.
    pub links: Links,
    pub(crate) nodes: Vec<Node>,
    pub(crate) names: Vec<PeerId>,
    pub(crate) models: Vec<Model>,
    pub(crate) asks: Vec<Asking>,
    pub(crate) directory: Directory,
    pub(crate) streams: BTreeMap<StreamId, Stream>,
    pub(crate) next_stream: StreamId,
    /// Lane frames on their way through a client, by ticket.
    pub(crate) carried: BTreeMap<u64, LaneFrame>,
    pub(crate) next_ticket: u64,
    /// Copied openings that were sent.
    pub replays_sent: usize,
    /// Copied openings that were refused.
    pub replays_refused: usize,
    /// How long answers wait for somebody in a lost host's place.
    pub patience: Duration,
    /// Events of the present moment.
    at_once: u32,
    /// When the scenario does something for the last time.
    last_action: Moment,
    /// The record.
    pub trace: Trace,
    pub(crate) breach: Option<String>,
}

impl World {
    /// A world without nodes.
    #[must_use]
    pub fn new(seed: u64, weather: Weather, aloud: bool) -> Self {
        Self {
            now: Moment::default(),
            queue: BTreeMap::new(),
            sequence: 0,
            luck: Luck::of(seed),
            links: Links::new(weather),
            nodes: Vec::new(),
            names: Vec::new(),
            models: Vec::new(),
            asks: Vec::new(),
            directory: Directory::default(),
            streams: BTreeMap::new(),
            next_stream: 0,
            carried: BTreeMap::new(),
            next_ticket: 0,
            replays_sent: 0,
            replays_refused: 0,
            patience: PATIENCE,
            at_once: 0,
            last_action: Moment::default(),
            trace: Trace::new(aloud),
            breach: None,
        }
    }

    /// The scenario does this `after` the start.
    pub fn act(&mut self, after: Duration, action: Action) {
        let at = Moment::default() + after;
        self.last_action = self.last_action.max(at);
        self.at(at, Event::Act(action));
    }

    /// Runs until all asks are answered and `rest` has passed in quiet; a breach ends it earlier.
    ///
    /// # Errors
    /// The first breach of an invariant.
    pub fn run(&mut self, bound: Duration, rest: Duration) -> Result<(), String> {
        let mut end = None;
        while self.breach.is_none() {
            let Some(((at, _), event)) = self.queue.pop_first() else { break };
            if at > self.now {
                (self.now, self.at_once) = (at, 0);
            }
            self.at_once += 1;
            if self.at_once > MAX_AT_ONCE {
                self.fail(|| format!("time stands still at {event:?}"));
                break;
            }
            if end.is_none() && at > self.last_action && self.asks.iter().all(Asking::is_over) {
                end = Some(at + rest);
            }
            if end.is_some_and(|end| at > end) {
                break;
            }
            self.trace.note(at, event.fingerprint());
            self.happen(event);
            if at > self.last_action + bound && end.is_none() {
                let late = self.asks.iter().position(|ask| !ask.is_over());
                self.fail(|| format!("ask {late:?} waits for ever"));
            }
        }
        self.breach.take().map_or_else(|| self.check_rest(), Err)
    }

    pub(crate) const fn wall_base(&self) -> UnixSeconds {
        UnixSeconds(WALL)
    }

    /// Notes the first breach.
    pub(crate) fn fail(&mut self, what: impl FnOnce() -> String) {
        if self.breach.is_none() {
            self.breach = Some(what());
        }
    }

    /// The wall clock of a node.
    pub(crate) fn wall(&self, node: NodeId) -> UnixSeconds {
        let since = self.now.since(Moment::default()).as_secs();
        UnixSeconds(WALL + since + self.nodes[node].skew)
    }

    pub(crate) fn after(&mut self, delay: Duration, event: Event) {
        self.at(self.now + delay, event);
    }

    pub(crate) fn at(&mut self, at: Moment, event: Event) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), event);
    }

    /// Wakes a machine at `wanted`, unless it is woken earlier anyway; gives back for when it is
    /// armed.
    pub(crate) fn arm(
        &mut self,
        timer: Timer,
        armed: Option<Moment>,
        wanted: Option<Moment>,
    ) -> Option<Moment> {
        let Some(wanted) = wanted.map(|at| at.max(self.now)) else { return armed };
        if armed.is_some_and(|armed| armed <= wanted) {
            return armed;
        }
        self.at(wanted, Event::Wake { timer, at: wanted });
        Some(wanted)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Connect { stream, frame } => self.connect(stream, *frame),
            Event::DialFailed { stream } => self.dial_failed(stream),
            Event::Frame { stream, to } => self.arrive(stream, to),
            Event::Wake { timer, at } => match timer {
                Timer::Peer(node) => self.wake_peer(node, at),
                Timer::Hop(node, session) => self.wake_hop(node, session, at),
                Timer::Run(ask) => self.wake_run(ask, at),
            },
            Event::Worked { node, life, worker } => self.worked(node, life, worker),
            Event::Load { node, life, worker } => self.tell_load(node, life, worker),
            Event::LookAround { node, life } => self.look_around(node, life),
            Event::Found { lookup } => self.found(lookup),
            Event::Query { lookup, to } => self.queried(lookup, to),
            Event::Answer { lookup, from, answered } => self.answered(lookup, from, answered),
            Event::QueryLate { lookup, to } => self.query_late(lookup, to),
            Event::LookupLate { lookup } => self.lookup_late(lookup),
            Event::LaneLate { node, session, generation } => {
                self.lane_late(node, session, generation);
            }
            Event::EarlyLate { node, stream } => self.early_late(node, stream),
            Event::Consume { ask } => self.consume(ask),
            Event::Act(action) => self.perform(action),
        }
    }

    /// Dials a node; `first` is said as soon as the connection stands.
    pub(crate) fn dial(&mut self, kind: Kind, ends: [NodeId; 2], first: Frame) -> StreamId {
        self.next_stream += 1;
        let stream = self.next_stream;
        self.streams.insert(stream, Stream::new(kind, ends, self.now));
        let [from, to] = ends;
        let known = self.nodes[from].met.contains(&to);
        let ways = if known { 1 } else { 3 };
        let delay = (0..ways).map(|_| self.links.delay(&mut self.luck, from, to)).sum();
        self.after(delay, Event::Connect { stream, frame: Box::new(first) });
        stream
    }

    fn connect(&mut self, id: StreamId, frame: Frame) {
        let Some(stream) = self.streams.get(&id) else { return };
        let [from, to] = stream.ends;
        let cut = self.links.is_cut(from, to) || self.links.is_cut(to, from);
        let (up, silent) = (self.nodes[to].is_up(), self.nodes[to].silent);
        if cut || (!up && silent) {
            return self.after(DIAL_PATIENCE, Event::DialFailed { stream: id });
        }
        if !up || self.links.is_undialable(from, to) {
            let delay = self.links.delay(&mut self.luck, to, from);
            return self.after(delay, Event::DialFailed { stream: id });
        }
        self.nodes[from].met.insert(to);
        self.nodes[to].met.insert(from);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.last[1] = self.now;
            stream.frames[1].push_back(frame);
        }
        self.arrive(id, 1);
    }

    fn dial_failed(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.open[1] = false;
            stream.frames[0].push_back(Frame::Fin);
            self.arrive(id, 0);
        }
    }

    /// Sends a frame from one end; false if the end is closed, or too much waits already.
    pub(crate) fn send(&mut self, id: StreamId, from: usize, frame: Frame) -> bool {
        let to = 1 - from;
        let Some(stream) = self.streams.get(&id) else { return false };
        if !stream.open[from] || stream.frames[to].len() >= WAITING_FRAMES {
            return false;
        }
        self.launch(id, to, frame);
        true
    }

    /// The owner of an end lets it go; what it has sent still arrives.
    pub(crate) fn close(&mut self, id: StreamId, end: usize) {
        self.send(id, end, Frame::Fin);
        self.forget(id, end);
    }

    /// The end is gone, without a word.
    pub(crate) fn forget(&mut self, id: StreamId, end: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.open[end] = false;
        let idle = stream.frames.iter().all(VecDeque::is_empty);
        if stream.open == [false; 2] && idle {
            self.streams.remove(&id);
        }
    }

    /// Sends a frame towards an end.
    pub(crate) fn launch(&mut self, id: StreamId, to: usize, frame: Frame) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let delay = self.links.delay(&mut self.luck, stream.ends[1 - to], stream.ends[to]);
        let at = (self.now + delay).max(stream.last[to]);
        stream.last[to] = at;
        stream.frames[to].push_back(frame);
        self.at(at, Event::Frame { stream: id, to });
    }

    fn arrive(&mut self, id: StreamId, to: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let (kind, receiver, sender) = (stream.kind, stream.ends[to], stream.ends[1 - to]);
        if self.links.is_cut(sender, receiver) {
            stream.stuck[to] += 1;
            return;
        }
        let Some(frame) = stream.frames[to].pop_front() else { return };
        if !stream.open[to] {
            // Nobody holds this end: whoever still holds the other one learns of it, unless the
            // machine says nothing any more.
            let tell = stream.open[1 - to] && !matches!(frame, Frame::Fin);
            if stream.open == [false; 2] {
                self.forget(id, to);
            } else if tell && self.nodes[receiver].speaks() {
                self.launch(id, 1 - to, Frame::Fin);
            }
            return;
        }
        if matches!(frame, Frame::Fin) {
            if stream.finished[to] {
                return;
            }
            stream.finished[to] = true;
        }
        match (kind, to) {
            (Kind::Control { ask, hop, .. }, 0) => self.at_client(ask, hop, id, frame),
            (Kind::Control { session, .. }, _) => self.at_host(receiver, session, id, frame),
            (Kind::Link { session, generation }, end) => {
                self.at_lane(receiver, session, generation, (id, end), frame);
            }
        }
    }

    /// What waited behind a cut goes on, where there is none any more.
    pub(crate) fn release_held(&mut self) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for (id, to) in ids.into_iter().flat_map(|id| [(id, 0), (id, 1)]) {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            let (sender, receiver) = (stream.ends[1 - to], stream.ends[to]);
            if stream.stuck[to] == 0 || self.links.is_cut(sender, receiver) {
                continue;
            }
            let delay = self.links.delay_after_cut(&mut self.luck, sender, receiver);
            let at = (self.now + delay).max(stream.last[to]);
            stream.last[to] = at;
            for _ in 0..std::mem::take(&mut stream.stuck[to]) {
                self.at(at, Event::Frame { stream: id, to });
            }
        }
    }
}
