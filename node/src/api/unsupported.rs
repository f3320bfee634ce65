//! Parameters of the OpenAI API that are known here, not supported yet, and would change the
//! answer: to ignore them would be to answer another question. Values that change nothing pass,
//! for libraries send them by themselves.

use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

/// Refuses the first parameter that asks for what we cannot do.
pub(super) fn refuse(fields: &Fields<'_>) -> Result<(), ApiError> {
    for (key, harmless, why) in RULES {
        if fields.value(key).is_some_and(|value| !harmless(value)) {
            let path = fields.path(key);
            return Err(ApiError::unsupported(
                path.clone(),
                format!("`{path}` is not supported here: {why}"),
            ));
        }
    }
    choices(fields)
}

/// A parameter, which of its values change nothing, and what is missing.
type Rule = (&'static str, fn(&Value) -> bool, &'static str);

const RULES: [Rule; 15] = [
    ("logprobs", off, "log probabilities are not given yet"),
    ("top_logprobs", off, "log probabilities are not given yet"),
    ("logit_bias", no_bias, "no token can be made likelier or less likely"),
    ("presence_penalty", zero, "use repeat_penalty"),
    ("frequency_penalty", zero, "use repeat_penalty"),
    ("tools", empty, "tools are not called yet"),
    ("tool_choice", no_choice, "tools are not called yet"),
    ("functions", empty, "functions are not called yet"),
    ("function_call", no_choice, "functions are not called yet"),
    ("response_format", plain_text, "answers are text without a form"),
    ("modalities", only_text, "answers are text"),
    ("audio", empty, "answers are text"),
    ("prediction", empty, "no predicted answer is taken"),
    ("web_search_options", never, "nothing is searched for"),
    ("chat_template_kwargs", empty, "the template takes no arguments yet"),
];

/// `n` is a number of its own: 0 and below are wrong, above 1 is not supported.
fn choices(fields: &Fields<'_>) -> Result<(), ApiError> {
    match fields.integer("n")? {
        None | Some(1) => Ok(()),
        Some(n) if n < 1 => Err(fields.outside("n", "1 or more")),
        Some(_) => {
            Err(ApiError::unsupported("n", "`n` above 1 is not supported here: one answer is made"))
        }
    }
}

fn never(_: &Value) -> bool {
    false
}

fn off(value: &Value) -> bool {
    value == &Value::Bool(false) || zero(value)
}

fn zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn empty(value: &Value) -> bool {
    match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

fn no_bias(value: &Value) -> bool {
    value.as_object().is_some_and(|map| map.values().all(zero))
}

/// Without tools, `auto` chooses none.
fn no_choice(value: &Value) -> bool {
    matches!(value.as_str(), Some("none" | "auto"))
}

fn plain_text(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("text")
}

fn only_text(value: &Value) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|item| item == "text"))
}
