//! A world in which everything goes wrong at once: only the invariants are promised, and that
//! answers come again when it is over.

use std::time::Duration;

use taimatsu_protocol::Span;

use super::{BOUND, Scenario, all_done, ask_at, asks, hosts, model, question, seconds, spans};
use crate::simulation::asking::Reader;
use crate::simulation::events::Action;
use crate::simulation::world::World;

/// It lasts so many seconds.
const LASTS: u64 = 60;

/// Asks after it, when all is mended and suspensions are over.
const AFTERWARDS: usize = 3;

/// Crashes, cuts, drains, readers that leave, and little room, all at random.
pub(super) const STORM: Scenario = Scenario {
    name: "storm",
    build: |world, nodes| {
        let blocks = world.luck.between(3, 20) as u32;
        let model = model(world, blocks);
        let clients = (nodes / 4).max(2);
        let mut of = spans(&mut world.luck, blocks, 1 + nodes / 10);
        of.push(Span::whole(blocks).expect("a model has blocks"));
        let hosts = hosts(world, model, &of, (nodes - clients.min(nodes - 1)).max(of.len()));
        for host in &hosts {
            let sessions = world.luck.between(1, 4) as usize;
            world.limit_sessions(*host, sessions);
        }
        for _ in 0..clients {
            world.add_node();
        }
        let all = world.nodes.len() as u64;
        for _ in 0..world.luck.between(10, 40) {
            let node = hosts.len() + world.luck.below(clients as u64) as usize;
            let mut question = question(world, node, model);
            question.max_tokens = world.luck.between(1, 150) as u32;
            question.reader = reader(world);
            let at = world.luck.millis(3_000, LASTS * 1_000);
            let ask = ask_at(world, at, question);
            strike_ask(world, ask);
        }
        for _ in 0..world.luck.between(1, all / 2) {
            strike(world, all);
        }
        calm(world, all);
        for number in 0..AFTERWARDS {
            let question = question(world, hosts.len(), model);
            ask_at(world, seconds(LASTS + 100 + 5 * number as u64), question);
        }
    },
    judge: |world| {
        let calm = world.asks.len() - AFTERWARDS;
        all_done(asks(world).skip(calm))
    },
    bound: BOUND,
};

fn reader(world: &mut World) -> Reader {
    match world.luck.below(8) {
        0 => Reader::Paced(world.luck.millis(1, 300)),
        1 => Reader::Pauses { after: 3, pause: world.luck.millis(1_000, 20_000) },
        2 => Reader::Cancels(world.luck.between(1, 60) as usize),
        3 => Reader::Leaves(world.luck.between(1, 60) as usize),
        _ => Reader::Eager,
    }
}

fn strike_ask(world: &mut World, ask: usize) {
    let tokens = world.luck.below(20) as usize;
    let (hop, coin) = (world.luck.below(4) as usize, world.luck.permille(500));
    match world.luck.below(12) {
        0 => world.hook(ask, tokens, Action::CrashHop { ask, hop, silent: coin }),
        1 => world.hook(ask, tokens, Action::HalfOpen { ask, hop, outward: coin }),
        2 => world.hook(ask, tokens, Action::Replay { ask, from: 0 }),
        _ => {}
    }
}

fn strike(world: &mut World, all: u64) {
    let at = world.luck.millis(3_000, LASTS * 1_000);
    let (node, silent) = (world.luck.below(all) as usize, world.luck.permille(500));
    match world.luck.below(6) {
        0 | 1 => world.act(at, Action::Crash { node, silent }),
        2 => {
            world.act(at, Action::Crash { node, silent });
            let back = at + world.luck.millis(100, 9_000);
            world.act(back, Action::Restart(node));
        }
        3 => {
            let sides = (0..all).map(|_| world.luck.permille(300)).collect();
            world.act(at, Action::Part(sides));
            let healed = at + world.luck.millis(100, 15_000);
            world.act(healed, Action::Heal);
        }
        4 => world.act(at, Action::Drain { node, patience: Duration::from_secs(5) }),
        _ => {
            let other = world.luck.below(all) as usize;
            world.links.forbid(node, other);
        }
    }
}

/// Everybody is back, and hears everybody.
fn calm(world: &mut World, all: u64) {
    world.act(seconds(LASTS), Action::Heal);
    for node in 0..all as usize {
        world.act(seconds(LASTS + 1), Action::Crash { node, silent: false });
        world.act(seconds(LASTS + 2), Action::Restart(node));
    }
}
