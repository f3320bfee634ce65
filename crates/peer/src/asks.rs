//! Inferences that want hosts, and the lookups that may find them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use taimatsu_protocol::{ModelId, Moment, PeerId};
use taimatsu_routing::{Chain, Hop, HostTable, Outlook, Part, PlanError, Request, plan, plan_part};

use crate::io::{Ask, Output, Privacy, RouteError};
use crate::policy::{ASK_PATIENCE, LOOKUP_FRESH, LOOKUP_LOST, MAX_LOOKUPS, MAX_WAITING};

/// Asks that wait, oldest first, and what was looked up when.
#[derive(Debug)]
pub(crate) struct Asks {
    me: PeerId,
    seed: u64,
    waiting: VecDeque<Waiting>,
    lookups: BTreeMap<ModelId, Lookup>,
}

#[derive(Debug, Clone)]
struct Waiting {
    ask: Ask,
    /// Of an inference under way.
    part: Option<Part>,
    until: Moment,
}

/// What an ask is answered with.
enum Way {
    Whole(Chain),
    Part(Vec<Hop>),
}

impl Way {
    fn hops(&self) -> &[Hop] {
        match self {
            Self::Whole(chain) => chain.hops(),
            Self::Part(hops) => hops,
        }
    }

    fn output(self, id: u64) -> Output {
        match self {
            Self::Whole(chain) => Output::Routed { id, chain },
            Self::Part(hops) => Output::Mended { id, hops },
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Lookup {
    asked: Moment,
    done: Option<Moment>,
}

impl Waiting {
    fn is_of(&self, model: ModelId, privacy: Privacy) -> bool {
        self.ask.model == model && self.ask.privacy == privacy
    }
}

impl Asks {
    pub(crate) const fn new(me: PeerId, seed: u64) -> Self {
        Self { me, seed, waiting: VecDeque::new(), lookups: BTreeMap::new() }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Answers at once where there is a good way, and otherwise looks first.
    pub(crate) fn ask(
        &mut self,
        now: Moment,
        table: &HostTable,
        outlook: &Outlook,
        (ask, part): (Ask, Option<Part>),
        outputs: &mut VecDeque<Output>,
    ) {
        match self.plan(now, table, outlook, &ask, part.as_ref()) {
            Ok(way) if self.will_do(now, table, &way, &ask.model) => {
                outputs.push_back(way.output(ask.id));
                if !self.is_fresh(&ask.model, now) {
                    self.look_up(now, ask.model, outputs);
                }
            }
            _ if self.waiting.len() >= MAX_WAITING => {
                outputs.push_back(Output::Unroutable { id: ask.id, error: RouteError::Busy });
            }
            _ => {
                self.waiting.push_back(Waiting { ask, part, until: now + ASK_PATIENCE });
                self.look_up(now, ask.model, outputs);
            }
        }
    }

    /// A lookup is over: its asks are answered with what is known now.
    pub(crate) fn looked_up(
        &mut self,
        now: Moment,
        table: &HostTable,
        outlook: &Outlook,
        of: (ModelId, Privacy),
        outputs: &mut VecDeque<Output>,
    ) {
        let (model, privacy) = of;
        if let Some(lookup) = self.lookups.get_mut(&model) {
            lookup.done = Some(now);
        }
        self.answer(now, table, outlook, |waiting| waiting.is_of(model, privacy), outputs);
    }

    /// Models of asks that have waited long enough.
    pub(crate) fn late(&self, now: Moment) -> BTreeSet<(ModelId, Privacy)> {
        let late = self.waiting.iter().filter(|waiting| waiting.until <= now);
        late.map(|waiting| (waiting.ask.model, waiting.ask.privacy)).collect()
    }

    /// Answers those of a model that have waited long enough.
    pub(crate) fn answer_late(
        &mut self,
        now: Moment,
        table: &HostTable,
        outlook: &Outlook,
        of: (ModelId, Privacy),
        outputs: &mut VecDeque<Output>,
    ) {
        let late = |waiting: &Waiting| waiting.until <= now && waiting.is_of(of.0, of.1);
        self.answer(now, table, outlook, late, outputs);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    fn answer(
        &mut self,
        now: Moment,
        table: &HostTable,
        outlook: &Outlook,
        which: impl Fn(&Waiting) -> bool,
        outputs: &mut VecDeque<Output>,
    ) {
        let (ready, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(which);
        self.waiting = waiting.into();
        for Waiting { ask, part, .. } in ready {
            let id = ask.id;
            outputs.push_back(match self.plan(now, table, outlook, &ask, part.as_ref()) {
                Ok(way) => way.output(id),
                Err(error) => Output::Unroutable { id, error: RouteError::Plan(error) },
            });
        }
    }

    fn plan(
        &mut self,
        now: Moment,
        table: &HostTable,
        outlook: &Outlook,
        ask: &Ask,
        part: Option<&Part>,
    ) -> Result<Way, PlanError> {
        self.seed = self.seed.wrapping_add(1);
        let Ask { model, blocks, wish, positions, .. } = *ask;
        let request = Request { model, blocks, wish, positions, me: self.me, seed: self.seed };
        match part {
            None => plan(table, &request, outlook, now).map(Way::Whole),
            Some(part) => plan_part(table, &request, part, outlook, now).map(Way::Part),
        }
    }

    /// Whether to go this way without looking for another: a host that just failed is taken again
    /// only when the swarm was asked for others.
    fn will_do(&self, now: Moment, table: &HostTable, way: &Way, model: &ModelId) -> bool {
        let failed = |hop: &Hop| table.is_suspended(&hop.peer, now);
        self.is_fresh(model, now) || !way.hops().iter().any(failed)
    }

    fn is_fresh(&self, model: &ModelId, now: Moment) -> bool {
        let done = self.lookups.get(model).and_then(|lookup| lookup.done);
        done.is_some_and(|done| now.since(done) < LOOKUP_FRESH)
    }

    /// Begins a lookup, unless one is under way.
    fn look_up(&mut self, now: Moment, model: ModelId, outputs: &mut VecDeque<Output>) {
        let under_way =
            |lookup: &Lookup| lookup.done.is_none() && now.since(lookup.asked) < LOOKUP_LOST;
        if self.lookups.get(&model).is_some_and(under_way) {
            return;
        }
        self.lookups.insert(model, Lookup { asked: now, done: None });
        if self.lookups.len() > MAX_LOOKUPS {
            let oldest = self.lookups.iter().filter(|(known, _)| **known != model);
            let oldest = oldest.min_by_key(|(_, lookup)| lookup.asked).map(|(model, _)| *model);
            if let Some(oldest) = oldest {
                self.lookups.remove(&oldest);
            }
        }
        outputs.push_back(Output::Lookup { model });
    }
}
