//! Inferences that want hosts, and the lookups that may find them.

use std::collections::{BTreeMap, VecDeque};

use taimatsu_protocol::{ModelId, Moment, PeerId};
use taimatsu_routing::{Chain, Hop, HostTable, PlanError, Request, plan};

use crate::io::{Ask, Output, RouteError};
use crate::policy::{ASK_PATIENCE, LOOKUP_FRESH, LOOKUP_LOST, MAX_LOOKUPS, MAX_WAITING};

/// Asks that wait, oldest first, and what was looked up when.
#[derive(Debug)]
pub(crate) struct Asks {
    me: PeerId,
    seed: u64,
    waiting: VecDeque<Waiting>,
    lookups: BTreeMap<ModelId, Lookup>,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    ask: Ask,
    until: Moment,
}

#[derive(Debug, Clone, Copy)]
struct Lookup {
    asked: Moment,
    done: Option<Moment>,
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
        ask: Ask,
        outputs: &mut VecDeque<Output>,
    ) {
        match self.plan(now, table, &ask) {
            Ok(chain) if self.will_do(now, table, &chain, &ask.model) => {
                outputs.push_back(Output::Routed { id: ask.id, chain });
                if !self.is_fresh(&ask.model, now) {
                    self.look_up(now, ask.model, outputs);
                }
            }
            _ if self.waiting.len() >= MAX_WAITING => {
                outputs.push_back(Output::Unroutable { id: ask.id, error: RouteError::Busy });
            }
            _ => {
                self.waiting.push_back(Waiting { ask, until: now + ASK_PATIENCE });
                self.look_up(now, ask.model, outputs);
            }
        }
    }

    /// A lookup is over: its asks are answered with what is known now.
    pub(crate) fn looked_up(
        &mut self,
        now: Moment,
        table: &HostTable,
        model: ModelId,
        outputs: &mut VecDeque<Output>,
    ) {
        if let Some(lookup) = self.lookups.get_mut(&model) {
            lookup.done = Some(now);
        }
        self.answer(now, table, |waiting| waiting.ask.model == model, outputs);
    }

    /// Answers those that have waited long enough.
    pub(crate) fn answer_late(
        &mut self,
        now: Moment,
        table: &HostTable,
        outputs: &mut VecDeque<Output>,
    ) {
        self.answer(now, table, |waiting| waiting.until <= now, outputs);
    }

    pub(crate) fn poll_timeout(&self) -> Option<Moment> {
        self.waiting.iter().map(|waiting| waiting.until).min()
    }

    fn answer(
        &mut self,
        now: Moment,
        table: &HostTable,
        which: impl Fn(&Waiting) -> bool,
        outputs: &mut VecDeque<Output>,
    ) {
        let (ready, waiting): (Vec<_>, Vec<_>) = self.waiting.drain(..).partition(which);
        self.waiting = waiting.into();
        for Waiting { ask, .. } in ready {
            let id = ask.id;
            outputs.push_back(match self.plan(now, table, &ask) {
                Ok(chain) => Output::Routed { id, chain },
                Err(error) => Output::Unroutable { id, error: RouteError::Plan(error) },
            });
        }
    }

    fn plan(&mut self, now: Moment, table: &HostTable, ask: &Ask) -> Result<Chain, PlanError> {
        self.seed = self.seed.wrapping_add(1);
        let Ask { model, blocks, wish, positions, .. } = *ask;
        let request = Request { model, blocks, wish, positions, me: self.me, seed: self.seed };
        plan(table, &request, now)
    }

    /// Whether to go this way without looking for another: a host that just failed is taken again
    /// only when the swarm was asked for others.
    fn will_do(&self, now: Moment, table: &HostTable, chain: &Chain, model: &ModelId) -> bool {
        let failed = |hop: &Hop| table.is_suspended(&hop.peer, now);
        self.is_fresh(model, now) || !chain.hops().iter().any(failed)
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
