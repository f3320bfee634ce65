//! Worlds that lose hosts and links: failures are named, and what can be answered is.

use std::time::Duration;

use super::{BOUND, Scenario, all_done, ask_at, asks, hosts, model, question, seconds, spans};
use crate::simulation::asking::Outcome;
use crate::simulation::events::Action;
use crate::simulation::world::{NodeId, World};

/// A host vanishes in the middle of an answer: the answer is whole all the same, and the next ask
/// goes another way.
pub(super) const VANISHES: Scenario = Scenario {
    name: "vanishes",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        let mut first = question(world, client, model);
        first.max_tokens = world.luck.between(30, 60) as u32;
        let (tokens, hop) = (world.luck.between(1, 20) as usize, world.luck.below(5) as usize);
        let silent = world.luck.permille(500);
        let ask = ask_at(world, seconds(6), first);
        world.hook(ask, tokens, Action::CrashHop { ask, hop, silent });
        for later in [20, 24, 70] {
            let question = question(world, client, model);
            ask_at(world, seconds(later), question);
        }
    },
    judge: |world| {
        all_done(asks(world))?;
        let dead = the_dead(world)?;
        for (number, ask) in asks(world).skip(1) {
            if number < 3 && ask.chains.last().is_some_and(|chain| chain.contains(&dead)) {
                return Err(format!("ask {number} was answered by the dead n{dead}"));
            }
        }
        Ok(())
    },
    bound: BOUND,
};

/// A host vanishes before the first token: nobody is the wiser.
pub(super) const VANISHES_EARLY: Scenario = Scenario {
    name: "vanishes_early",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        let first = question(world, client, model);
        let (hop, silent) = (world.luck.below(5) as usize, world.luck.permille(500));
        let ask = ask_at(world, seconds(6), first);
        world.hook(ask, 0, Action::CrashHop { ask, hop, silent });
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Blocks lose their only host, are missed by name, and are answered when they are back.
pub(super) const GAP: Scenario = Scenario {
    name: "gap",
    build: |world, nodes| {
        let blocks = 12;
        let model = model(world, blocks);
        let of = spans(&mut world.luck, blocks, (nodes.saturating_sub(2)).clamp(2, 5));
        let all = hosts(world, model, &of, of.len());
        let (client, spare) = (world.add_node(), world.add_node());
        let gone = world.luck.below(of.len() as u64) as usize;
        let first = question(world, client, model);
        ask_at(world, seconds(6), first);
        world.act(seconds(60), Action::Crash { node: all[gone], silent: true });
        // The last announcement lives five minutes from when it was made.
        let then = question(world, client, model);
        ask_at(world, seconds(390), then);
        world.act(seconds(400), Action::Host { node: spare, span: of[gone] });
        let healed = question(world, client, model);
        ask_at(world, seconds(420), healed);
    },
    judge: |world| {
        let dead = the_dead(world)?;
        let missing = vec![world.nodes[dead].workers[0].span.inclusive()];
        if world.asks[1].outcome != Some(Outcome::Uncovered(missing)) {
            return Err(format!("the gap is told as {:?}", world.asks[1].outcome));
        }
        all_done(asks(world).filter(|(number, _)| *number != 1))
    },
    bound: BOUND,
};

/// The map falls into two for a while: every ask ends, and after the healing all are answered.
pub(super) const PARTITION: Scenario = Scenario {
    name: "partition",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        let other = world.add_node();
        let sides = (0..world.nodes.len()).map(|_| world.luck.permille(500)).collect();
        let (cut, healed) = (world.luck.between(8, 12), world.luck.between(20, 60));
        world.act(seconds(cut), Action::Part(sides));
        world.act(seconds(healed), Action::Heal);
        for at in [6, 7, 9, 11, 15, 19] {
            for node in [client, other] {
                let at = seconds(at) + world.luck.millis(0, 2_000);
                let question = question(world, node, model);
                ask_at(world, at, question);
            }
        }
        for node in [client, other] {
            let question = question(world, node, model);
            ask_at(world, seconds(healed + 45), question);
        }
    },
    judge: |world| all_done(asks(world).skip(12)),
    bound: BOUND,
};

