//! Which models there are, whether any can be answered, and which program this is.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde_json::{Value, json};

use super::Api;
use super::error::ApiError;
use crate::engine::{ModelState, ranges};
use crate::library::alike;

/// `GET /v1/models`: all that are known, each with its state.
pub(super) async fn list(State(api): State<Api>) -> Json<Value> {
    let models = api.engine.models().await;
    let data: Vec<Value> = models.iter().map(|model| entry(model, api.since)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// `GET /v1/models/{id}`, by name or by `blake3:` id.
pub(super) async fn one(
    State(api): State<Api>,
    asked: Result<Path<String>, PathRejection>,
) -> Result<Json<Value>, ApiError> {
    let Path(asked) = asked.map_err(|error| ApiError::invalid("model", error.to_string()))?;
    let models = api.engine.models().await;
    let found = models
        .iter()
        .find(|model| model.name == asked || model.id.as_deref() == Some(asked.as_str()));
    match found {
        Some(model) => Ok(Json(entry(model, api.since))),
        None => Err(ApiError::unknown_model(
            &asked,
            &alike(&asked, models.iter().map(|model| model.name.clone())),
        )),
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
    format!("{} has no host for blocks {}", model.name, ranges(&model.missing))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::{self, Fake};
    use axum::http::StatusCode;

    const NAMES: [(&str, bool); 3] =
        [("smollm2:135m", true), ("hub/smollm2:360m", false), ("qwen3:0.6b", false)];

    async fn get(models: &[(&str, bool)], path: &str) -> (StatusCode, Value) {
        let router = Fake::knowing(models).router();
        let (status, _, body) = fake::json_reply(router, fake::request(path, None)).await;
        (status, body)
    }

    #[tokio::test]
    async fn the_list_has_every_model_and_its_state() {
        let (status, body) = get(&NAMES, "/v1/models").await;
        assert_eq!((status, &body["object"]), (StatusCode::OK, &json!("list")));
        let data = body["data"].as_array().unwrap();
        assert_eq!(data.len(), 3);
        assert_eq!((&data[0]["id"], &data[0]["object"]), (&json!("smollm2:135m"), &json!("model")));
        assert!(data[0]["created"].is_u64() && data[0]["owned_by"].is_string());
        assert_eq!(data[0]["swarm"]["state"], "healthy");
        assert_eq!(data[1]["swarm"]["state"], "broken");
        assert_eq!(data[1]["swarm"]["missing"], json!([[0, 9], [20, 29]]));
        assert_eq!(get(&[], "/v1/models").await.1["data"], json!([]));
    }

    #[tokio::test]
    async fn one_model_is_found_by_name_with_slashes_and_colons_and_by_id() {
        for path in [
            "/v1/models/hub/smollm2:360m",
            "/v1/models/hub%2Fsmollm2%3A360m",
            "/v1/models/blake3:hub/smollm2:360m",
        ] {
            let (status, body) = get(&NAMES, path).await;
            assert_eq!(
                (status, &body["id"]),
                (StatusCode::OK, &json!("hub/smollm2:360m")),
                "{path}"
            );
        }
    }

    #[tokio::test]
    async fn an_unknown_model_is_a_404_with_names_that_are_alike() {
        let (status, body) = get(&NAMES, "/v1/models/smollm2:1.7b").await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert_eq!(body["error"]["code"], "model_not_found");
        let text = body["error"]["message"].as_str().unwrap();
        assert!(text.contains("did you mean smollm2:135m?"), "{text}");
        assert!(!text.contains("qwen3"), "{text}");
    }

    #[tokio::test]
    async fn health_is_200_only_while_some_model_can_be_answered() {
        let (status, body) = get(&NAMES, "/health").await;
        assert_eq!((status, &body["models"]), (StatusCode::OK, &json!(["smollm2:135m"])));
        let (status, body) = get(&NAMES[1..], "/health").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let error = &body["error"];
        assert_eq!(error["code"], "coverage_incomplete");
        let text = error["message"].as_str().unwrap();
        assert!(text.contains("qwen3:0.6b has no host for blocks 0-9, 20-29"), "{text}");
        assert_eq!(error["models"][0]["missing"], json!([[0, 9], [20, 29]]));
        let (status, body) = get(&[], "/health").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(body["error"]["message"].as_str().unwrap().contains("none is known"));
    }

    #[tokio::test]
    async fn the_version_is_the_packages() {
        let (status, body) = get(&[], "/version").await;
        assert_eq!((status, &body["version"]), (StatusCode::OK, &json!(env!("CARGO_PKG_VERSION"))));
    }
}
