//! Parameters of the OpenAI API that are known here, not supported yet, and would change the
//! answer: to ignore them would be to answer another question. Values that change nothing pass,
//! for libraries send them by themselves.

use serde_json::Value;

use super::error::ApiError;
use super::fields::Fields;

/// Refuses the first parameter that asks for what we cannot do.
pub(super) fn refuse(fields: &Fields<'_>, rules: &[Rule]) -> Result<(), ApiError> {
    for (key, harmless, why) in rules {
        if fields.value(key).is_some_and(|value| !harmless(value)) {
            let path = fields.path(key);
            return Err(ApiError::unsupported(
                path.clone(),
                format!("`{path}` is not supported here: {why}"),
            ));
        }
    }
    Ok(())
}

/// A parameter, which of its values change nothing, and what is missing.
pub(super) type Rule = (&'static str, fn(&Value) -> bool, &'static str);

/// Of a chat request.
pub(super) const CHAT: [Rule; 11] = [
    NO_BIAS,
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

/// Of a request for the continuation of a text.
pub(super) const TEXT: [Rule; 3] = [
    NO_BIAS,
    ("suffix", no_text, "the models here continue a text, and fill no gap in one"),
    ("best_of", one, "every choice that is made is returned; use `n`"),
];

const NO_BIAS: Rule = ("logit_bias", no_bias, "no token can be made likelier or less likely");

fn never(_: &Value) -> bool {
    false
}

fn one(value: &Value) -> bool {
    value.as_f64() == Some(1.0)
}

fn no_text(value: &Value) -> bool {
    value.as_str() == Some("")
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
