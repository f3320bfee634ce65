//! A world of a thousand nodes.

use taimatsu_peer::session::Finish;

use super::{BOUND, Scenario, ask_at, asks, hosts, model, question, spans};
use crate::simulation::asking::Outcome;
use crate::simulation::events::Action;
use crate::simulation::world::NodeId;

/// Models of the swarm.
const MODELS: usize = 10;

/// Ten models, a hundred clients, hosts that go: nearly all is answered.
pub(super) const THOUSAND: Scenario = Scenario {
    name: "thousand",
    build: |world, nodes| {
        let clients = nodes / 10;
        for number in 0..MODELS {
            let blocks = world.luck.between(8, 32) as u32;
            let model = model(world, blocks);
            let parts = 1 + number % 4;
            let of = spans(&mut world.luck, blocks, parts);
            // All would look around; it is the same work a thousand times, so few do.
            hosts(world, model, &of, (nodes - clients) / MODELS);
        }
        for node in 0..world.nodes.len() {
            world.nodes[node].looks_around = node % 50 == 0;
        }
        let clients: Vec<NodeId> = (0..clients).map(|_| world.add_node()).collect();
        for client in &clients {
            world.nodes[*client].looks_around = client % 10 == 0;
            for _ in 0..3 {
                let model = world.luck.below(MODELS as u64) as usize;
                let question = question(world, *client, model);
                let at = world.luck.millis(6_000, 40_000);
                ask_at(world, at, question);
            }
        }
        for node in 0..nodes - clients.len() {
            if world.luck.permille(50) && node < world.nodes.len() {
                let (at, silent) = (world.luck.millis(5_000, 40_000), world.luck.permille(500));
                world.act(at, Action::Crash { node, silent });
            }
        }
    },
    judge: |world| {
        let all = world.asks.len();
        let done = asks(world)
            .filter(|(_, ask)| ask.outcome == Some(Outcome::Done(Finish::Length)))
            .count();
        (done * 10 >= all * 9)
            .then_some(())
            .ok_or_else(|| format!("{done} of {all} asks were answered"))
    },
    bound: BOUND,
};
