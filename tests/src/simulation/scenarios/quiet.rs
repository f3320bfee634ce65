//! Worlds in which all hosts stay: answers are whole, however they are read.

use std::time::Duration;

use taimatsu_peer::routing::Wish;
use taimatsu_peer::session::Finish;

use super::{BOUND, Scenario, all_done, ask_at, asks, hosts, model, question, seconds, spans};
use crate::simulation::asking::{Outcome, Reader};
use crate::simulation::events::Action;
use crate::simulation::world::{NodeId, World};

/// A chain answers; so does a whole-model host.
pub(super) const ANSWERS: Scenario = Scenario {
    name: "answers",
    build: |world, nodes| {
        let (model, clients) = swarm(world, nodes, 1);
        for number in 0..world.luck.between(2, 8) {
            let node = world.luck.one(&clients).expect("there are clients");
            let mut question = question(world, node, model);
            if world.luck.permille(500) {
                question.wish = Wish::Chain;
            }
            ask_at(world, seconds(6) + Duration::from_millis(number * 700), question);
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Neighbours that cannot dial each other are joined through the client.
pub(super) const RELAYED: Scenario = Scenario {
    name: "relayed",
    build: |world, nodes| {
        let (model, clients) = swarm(world, nodes, 2);
        let nodes = world.nodes.len();
        for (from, to) in (0..nodes).flat_map(|from| (0..nodes).map(move |to| (from, to))) {
            if !clients.contains(&from) && !clients.contains(&to) && world.luck.permille(600) {
                world.links.forbid(from, to);
            }
        }
        for number in 0..4 {
            let node = world.luck.one(&clients).expect("there are clients");
            let mut question = question(world, node, model);
            question.wish = Wish::Chain;
            ask_at(world, seconds(6 + number), question);
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Readers that read slowly, or not at all for minutes, get everything in the end.
pub(super) const SLOW_READER: Scenario = Scenario {
    name: "slow_reader",
    build: |world, nodes| {
        let (model, clients) = swarm(world, nodes.min(12), 1);
        for number in 0..3 {
            let node = world.luck.one(&clients).expect("there are clients");
            let mut question = question(world, node, model);
            question.max_tokens = world.luck.between(60, 200) as u32;
            question.reader = match number {
                0 => Reader::Paced(world.luck.millis(50, 600)),
                1 => {
                    let after = world.luck.between(1, 50) as usize;
                    Reader::Pauses { after, pause: world.luck.millis(20_000, 150_000) }
                }
                _ => Reader::Eager,
            };
            ask_at(world, seconds(6 + number), question);
        }
    },
    judge: |world| all_done(asks(world)),
    bound: Duration::from_secs(400),
};

/// Askers that have enough, and askers that are gone, leave nothing behind.
pub(super) const CANCEL: Scenario = Scenario {
    name: "cancel",
    build: |world, nodes| {
        let (model, clients) = swarm(world, nodes, 1);
        for number in 0..6 {
            let node = world.luck.one(&clients).expect("there are clients");
            let mut question = question(world, node, model);
            question.max_tokens = world.luck.between(20, 100) as u32;
            let after = world.luck.between(1, 19) as usize;
            let cancels = number % 2 == 0;
            question.reader = if cancels { Reader::Cancels(after) } else { Reader::Leaves(after) };
            ask_at(world, seconds(6 + number), question);
        }
        let node = world.luck.one(&clients).expect("there are clients");
        let last = question(world, node, model);
        ask_at(world, seconds(15), last);
    },
    judge: |world| {
        for (number, ask) in asks(world).take(6) {
            let right = match number % 2 {
                0 => ask.outcome == Some(Outcome::Done(Finish::Cancelled)),
                _ => ask.outcome == Some(Outcome::Gone),
            };
            if !right {
                return Err(format!("ask {number} ended with {:?}", ask.outcome));
            }
        }
        all_done(asks(world).skip(6))
    },
    bound: BOUND,
};

/// Whoever sends a copy of an opening is refused, and disturbs nobody.
pub(super) const REPLAY: Scenario = Scenario {
    name: "replay",
    build: |world, nodes| {
        let (model, clients) = swarm(world, nodes, 1);
        let node = world.luck.one(&clients).expect("there are clients");
        let robber = world.add_node();
        let question = question(world, node, model);
        let tokens = world.luck.between(1, u64::from(question.max_tokens) - 1) as usize;
        let ask = ask_at(world, seconds(6), question);
        world.hook(ask, tokens, Action::Replay { ask, from: robber });
        world.act(seconds(60), Action::Replay { ask, from: robber });
    },
    judge: |world| {
        all_done(asks(world))?;
        let (copies, refused) = (world.replays_sent, world.replays_refused);
        (refused == copies)
            .then_some(())
            .ok_or_else(|| format!("{refused} of {copies} copies refused"))
    },
    bound: BOUND,
};

/// A model of some blocks, hosts of its spans (at least `parts` spans), and clients.
fn swarm(world: &mut World, nodes: usize, parts: u64) -> (usize, Vec<NodeId>) {
    let blocks = world.luck.between(4, 30) as u32;
    let model = model(world, blocks);
    let clients = (nodes / 6).clamp(1, 4);
    let room = (nodes - clients).max(2) as u64;
    let parts = world.luck.between(parts, room.min(5).min(u64::from(blocks))) as usize;
    let mut of = spans(&mut world.luck, blocks, parts.max(2));
    if parts == 1 {
        of.push(taimatsu_protocol::Span::whole(blocks).expect("a model has blocks"));
    }
    let count = (room as usize).max(of.len());
    hosts(world, model, &of, count);
    let clients = (0..clients).map(|_| world.add_node()).collect();
    (model, clients)
}
