//! Checks of the models: the store, every file's digest, and an answer that is known.

use std::path::PathBuf;

use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{Listed, Store, StoreError};
use taimatsu_protocol::Sampling;

use super::{Check, machine};
use crate::cli::Global;
use crate::engine::{Event, Privacy, Prompt, Question, RouteWish};
use crate::failure::Failure;
use crate::library::Library;
use crate::local;
use crate::local_engine::LocalEngine;

/// A prompt of eight tokens, and the eight likeliest that follow it, one after the other: recorded
/// from a run of this executor on the catalogue's model, and the same on every machine.
const GOLDEN_PROMPT: [u32; 8] = [504, 4626, 7313, 1187, 288, 260, 3426, 284];
const GOLDEN_ANSWER: [u32; 8] = [260, 3426, 314, 260, 4626, 30, 198, 198];

/// The store, and each file in it.
pub(super) async fn examine(models: Result<PathBuf, Failure>) -> Vec<Check> {
    let models = match models {
        Ok(models) => models,
        Err(failure) => return vec![Check::failed("store", &failure)],
    };
    let mut checks = vec![machine::models_dir(&models)];
    if !models.is_dir() {
        return checks;
    }
    let read = tokio::task::spawn_blocking(move || {
        let store = Store::open_read_only(&models)?;
        let listed = store.list()?;
        Ok::<_, StoreError>(listed.iter().map(|model| digest(&store, model)).collect::<Vec<_>>())
    });
    match read.await {
        Ok(Ok(digests)) => checks.extend(digests),
        Ok(Err(error)) => checks.push(Check::failed("store", &local::store_failure(&error))),
        Err(error) => checks.push(Check::fail("store", error.to_string(), "taimatsu doctor again")),
    }
    checks
}

fn digest(store: &Store, listed: &Listed) -> Check {
    let name = listed.names.first().cloned().unwrap_or_default();
    // One of several names would leave the file.
    let all = if listed.names.len() > 1 { listed.id.to_string() } else { name.clone() };
    let again = format!("taimatsu rm {all}, then pull or import it again");
    let model = match store.find(&name) {
        Ok(Some(model)) => model,
        Ok(None) => return Check::fail("digest", format!("{name}: its file is gone"), again),
        Err(error) => {
            let failure = local::store_failure(&error);
            return Check::fail("digest", format!("{name}: {}", failure.what()), again);
        }
    };
    match taimatsu_model::store::sha256_of(&model.path) {
        Ok(actual) if Some(&actual) == model.sha256.as_ref() => {
            Check::pass("digest", format!("{name} is what it was"))
        }
        Ok(actual) => {
            Check::fail("digest", format!("{name} was changed: its sha256 is {actual}"), again)
        }
        Err(error) => Check::fail("digest", format!("{name}: {error}"), again),
    }
}

/// Whether this machine computes what every machine computes.
pub(super) async fn golden(global: &Global, models: Option<PathBuf>) -> Check {
    let name = SMOLLM2_135M.name;
    let library = models.and_then(|dir| Store::open_read_only(&dir).ok());
    let library = Library::new(library);
    let found = tokio::task::spawn_blocking(move || library.find(name)).await;
    let model = match found {
        Ok(Ok(Some(model))) if model.path.is_some() && model.id == SMOLLM2_135M.id() => model,
        Ok(Err(error)) => return Check::failed("answer", &error.into()),
        _ => {
            return Check::warn(
                "answer",
                format!("{name} is not stored, so no known answer was computed"),
                format!("taimatsu pull {name}"),
            );
        }
    };
    let engine = LocalEngine::new(model, global.settings.threads.value as usize);
    let mut tokens = Vec::new();
    match engine.ask(question(name)).await {
        Ok(mut answer) => {
            while let Some(event) = answer.events.recv().await {
                match event {
                    Event::Token(token) => tokens.push(token.id),
                    Event::Failed(error) => return Check::failed("answer", &error.into()),
                    Event::Started(_) | Event::Rerouted(_) | Event::Finished(_) => {}
                }
                let _ = answer.consumed.send(tokens.len() as u32);
            }
        }
        Err(error) => return Check::failed("answer", &error.into()),
    }
    verdict(&tokens)
}

fn verdict(tokens: &[u32]) -> Check {
    if tokens == GOLDEN_ANSWER {
        return Check::pass("answer", "eight tokens, as every machine computes them");
    }
    Check::fail(
        "answer",
        format!("computed {tokens:?}, not {GOLDEN_ANSWER:?}: this machine computes wrongly"),
        "test its memory and cooling, and do not host with it; please report what it is",
    )
}

fn question(model: &str) -> Question {
    Question {
        id: None,
        model: model.to_owned(),
        prompt: Prompt::Ids(GOLDEN_PROMPT.to_vec()),
        sampling: Sampling::greedy(),
        max_tokens: Some(GOLDEN_ANSWER.len() as u32),
        stop: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        route: RouteWish::Any,
        privacy: Privacy::Local,
    }
}
