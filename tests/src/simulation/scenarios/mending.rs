//! Answers that lose hosts and are whole all the same: what is lost, when, and who is there to
//! take its place.

use super::{BOUND, Scenario, all_done, ask_at, asks, hosts, model, question, seconds, spans};
use crate::simulation::asking::{Question, Reader};
use crate::simulation::events::Action;
use crate::simulation::world::{NodeId, World};

/// Hosts are lost one after another, several at once or again in the same place, at any moment;
/// every span has as many hosts as are lost, and one more.
pub(super) const MENDS: Scenario = Scenario {
    name: "mends",
    build: |world, nodes| {
        let losses = world.luck.between(1, 4) as usize;
        let (model, client) = chain(world, nodes, losses + 1);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        for _ in 0..losses {
            let tokens = world.luck.below(most) as usize;
            let (hop, silent) = (world.luck.below(6) as usize, world.luck.permille(400));
            world.hook(ask, tokens, Action::CrashHop { ask, hop, silent });
        }
        let later = question(world, client, model);
        ask_at(world, seconds(60), later);
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Neighbours are lost in one moment.
pub(super) const MENDS_PAIRS: Scenario = Scenario {
    name: "mends_pairs",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes, 3);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        let tokens = world.luck.below(most) as usize;
        let hop = world.luck.below(5) as usize;
        for hop in [hop, hop + 1] {
            let silent = world.luck.permille(300);
            world.hook(ask, tokens, Action::CrashHop { ask, hop, silent });
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Nobody is there to take the place for a while; then the lost host is back, or another comes, in
/// one piece or in two.
pub(super) const MENDS_LATE: Scenario = Scenario {
    name: "mends_late",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes.min(8), 1);
        let spare = world.add_node();
        let other = world.add_node();
        let mut first = long(world, client, model);
        // Nobody is lost while the session is being opened: then the caller hears of it at once.
        first.max_tokens = 200;
        first.reader = Reader::Paced(world.luck.millis(30, 60));
        ask_at(world, seconds(6), first);
        let gone = world.luck.below(client as u64) as usize;
        let (crash, back) = (world.luck.millis(8_000, 9_500), world.luck.between(12, 45));
        let silent = world.luck.permille(500);
        world.act(crash, Action::Crash { node: gone, silent });
        let span = world.nodes[gone].workers[0].span;
        match world.luck.below(3) {
            0 => world.act(seconds(back), Action::Restart(gone)),
            1 => world.act(seconds(back), Action::Host { node: spare, span }),
            _ => {
                let blocks = span.blocks();
                let all = world.models[model].shape.blocks;
                let cut = blocks.start + (blocks.end - blocks.start) / 2;
                let parts = match cut {
                    cut if cut > blocks.start => vec![blocks.start..cut, cut..blocks.end],
                    _ => vec![blocks],
                };
                for (node, part) in [spare, other].into_iter().zip(parts) {
                    let span = taimatsu_protocol::Span::new(part, all).expect("it is inside");
                    world.act(seconds(back), Action::Host { node, span });
                }
            }
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// A host is not heard of for a while, and wakes up: nobody listens to it any more.
pub(super) const WAKES: Scenario = Scenario {
    name: "wakes",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes, 2);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        let tokens = world.luck.below(most) as usize;
        let hop = world.luck.below(5) as usize;
        let pause = world.luck.millis(500, 30_000);
        world.hook(ask, tokens, Action::Stop { ask, hop, pause });
        let later = question(world, client, model);
        ask_at(world, seconds(70), later);
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// A lane is cut while both its ends are there: what was on it is sent again.
pub(super) const LANE_CUT: Scenario = Scenario {
    name: "lane_cut",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes, 2);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        for _ in 0..world.luck.between(1, 3) {
            let tokens = world.luck.below(most) as usize;
            let lane = world.luck.below(5) as usize;
            world.hook(ask, tokens, Action::CutLane { ask, lane });
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// What a hop sends to the next one is lost, and both are there.
pub(super) const LANE_HALF_OPEN: Scenario = Scenario {
    name: "lane_half_open",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes, 2);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        let (tokens, lane) = (world.luck.below(most) as usize, world.luck.below(5) as usize);
        world.hook(ask, tokens, Action::HalfLane { ask, lane });
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Hosts leave in good order, while answers run on them: nobody waits for a deadline.
pub(super) const LEAVES: Scenario = Scenario {
    name: "leaves",
    build: |world, nodes| {
        let (model, client) = chain(world, nodes, 2);
        let first = long(world, client, model);
        let most = u64::from(first.max_tokens);
        let ask = ask_at(world, seconds(6), first);
        let (tokens, hop) = (world.luck.below(most) as usize, world.luck.below(5) as usize);
        let patience = world.luck.millis(0, 3_000);
        world.hook(ask, tokens, Action::DrainHop { ask, hop, patience });
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// A model whose spans have so many hosts each, and a client: the node after the hosts. All may
/// be in one chain.
fn chain(world: &mut World, nodes: usize, copies: usize) -> (usize, NodeId) {
    let blocks = world.luck.between(4, 24) as u32;
    let model = model(world, blocks);
    let most = (nodes.saturating_sub(1) / copies).clamp(1, 5) as u64;
    let parts = world.luck.between(1, most.min(u64::from(blocks))) as usize;
    let of = spans(&mut world.luck, blocks, parts);
    hosts(world, model, &of, parts * copies);
    let client = world.add_node();
    (model, client)
}

/// A question whose answer is long enough to lose hosts in.
fn long(world: &mut World, node: NodeId, model: usize) -> Question {
    let mut question = question(world, node, model);
    question.max_tokens = world.luck.between(20, 200) as u32;
    if world.luck.permille(300) {
        question.reader = Reader::Paced(world.luck.millis(1, 60));
    }
    question
}
