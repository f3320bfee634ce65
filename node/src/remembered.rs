//! What a node remembers, as JSON shows it: standings of peers, receipts of answers.

use serde_json::{Value, json};
use taimatsu_peer::reputation::{Beta, Standing};

use crate::driver::clock::Clock;
use crate::ledger::{Kept, Ledger};

/// Answers shown in one list.
const SHOWN: usize = 100;

/// Answers shown with all their receipts: the choices of one request.
const WHOLE: usize = 8;

/// What is known of a peer (its full id, or the end of it), or of all.
pub(crate) fn standings(all: &[Kept], peer: Option<&str>) -> Value {
    let wanted = |id: &str| peer.is_none_or(|end| id.ends_with(end.trim_start_matches('…')));
    let peers = all.iter().filter_map(|(peer, model, standing)| {
        let id = peer.to_string();
        let name = crate::library::canonical(model);
        wanted(&id).then(|| {
            let mut json = standing_json(standing);
            json["peer"] = id.into();
            json["model"] = model.to_string().into();
            json["name"] = name.into();
            json
        })
    });
    json!({"schema_version": 1, "peers": peers.collect::<Vec<_>>()})
}

/// The last answers; or those that are called so, with all receipts. None: there is no such answer.
pub(crate) fn receipts(ledger: &Ledger, id: Option<&str>) -> Option<Value> {
    let answers = match id {
        None => ledger.answers(SHOWN),
        Some(id) => ledger.answers_called(id, WHOLE),
    };
    if answers.is_empty() && id.is_some() {
        return None;
    }
    let answers: Vec<Value> = answers.iter().map(|answer| answer.to_json(id.is_some())).collect();
    Some(json!({"schema_version": 1, "answers": answers}))
}

fn standing_json(standing: &Standing) -> Value {
    let (correct, available) = standing.at(Clock::wall());
    let score =
        |beta: Beta| json!({"score": beta.expected(), "good": beta.good(), "bad": beta.bad()});
    let reasons = standing.reasons().map(
        |reason| json!({"at": reason.at.0, "what": reason.evidence.word(), "times": reason.times}),
    );
    json!({
        "correct": score(correct),
        "available": score(available),
        "updated": standing.updated().0,
        "why": reasons.collect::<Vec<_>>(),
    })
}
