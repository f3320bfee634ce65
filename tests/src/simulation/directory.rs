//! Who hosts what: provider records that take their time, and queries between nodes, as
//! `node/src/driver/directory.rs` has them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use taimatsu_peer::Input;
use taimatsu_protocol::signed::{SignedBytes, Verified};
use taimatsu_protocol::{Announcement, ModelId, Moment, PeerId, Span};

use super::events::Event;
use super::world::{NodeId, World};

/// Hosts asked in one lookup.
const ASKED: usize = 32;

/// Of these at a time.
const AT_A_TIME: usize = 8;

/// What one host may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// What a lookup for an ask may take.
const LOOKUP: Duration = Duration::from_millis(4_500);

/// The longest pause between looks around, in milliseconds.
const LAST_PAUSE: u64 = 20_000;

/// Blocks that one provider record speaks of.
const GROUP: u32 = 8;

/// Names a lookup.
pub(crate) type LookupId = u64;

/// Provider records, lookups under way, and signatures that were checked before.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Who provides, and from when on it is found.
    records: BTreeMap<(ModelId, u32), BTreeMap<NodeId, Moment>>,
    everybody: BTreeMap<NodeId, Moment>,
    lookups: BTreeMap<LookupId, Lookup>,
    next: LookupId,
    answers: BTreeMap<usize, Vec<SignedBytes>>,
    next_answer: usize,
    checked: BTreeMap<SignedBytes, Verified<Announcement>>,
}

#[derive(Debug)]
struct Lookup {
    node: NodeId,
    life: u32,
    /// None: the node looks around.
    model: Option<ModelId>,
    waiting: VecDeque<NodeId>,
    asked: BTreeSet<NodeId>,
    /// What was handed in already: a second copy would be no news, and costs the same.
    seen: BTreeSet<SignedBytes>,
}

impl World {
    /// A host's records begin their way into the directory.
    pub(crate) fn provide(&mut self, node: NodeId, model: ModelId, span: Span) {
        let groups: BTreeSet<u32> = span.blocks().map(|block| block / GROUP).collect();
        for group in groups {
            let found = self.now + self.luck.millis(200, 2_000);
            let record = self.directory.records.entry((model, group)).or_default();
            record.entry(node).or_insert(found);
        }
        let found = self.now + self.luck.millis(200, 2_000);
        self.directory.everybody.entry(node).or_insert(found);
    }

    /// A node's judgement wants to know who hosts a model.
    pub(crate) fn look_up(&mut self, node: NodeId, model: ModelId) {
        if self.nodes[node].blocks.remove(&model).is_some() {
            let lookup = self.begin_lookup(node, Some(model));
            self.after(LOOKUP, Event::LookupLate { lookup });
        }
    }

    pub(crate) fn look_around(&mut self, node: NodeId, life: u32) {
        if self.nodes[node].life == life && self.nodes[node].up {
            self.begin_lookup(node, None);
        }
    }

    fn begin_lookup(&mut self, node: NodeId, model: Option<ModelId>) -> LookupId {
        self.directory.next += 1;
        let id = self.directory.next;
        let life = self.nodes[node].life;
        let (waiting, asked, seen) = (VecDeque::new(), BTreeSet::new(), BTreeSet::new());
        self.directory.lookups.insert(id, Lookup { node, life, model, waiting, asked, seen });
        let delay = self.luck.millis(30, 600);
        self.after(delay, Event::Found { lookup: id });
        id
    }

    /// The directory has answered with names.
    pub(crate) fn found(&mut self, id: LookupId) {
        let Some(lookup) = self.directory.lookups.get(&id) else { return };
        let (me, now) = (lookup.node, self.now);
        let known =
            |(node, from): (&NodeId, &Moment)| (*from <= now && *node != me).then_some(*node);
        let found: BTreeSet<NodeId> = match lookup.model {
            None => self.directory.everybody.iter().filter_map(known).collect(),
            Some(model) => {
                let records = self.directory.records.range((model, 0)..=(model, u32::MAX));
                records.flat_map(|(_, record)| record.iter().filter_map(known)).collect()
            }
        };
        let mut found: Vec<(PeerId, NodeId)> =
            found.into_iter().map(|node| (self.nodes[node].id, node)).collect();
        found.sort_unstable();
        if found.len() > ASKED {
            let start = self.luck.below(found.len() as u64);
            found.rotate_left(start as usize);
        }
        let waiting = found.into_iter().take(ASKED).map(|(_, node)| node).collect();
        if let Some(lookup) = self.directory.lookups.get_mut(&id) {
            lookup.waiting = waiting;
        }
        self.ask_more(id);
    }

