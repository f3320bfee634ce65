//! Which models there are, whether any can be answered, and which program this is.

use axum::Json;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use crate::engine::ModelState;

/// Names that a 404 suggests at most.
const NEAR: usize = 3;

/// `GET /v1/models`: all that are known, each with its state.
pub(super) async fn list(State(api): State<Api>) -> Json<Value> {
    let models = api.engine.models().await;
    let data: Vec<Value> = models.iter().map(|model| entry(model, api.since)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// `GET /v1/models/{id}`, by name or by `blake3:` id.
pub(super) async fn one(
    State(api): State<Api>,
    Path(asked): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let models = api.engine.models().await;
    let found = models
        .iter()
        .find(|model| model.name == asked || model.id.as_deref() == Some(asked.as_str()));
    match found {
        Some(model) => Ok(Json(entry(model, api.since))),
        None => Err(ApiError::unknown_model(&asked, &near(&asked, &models))),
    }
}

/// `GET /health`: whether a question would be answered now, and if not, what is missing.
pub(super) async fn health(State(api): State<Api>) -> Result<Json<Value>, ApiError> {
    let models = api.engine.models().await;
    let ready: Vec<&str> =
        models.iter().filter(|model| model.ready).map(|model| model.name.as_str()).collect();
    if !ready.is_empty() {
        return Ok(Json(json!({ "status": "ok", "models": ready })));
    }
    let message = if models.is_empty() {
        "no model can be answered: none is known here".to_owned()
    } else {
        let lacks: Vec<String> = models.iter().map(lack).collect();
        format!("no model can be answered: {}", lacks.join("; "))
    };
    let states: Vec<Value> = models.iter().map(state).collect();
    Err(ApiError::nothing_ready(message, json!(states)))
}

/// `GET /version`.
pub(super) async fn version() -> Json<Value> {
    Json(json!({ "name": "taimatsu", "version": env!("CARGO_PKG_VERSION") }))
}

/// Known models whose names are like `asked`: best first, a few.
pub(super) fn near(asked: &str, models: &[ModelState]) -> Vec<String> {
    let asked = asked.to_lowercase();
    let likeness = |name: &str| {
        let name = name.to_lowercase();
        let alike = name.chars().zip(asked.chars()).take_while(|(a, b)| a == b).count();
        // Three letters in common are a family, fewer are chance.
        let contained = !asked.is_empty() && (name.contains(&asked) || asked.contains(&name));
        if alike >= 3 || contained { alike.max(1) } else { 0 }
    };
    let mut found: Vec<(usize, &str)> = models
        .iter()
        .map(|model| (likeness(&model.name), model.name.as_str()))
        .filter(|(likeness, _)| *likeness > 0)
        .collect();
    found.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    found.into_iter().take(NEAR).map(|(_, name)| name.to_owned()).collect()
}

/// A model as the OpenAI libraries read it; what is ours stands under one key.
fn entry(model: &ModelState, created: u64) -> Value {
    json!({
        "id": model.name,
        "object": "model",
        "created": created,
        "owned_by": "taimatsu",
        "swarm": state(model),
    })
}

fn state(model: &ModelState) -> Value {
    json!({
        "name": model.name,
        "state": if model.ready { "healthy" } else { "broken" },
        "model_id": model.id,
        "blocks": model.blocks,
        "missing": model.missing,
        "hosts": model.hosts,
    })
}

/// What a model lacks, in words.
fn lack(model: &ModelState) -> String {
    if model.missing.is_empty() {
        return format!("{} is not ready", model.name);
    }
    let blocks: Vec<String> = model.missing.iter().map(|[a, b]| format!("{a}-{b}")).collect();
    format!("{} has no host for blocks {}", model.name, blocks.join(", "))
}