/// One direction between the client and a hop is cut: another takes the hop's place, and nothing
/// stays.
pub(super) const HALF_OPEN: Scenario = Scenario {
    name: "half_open",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        let mut first = question(world, client, model);
        first.max_tokens = world.luck.between(300, 400) as u32;
        let (tokens, hop) = (world.luck.between(0, 20) as usize, world.luck.below(5) as usize);
        let outward = world.luck.permille(500);
        let ask = ask_at(world, seconds(6), first);
        world.hook(ask, tokens, Action::HalfOpen { ask, hop, outward });
        let second = question(world, client, model);
        ask_at(world, seconds(90), second);
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// All hosts are restarted at once: their old announcements are worth nothing, and yet they are
/// found.
pub(super) const RESTART: Scenario = Scenario {
    name: "restart",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 1);
        let first = question(world, client, model);
        ask_at(world, seconds(6), first);
        for node in 0..client {
            let silent = world.luck.permille(500);
            world.act(seconds(20), Action::Crash { node, silent });
            let back = seconds(21) + world.luck.millis(0, 900);
            world.act(back, Action::Restart(node));
        }
        for at in [24, 40] {
            let question = question(world, client, model);
            ask_at(world, seconds(at), question);
        }
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// A host leaves in good order: what runs is finished, and nobody new comes.
pub(super) const DRAIN: Scenario = Scenario {
    name: "drain",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        for number in 0..8 {
            let question = question(world, client, model);
            ask_at(world, seconds(6) + Duration::from_millis(number * 1_500), question);
        }
        let node = world.luck.below(client as u64) as usize;
        let at = world.luck.millis(6_000, 14_000);
        world.act(at, Action::Drain { node, patience: seconds(30) });
    },
    judge: |world| all_done(asks(world)),
    bound: BOUND,
};

/// Hosts that come and go, in permille.
const CHURNING: u64 = 300;

/// How long.
const CHURN_MINUTES: u64 = 10;

/// A third of the hosts comes and goes in ten minutes.
pub(super) const CHURN: Scenario = Scenario {
    name: "churn",
    build: |world, nodes| {
        let (model, client) = spares(world, nodes, 2);
        let end = CHURN_MINUTES * 60;
        for node in 0..client {
            if world.luck.permille(CHURNING) {
                let at = world.luck.between(20, end - 60);
                let silent = world.luck.permille(500);
                world.act(seconds(at), Action::Crash { node, silent });
                if world.luck.permille(600) {
                    let back = at + world.luck.between(2, 120);
                    world.act(seconds(back), Action::Restart(node));
                }
            }
        }
        let mut at = 6;
        while at < end {
            let question = question(world, client, model);
            ask_at(world, seconds(at), question);
            at += world.luck.between(4, 16);
        }
    },
    judge: |world| {
        let crashed = |node: NodeId| world.nodes[node].life > 0;
        let mut failed = 0;
        for (number, ask) in asks(world) {
            match &ask.outcome {
                Some(Outcome::Done(_)) => {}
                Some(Outcome::Failed { host, .. }) if crashed(*host) => failed += 1,
                Some(Outcome::Uncovered(_)) if world.nodes.iter().any(|node| !node.up) => {
                    failed += 1;
                }
                other => return Err(format!("ask {number} ended with {other:?}")),
            }
        }
        let asked = world.asks.len();
        (failed * 5 <= asked)
            .then_some(())
            .ok_or_else(|| format!("{failed} of {asked} asks failed"))
    },
    bound: BOUND,
};

/// A model whose spans have at least `copies` and one more hosts each, and a client: the node
/// after the hosts.
fn spares(world: &mut World, nodes: usize, copies: usize) -> (usize, NodeId) {
    let blocks = world.luck.between(4, 24) as u32;
    let model = model(world, blocks);
    let most = ((nodes.saturating_sub(1)) / (copies + 1)).clamp(1, 4) as u64;
    let parts = world.luck.between(1, most.min(u64::from(blocks))) as usize;
    let of = spans(&mut world.luck, blocks, parts);
    let count = (parts * (copies + 1)).max(nodes.saturating_sub(1));
    hosts(world, model, &of, count);
    let client = world.add_node();
    (model, client)
}

fn the_dead(world: &World) -> Result<NodeId, String> {
    let dead = world.nodes.iter().position(|node| !node.up);
    dead.ok_or_else(|| "nobody has crashed".to_owned())
}
