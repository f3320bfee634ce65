//! A request to continue texts, read as [`super::chat_request`] reads a chat.

use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;
use super::order::{self, Manner, Order, Shape};
use super::unsupported;
use crate::engine::Prompt;

/// Tokens of an answer whose asker did not say how many: the OpenAI API's number.
const DEFAULT_TOKENS: u32 = 16;

/// Alternatives per token at most, as in the OpenAI API.
const MAX_TOP: u32 = 5;

/// Prompts of one request. A few are worked on at a time, so more would only wait here.
const MAX_PROMPTS: usize = 64;

const FORMS: &str = "a string, a list of token ids, or a list of up to 64 of either";

/// Reads a body. `draw` gives the seed where it has none.
pub(super) fn parse(body: &[u8], draw: fn() -> u64) -> Result<Order, ApiError> {
    let map = order::object(body)?;
    let fields = Fields::new(&map, "");
    let model = order::model(&fields)?;
    unsupported::refuse(&fields, &unsupported::TEXT)?;
    Ok(Order {
        id: format!("cmpl-{:016x}", draw()),
        shape: Shape::Text,
        model,
        prompts: prompts(&fields)?,
        echo: fields.flag("echo")?.unwrap_or(false),
        max_tokens: Some(fields.count("max_tokens")?.unwrap_or(DEFAULT_TOKENS)),
        logprobs: logprobs(&fields)?,
        manner: Manner::read(&fields, draw)?,
    })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, ApiError> {
    match fields.count("logprobs")? {
        Some(top) if top > MAX_TOP => Err(fields.outside("logprobs", "from 0 to 5")),
        top => Ok(top.map(|top| top as u8)),
    }
}

fn prompts(fields: &Fields<'_>) -> Result<Vec<Prompt>, ApiError> {
    let wrong = || fields.outside("prompt", FORMS);
    match fields.value("prompt") {
        None => Err(ApiError::invalid("prompt", "`prompt` is missing")),
        Some(Value::String(text)) => Ok(vec![Prompt::Raw(text.clone())]),
        Some(Value::Array(list)) if list.first().is_some_and(Value::is_number) => {
            Ok(vec![ids(list).ok_or_else(wrong)?])
        }
        Some(Value::Array(list)) if (1..=MAX_PROMPTS).contains(&list.len()) => {
            let prompt = |value: &Value| match value {
                Value::String(text) => Some(Prompt::Raw(text.clone())),
                Value::Array(list) => ids(list),
                _ => None,
            };
            list.iter().map(prompt).collect::<Option<_>>().ok_or_else(wrong)
        }
        Some(_) => Err(wrong()),
    }
}

fn ids(list: &[Value]) -> Option<Prompt> {
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok();
    list.iter().map(id).collect::<Option<_>>().map(Prompt::Ids)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(change: Value) -> Result<Order, Value> {
        let mut body = json!({"model": "m", "prompt": "Once"});
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let body = body.to_string();
        super::parse(body.as_bytes(), || 7).map_err(|error| error.to_json()["error"].take())
    }

    #[test]
    fn prompts_come_in_four_forms() {
        for (prompt, wanted) in [
            (json!("a"), r#"[Raw("a")]"#),
            (json!(["a", "b"]), r#"[Raw("a"), Raw("b")]"#),
            (json!([1, 2]), "[Ids([1, 2])]"),
            (json!([[1, 2], [3]]), "[Ids([1, 2]), Ids([3])]"),
            (json!([""]), r#"[Raw("")]"#),
        ] {
            let order = parse(json!({ "prompt": prompt })).unwrap();
            assert_eq!(format!("{:?}", order.prompts), wanted);
        }
        for prompt in
            [json!([]), json!(3), json!([1, "a"]), json!([[1, -2]]), json!([1.5]), json!({})]
        {
            let error = parse(json!({ "prompt": prompt })).unwrap_err();
            assert_eq!(
                (&error["param"], &error["code"]),
                (&json!("prompt"), &json!("invalid_value"))
            );
        }
        assert!(parse(json!({"prompt": vec!["a"; 64]})).is_ok());
        assert!(parse(json!({"prompt": vec!["a"; 65]})).is_err());
        assert!(
            parse(json!({"prompt": null})).unwrap_err()["message"]
                .as_str()
                .unwrap()
                .contains("missing")
        );
    }

    #[test]
    fn every_prompt_has_its_choices() {
        let order = parse(json!({"prompt": ["a", "b"], "n": 2})).unwrap();
        let asked: Vec<String> = order
            .questions()
            .iter()
            .map(|question| format!("{:?} {}", question.prompt, question.sampling.choice))
            .collect();
        assert_eq!(asked, [r#"Raw("a") 0"#, r#"Raw("a") 1"#, r#"Raw("b") 0"#, r#"Raw("b") 1"#]);
        assert_eq!((order.choices(), order.prompt_of(1), order.prompt_of(2)), (4, 0, 1));
    }

    #[test]
    fn defaults_are_those_of_the_openai_api() {
        let order = parse(json!({})).unwrap();
        assert_eq!((order.max_tokens, order.logprobs, order.echo), (Some(16), None, false));
        let order = parse(json!({"echo": true, "max_tokens": 0, "logprobs": 5})).unwrap();
        assert_eq!((order.max_tokens, order.logprobs, order.echo), (Some(0), Some(5), true));
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (param, value, code) in [
            ("suffix", json!("end"), "unsupported_parameter"),
            ("best_of", json!(2), "unsupported_parameter"),
            ("logit_bias", json!({"5": 1}), "unsupported_parameter"),
            ("logprobs", json!(6), "invalid_value"),
            ("logprobs", json!(true), "invalid_value"),
            ("echo", json!("yes"), "invalid_value"),
            ("n", json!(9), "invalid_value"),
        ] {
            let error = parse(json!({ param: value })).unwrap_err();
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)));
        }
        assert!(parse(json!({"suffix": "", "best_of": 1, "logit_bias": {}, "user": "u"})).is_ok());
    }
}
