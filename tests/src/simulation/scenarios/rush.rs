//! Worlds of many asks: load spreads, and a lie about speed does not pay.

use std::collections::BTreeMap;

use taimatsu_peer::routing::Wish;
use taimatsu_peer::session::Finish;
use taimatsu_protocol::Span;

use super::{BOUND, Scenario, all_done, ask_at, asks, model, question, seconds, spans};
use crate::simulation::asking::Outcome;
use crate::simulation::worker::Speed;
use crate::simulation::world::{NodeId, World};

/// Asks of a crowd.
const CROWD_ASKS: u64 = 100;

/// No host gets more than so many times its fair share.
const UNFAIR: u64 = 3;

/// A hundred clients on one model: each is answered, or told when to come again.
pub(super) const CROWD: Scenario = Scenario {
    name: "crowd",
    build: |world, nodes| {
        let blocks = 12;
        let model = model(world, blocks);
        // Near-equal in distance, too: a far host is no equal.
        world.links.shrink(4_000);
        let hosts = (nodes / 4).clamp(3, 6);
        for _ in 0..hosts {
            let speed = near(world.luck.between(4_000, 5_000));
            let whole = Span::whole(blocks).expect("a model has blocks");
            let host = world.add_host(model, whole, speed);
            world.nodes[host].workers[0].warm_up();
        }
        let clients: Vec<NodeId> =
            (0..(nodes - hosts.min(nodes - 1)).max(4)).map(|_| world.add_node()).collect();
        let within = world.luck.between(1_000, 40_000);
        for _ in 0..CROWD_ASKS {
            let node = world.luck.one(&clients).expect("there are clients");
            let question = question(world, node, model);
            let at = world.luck.millis(20_000, 20_000 + within);
            ask_at(world, at, question);
        }
    },
    judge: |world| {
        let mut done = 0;
        for (number, ask) in asks(world) {
            match &ask.outcome {
                Some(Outcome::Done(Finish::Length)) => done += 1,
                Some(Outcome::Busy(retry_ms)) if *retry_ms > 0 => {}
                other => return Err(format!("ask {number} ended with {other:?}")),
            }
        }
        let hosts = world.nodes.iter().filter(|node| !node.workers.is_empty());
        let admitted: Vec<u64> = hosts.map(|node| node.admitted).collect();
        let most = admitted.iter().copied().max().unwrap_or(0);
        let all: u64 = admitted.iter().sum();
        let unfair = most * admitted.len() as u64 > UNFAIR * all;
        match (unfair, done) {
            (true, _) => Err(format!("sessions per host: {admitted:?}")),
            (_, 0..20) => Err(format!("only {done} answers")),
            _ => Ok(()),
        }
    },
    bound: BOUND,
};

/// A whole-model host says that it is the fastest, and is the slowest.
pub(super) const FALSE_SPEED: Scenario = Scenario {
    name: "false_speed",
    build: |world, nodes| {
        let whole = Span::whole(12).expect("a model has blocks");
        lies(world, nodes, &[whole]);
    },
    judge: liar_is_left,
    bound: BOUND,
};

/// So does a host of a span, in company.
pub(super) const FALSE_SPEED_IN_CHAIN: Scenario = Scenario {
    name: "false_speed_in_chain",
    build: |world, nodes| {
        let spans = spans(&mut world.luck, 12, 3);
        lies(world, nodes, &spans);
    },
    judge: liar_is_left,
    bound: BOUND,
};

/// Answers that a client gets from the liar before it knows.
const LESSONS: usize = 3;

/// Node 0 lies; every span has honest hosts besides.
fn lies(world: &mut World, nodes: usize, spans: &[Span]) {
    let model = model(world, 12);
    let mut slow = near(world.luck.between(300_000, 500_000));
    slow.lie = Some(1);
    let span = world.luck.one(spans).expect("there are spans");
    world.add_host(model, span, slow);
    let honest = (nodes.saturating_sub(3)).clamp(2 * spans.len(), 12);
    for span in spans.iter().cycle().take(honest) {
        let speed = near(world.luck.between(2_000, 6_000));
        world.add_host(model, *span, speed);
    }
    for _ in 0..2 {
        let client = world.add_node();
        let mut at = seconds(6);
        for _ in 0..12 {
            let mut question = question(world, client, model);
            question.prompt.truncate(30);
            question.max_tokens = 16;
            question.wish = Wish::Any;
            ask_at(world, at, question);
            at += seconds(10) + world.luck.millis(0, 4_000);
        }
    }
}

fn liar_is_left(world: &World) -> Result<(), String> {
    all_done(asks(world))?;
    let mut of_client: BTreeMap<NodeId, Vec<bool>> = BTreeMap::new();
    for (_, ask) in asks(world) {
        let asked = ask.chains.last().is_some_and(|chain| chain.contains(&0));
        of_client.entry(ask.question.node).or_default().push(asked);
    }
    for (client, asked) in of_client {
        let lessons = asked.iter().filter(|asked| **asked).count();
        if lessons > LESSONS {
            return Err(format!("n{client} goes on asking the liar: {asked:?}"));
        }
    }
    Ok(())
}

const fn near(decode_micros: u64) -> Speed {
    Speed { decode_micros, prefill_micros: 200, lie: None, capacity: 4_096 }
}