    fn ask_more(&mut self, id: LookupId) {
        while let Some(lookup) = self.directory.lookups.get_mut(&id) {
            if lookup.asked.len() >= AT_A_TIME {
                return;
            }
            let Some(to) = lookup.waiting.pop_front() else {
                if lookup.asked.is_empty() {
                    self.looked_up(id);
                }
                return;
            };
            lookup.asked.insert(to);
            let from = lookup.node;
            let ways = if self.nodes[from].met.contains(&to) { 1 } else { 3 };
            let delay = (0..ways).map(|_| self.links.delay(&mut self.luck, from, to)).sum();
            self.after(delay, Event::Query { lookup: id, to });
            self.after(PATIENCE, Event::QueryLate { lookup: id, to });
        }
    }

    /// A query is at a host.
    pub(crate) fn queried(&mut self, id: LookupId, to: NodeId) {
        let Some(lookup) = self.directory.lookups.get(&id) else { return };
        let (from, model) = (lookup.node, lookup.model);
        let cut = self.links.is_cut(from, to) || self.links.is_cut(to, from);
        if cut || !self.nodes[to].speaks() {
            return;
        }
        let delay = self.links.delay(&mut self.luck, to, from);
        let reached = self.nodes[to].up && !self.links.is_undialable(from, to);
        let answered = reached.then(|| {
            self.nodes[from].met.insert(to);
            self.nodes[to].met.insert(from);
            let answer = self.nodes[to].peer.answer(model, self.wall(to));
            self.directory.next_answer += 1;
            self.directory.answers.insert(self.directory.next_answer, answer);
            self.directory.next_answer
        });
        self.after(delay, Event::Answer { lookup: id, from: to, answered });
    }

    /// A host's answer is back.
    pub(crate) fn answered(&mut self, id: LookupId, from: NodeId, answered: Option<usize>) {
        let list = answered.and_then(|number| self.directory.answers.remove(&number));
        let Some(lookup) = self.directory.lookups.get_mut(&id) else { return };
        if !lookup.asked.remove(&from) {
            return;
        }
        let node = lookup.node;
        if lookup.life != self.nodes[node].life {
            self.directory.lookups.remove(&id);
            return;
        }
        match list {
            None => self.tell(node, Input::HostFailed { host: self.nodes[from].id }),
            Some(list) => {
                for signed in list {
                    if let Some(verified) = self.directory.news(id, signed) {
                        self.tell(node, Input::Announced(Box::new(verified)));
                    }
                }
            }
        }
        self.ask_more(id);
    }

    /// A host has had its time.
    pub(crate) fn query_late(&mut self, id: LookupId, to: NodeId) {
        self.answered(id, to, None);
    }

    /// A lookup has had its time.
    pub(crate) fn lookup_late(&mut self, id: LookupId) {
        if self.directory.lookups.contains_key(&id) {
            self.looked_up(id);
        }
    }

    fn looked_up(&mut self, id: LookupId) {
        let Some(lookup) = self.directory.lookups.remove(&id) else { return };
        let Lookup { node, life, model, .. } = lookup;
        if self.nodes[node].life != life {
            return;
        }
        if let Some(model) = model {
            return self.tell(node, Input::LookupDone { model });
        }
        for other in self.nodes[node].met.clone() {
            if self.nodes[other].up {
                let micros = (self.links.one_way(node, other) * 2) as u32;
                self.tell(node, Input::Rtt { peer: self.nodes[other].id, micros });
            }
        }
        let now = self.now;
        let peer = &self.nodes[node].peer;
        let complete = self.models.iter().any(|model| {
            let missing = peer.table().coverage(model.id, model.shape.blocks, now);
            missing.is_empty()
        });
        let pause = (self.nodes[node].pause * 5 / 4).min(LAST_PAUSE);
        self.nodes[node].pause = if complete { LAST_PAUSE } else { pause };
        let delay = Duration::from_millis(self.nodes[node].pause);
        self.after(delay, Event::LookAround { node, life });
    }
}

impl Directory {
    /// What a lookup has not met before. A signature is checked once for all nodes.
    fn news(&mut self, lookup: LookupId, signed: SignedBytes) -> Option<Verified<Announcement>> {
        let seen = &mut self.lookups.get_mut(&lookup)?.seen;
        if !seen.insert(signed.clone()) {
            return None;
        }
        if let Some(verified) = self.checked.get(&signed) {
            return Some(verified.clone());
        }
        let verified = signed.verify::<Announcement>().ok()?;
        let key = verified.wire().clone();
        self.checked.insert(key, verified.clone());
        Some(verified)
    }
}
