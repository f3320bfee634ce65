//! A chat request, read the way real clients write it: nulls and unknown keys are nothing, wrong
//! types and unsupported wishes are a 400 that names its parameter.

use serde_json::Value;

use super::error::ApiError;
use super::fields::{Fields, kind};
use super::order::{self, Manner, Order, Shape};
use super::unsupported;
use crate::engine::{Message, Prompt};

/// Alternatives per token at most, as in the OpenAI API.
const MAX_TOP: u32 = 20;

/// Reads a body. `draw` gives the seed where it has none.
pub(super) fn parse(body: &[u8], draw: fn() -> u64) -> Result<Order, ApiError> {
    let map = order::object(body)?;
    let fields = Fields::new(&map, "");
    let model = order::model(&fields)?;
    unsupported::refuse(&fields, &unsupported::CHAT)?;
    let most = fields.count("max_tokens")?;
    Ok(Order {
        id: format!("chatcmpl-{:016x}", draw()),
        shape: Shape::Chat,
        model,
        prompts: vec![Prompt::Chat(messages(&fields)?)],
        echo: false,
        max_tokens: fields.count("max_completion_tokens")?.or(most),
        logprobs: logprobs(&fields)?,
        manner: Manner::read(&fields, draw)?,
    })
}

fn logprobs(fields: &Fields<'_>) -> Result<Option<u8>, ApiError> {
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.count("top_logprobs")?.unwrap_or(0);
    if top > MAX_TOP {
        return Err(fields.outside("top_logprobs", "from 0 to 20"));
    }
    if top > 0 && !wanted {
        let text = "`top_logprobs` needs `logprobs` to be true";
        return Err(ApiError::invalid("top_logprobs", text));
    }
    Ok(wanted.then_some(top as u8))
}

fn messages(fields: &Fields<'_>) -> Result<Vec<Message>, ApiError> {
    let Some(list) = fields.list("messages")? else {
        return Err(ApiError::invalid("messages", "`messages` is missing"));
    };
    if list.is_empty() {
        return Err(ApiError::invalid("messages", "`messages` must hold a message"));
    }
    list.iter().enumerate().map(|(at, value)| message(at, value)).collect()
}

fn message(at: usize, value: &Value) -> Result<Message, ApiError> {
    let place = format!("messages[{at}]");
    let Some(map) = value.as_object() else {
        let text = format!("`{place}` must be an object, not {}", kind(value));
        return Err(ApiError::invalid(place, text));
    };
    let fields = Fields::new(map, format!("{place}."));
    let Some(role) = fields.text("role")? else {
        return Err(fields.outside("role", "given"));
    };
    let role = match role {
        // The newer name of the same thing; templates know the older one.
        "developer" => "system",
        "system" | "user" | "assistant" | "tool" => role,
        _ => return Err(fields.outside("role", "system, developer, user, assistant or tool")),
    };
    for key in ["tool_calls", "function_call", "audio"] {
        let there = fields.value(key);
        if there.is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            let path = fields.path(key);
            let text = format!("`{path}` is not supported here");
            return Err(ApiError::unsupported(path, text));
        }
    }
    let content = match fields.value("content") {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(parts)) => text_of(parts, &fields.path("content"))?,
        // An assistant that only called a tool said nothing.
        None if role == "assistant" => String::new(),
        _ => return Err(fields.outside("content", "a string or a list of text parts")),
    };
    Ok(Message { role: role.to_owned(), content })
}

/// The parts' texts, each on lines of its own.
fn text_of(parts: &[Value], place: &str) -> Result<String, ApiError> {
    let mut texts = Vec::with_capacity(parts.len());
    for (at, part) in parts.iter().enumerate() {
        let place = format!("{place}[{at}]");
        let Some(map) = part.as_object() else {
            let text = format!("`{place}` must be an object, not {}", kind(part));
            return Err(ApiError::invalid(place, text));
        };
        let fields = Fields::new(map, format!("{place}."));
        match fields.text("type")? {
            Some("text") => {}
            None => return Err(fields.outside("type", "given")),
            Some(other) => {
                let text = format!("`{place}` is of the type {other:?}; only text is understood");
                return Err(ApiError::unsupported(fields.path("type"), text));
            }
        }
        let Some(text) = fields.text("text")? else {
            return Err(fields.outside("text", "given"));
        };
        texts.push(text);
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::RouteWish;
    use serde_json::json;

    fn seven() -> u64 {
        7
    }

    fn parse(change: Value) -> Result<Order, Value> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        let target = body.as_object_mut().unwrap();
        for (key, value) in change.as_object().unwrap() {
            target.insert(key.clone(), value.clone());
        }
        parse_bytes(body.to_string().as_bytes())
    }

    fn parse_bytes(body: &[u8]) -> Result<Order, Value> {
        super::parse(body, seven).map_err(|error| error.to_json()["error"].take())
    }

    fn chat(request: &Order) -> &[Message] {
        match &request.prompts[0] {
            Prompt::Chat(messages) => messages,
            other => panic!("not a chat: {other:?}"),
        }
    }

    #[test]
    fn a_bare_request_has_the_defaults_of_the_openai_api() {
        let request = parse(json!({})).unwrap();
        let Order { max_tokens, logprobs, manner, .. } = request;
        let Manner { sampling, stop, ignore_eos, stream, include_usage, label, .. } = manner;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.top_k), (1.0, 1.0, 0));
        assert_eq!((sampling.min_p, sampling.repeat_penalty, sampling.seed), (0.0, 1.0, 7));
        assert_eq!((max_tokens, stop, ignore_eos, logprobs), (None, vec![], false, None));
        assert_eq!((sampling.frequency_penalty, sampling.presence_penalty), (0.0, 0.0));
        assert!(!stream && !include_usage && !label && manner.drawn);
        assert_eq!((manner.n, manner.route), (1, RouteWish::Any));
    }

    #[test]
    fn nulls_and_unknown_keys_are_nothing() {
        let keys = [
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "repeat_penalty",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "max_tokens",
            "max_completion_tokens",
            "n",
            "tools",
            "tool_choice",
            "logprobs",
            "top_logprobs",
            "logit_bias",
            "response_format",
            "modalities",
            "audio",
            "prediction",
            "ignore_eos",
            "taimatsu",
            "user",
            "chat_template_kwargs",
        ];
        for key in keys {
            let mut change = json!({"never_heard_of": {"deep": [1]}});
            change[key] = Value::Null;
            assert!(parse(change).is_ok(), "{key}");
        }
    }

    #[test]
    fn values_that_change_nothing_pass() {
        for change in [
            json!({"n": 1}),
            json!({"n": 1.0}),
            json!({"presence_penalty": 0}),
            json!({"frequency_penalty": 0.0}),
            json!({"response_format": {"type": "text"}}),
            json!({"logprobs": false, "top_logprobs": 0}),
            json!({"logit_bias": {}}),
            json!({"logit_bias": {"foo": 0}}),
            json!({"tools": [], "tool_choice": "none"}),
            json!({"functions": [], "function_call": "none"}),
            json!({"modalities": ["text"]}),
            json!({"chat_template_kwargs": {}}),
            json!({"reasoning_effort": "low"}),
            json!({"user": "u", "metadata": {"a": "b"}, "store": true, "service_tier": "auto"}),
            json!({"stop": []}),
            json!({"stop": ""}),
            json!({"top_k": -1}),
            json!({"top_k": 3.0}),
            json!({"stream_options": {"continuous_usage_stats": true}}),
        ] {
            assert!(parse(change.clone()).is_ok(), "{change}");
        }
    }

    #[test]
    fn what_is_not_supported_and_matters_is_refused_by_name() {
        for (param, value) in [
            ("logit_bias", json!({"50256": -100})),
            ("tools", json!([{"type": "function"}])),
            ("tool_choice", json!("required")),
            ("functions", json!([{"name": "f"}])),
            ("function_call", json!({"name": "f"})),
            ("response_format", json!({"type": "json_object"})),
            ("modalities", json!(["text", "audio"])),
            ("audio", json!({"voice": "x"})),
            ("prediction", json!({"type": "content", "content": "x"})),
            ("chat_template_kwargs", json!({"enable_thinking": false})),
        ] {
            let error = parse(json!({ param: value })).unwrap_err();
            assert_eq!(error["code"], "unsupported_parameter", "{param}: {error}");
            assert_eq!(error["param"], param);
            assert_eq!(error["type"], "invalid_request_error");
        }
    }

    #[test]
    fn wrong_types_and_values_are_refused_by_name() {
        for (param, value) in [
            ("model", json!(3)),
            ("messages", json!("hi")),
            ("messages", json!([])),
            ("temperature", json!("warm")),
            ("temperature", json!(2.01)),
            ("temperature", json!(-0.1)),
            ("top_p", json!(0)),
            ("top_p", json!(1.5)),
            ("top_p", json!(1e-60)),
            ("top_k", json!(-2)),
            ("top_k", json!(1.5)),
            ("min_p", json!(1.1)),
            ("repeat_penalty", json!(0)),
            ("repeat_penalty", json!(11)),
            ("seed", json!("one")),
            ("seed", json!(1e300)),
            ("max_tokens", json!(-1)),
            ("max_completion_tokens", json!("many")),
            ("stop", json!(1)),
            ("stop", json!(["a", "b", "c", "d", "e"])),
            ("stop", json!(["a", 1])),
            ("stream", json!("yes")),
            ("stream_options", json!(true)),
            ("n", json!(0)),
            ("n", json!(9)),
            ("logprobs", json!(1)),
            ("top_logprobs", json!(3)),
            ("top_logprobs", json!(21)),
            ("presence_penalty", json!(2.1)),
            ("frequency_penalty", json!("much")),
            ("ignore_eos", json!(1)),
            ("taimatsu", json!("on")),
        ] {
            let error = parse(json!({ param: value })).unwrap_err();
            assert_eq!(error["code"], "invalid_value", "{param}: {error}");
            assert_eq!(error["param"], param, "{error}");
        }
        let error = parse(json!({"stream_options": {"include_usage": 1}})).unwrap_err();
        assert_eq!(error["param"], "stream_options.include_usage");
        let error = parse(json!({"taimatsu": {"route": "moon"}})).unwrap_err();
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!("taimatsu.route"), &json!("invalid_value"))
        );
    }

    #[test]
    fn a_body_that_is_no_json_says_where() {
        let error = parse_bytes(b"{\"model\": \"m\",\n \"messages\" [}").unwrap_err();
        assert_eq!(error["code"], "invalid_json");
        assert!(error["message"].as_str().unwrap().contains("line 2 column 13"), "{error}");
        assert_eq!(parse_bytes(b"").unwrap_err()["code"], "invalid_json");
        assert_eq!(parse_bytes(b"[]").unwrap_err()["code"], "invalid_value");
        assert_eq!(parse_bytes(b"{}").unwrap_err()["param"], "model");
        assert_eq!(parse_bytes(b"{\"model\":\"m\"}").unwrap_err()["param"], "messages");
        let deep = [b"[".repeat(100_000), b"]".repeat(100_000)].concat();
        assert_eq!(parse_bytes(&deep).unwrap_err()["code"], "invalid_json");
    }

    #[test]
    fn a_seed_is_any_64_bits() {
        for (seed, bits) in [
            (json!(0), 0),
            (json!(-1), u64::MAX),
            (json!(i64::MIN), 1 << 63),
            (json!(-9_007_199_254_740_992_i64), 0xffe0_0000_0000_0000),
            (json!(u64::MAX), u64::MAX),
        ] {
            assert_eq!(parse(json!({"seed": seed})).unwrap().manner.sampling.seed, bits);
        }
    }

    #[test]
    fn the_newer_length_wins_and_a_huge_one_is_the_most() {
        let wanted = |change| parse(change).unwrap().max_tokens;
        assert_eq!(wanted(json!({"max_tokens": 5, "max_completion_tokens": 9})), Some(9));
        assert_eq!(wanted(json!({"max_tokens": 5, "max_completion_tokens": null})), Some(5));
        assert_eq!(wanted(json!({"max_tokens": 0})), Some(0));
        assert_eq!(wanted(json!({"max_tokens": 99_999_999_999_u64})), Some(u32::MAX));
    }

    #[test]
    fn messages_come_in_every_form() {
        let request = parse(json!({"messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "name": "x", "content": [
                {"type": "text", "text": "one"}, {"type": "text", "text": "two"},
            ]},
            {"role": "assistant", "content": null, "tool_calls": [], "refusal": null},
            {"role": "tool", "tool_call_id": "1", "content": "42"},
        ]}))
        .unwrap();
        let read: Vec<_> =
            chat(&request).iter().map(|m| (m.role.as_str(), m.content.as_str())).collect();
        let wanted =
            [("system", "be brief"), ("user", "one\ntwo"), ("assistant", ""), ("tool", "42")];
        assert_eq!(read, wanted);
    }

    #[test]
    fn a_wrong_message_is_named_by_its_place() {
        for (message, param, code) in [
            (json!("hi"), "messages[1]", "invalid_value"),
            (json!({"content": "hi"}), "messages[1].role", "invalid_value"),
            (json!({"role": "king", "content": "hi"}), "messages[1].role", "invalid_value"),
            (json!({"role": "user"}), "messages[1].content", "invalid_value"),
            (json!({"role": "user", "content": 4}), "messages[1].content", "invalid_value"),
            (json!({"role": "user", "content": ["hi"]}), "messages[1].content[0]", "invalid_value"),
            (
                json!({"role": "user", "content": [{"type": "text"}]}),
                "messages[1].content[0].text",
                "invalid_value",
            ),
            (
                json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}),
                "messages[1].content[0].type",
                "unsupported_parameter",
            ),
            (
                json!({"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}),
                "messages[1].tool_calls",
                "unsupported_parameter",
            ),
        ] {
            let error = parse(json!({"messages": [{"role": "user", "content": "a"}, message]}));
            let error = error.unwrap_err();
            assert_eq!((&error["param"], &error["code"]), (&json!(param), &json!(code)), "{error}");
        }
    }

    #[test]
    fn stop_usage_and_label_are_read() {
        let request = parse(json!({
            "stop": ["a", "", "b"], "stream": true, "ignore_eos": true,
            "stream_options": {"include_usage": true, "taimatsu": {}},
        }))
        .unwrap();
        let Manner { stop, stream, include_usage, label, ignore_eos, .. } = request.manner;
        assert_eq!(stop, ["a", "b"]);
        assert!(stream && include_usage && label && ignore_eos);
        assert_eq!(parse(json!({"stop": "END"})).unwrap().manner.stop, ["END"]);
        assert!(parse(json!({"taimatsu": true})).unwrap().manner.label);
        assert!(!parse(json!({"taimatsu": false})).unwrap().manner.label);
    }

    #[test]
    fn a_route_can_be_forced_and_brings_the_label() {
        for (word, wish) in
            [("local", RouteWish::Local), ("whole", RouteWish::Whole), ("chain", RouteWish::Chain)]
        {
            let manner = parse(json!({"taimatsu": {"route": word}})).unwrap().manner;
            assert_eq!((manner.route, manner.label), (wish, true));
        }
        let manner = parse(json!({"taimatsu": {"route": null}})).unwrap().manner;
        assert_eq!((manner.route, manner.label), (RouteWish::Any, true));
    }

    #[test]
    fn our_own_settings_are_heeded_or_refused() {
        for (change, key, hint) in [
            (json!({"taimatsu": {"Privacy": "local"}}), "taimatsu.Privacy", "`taimatsu.privacy`"),
            (json!({"taimatsu": {"privcy": "local"}}), "taimatsu.privcy", "`taimatsu.privacy`"),
            (json!({"taimatsu": {"later": null}}), "taimatsu.later", "route and privacy"),
            (json!({"taimatsu": false, "privacy": "local"}), "privacy", "`taimatsu.privacy`"),
            (json!({"Taimatsu": {"privacy": "local"}}), "Taimatsu", "`taimatsu.privacy`"),
            (
                json!({"stream_options": {"taimatsu": {"privacy": "local"}}}),
                "stream_options.taimatsu.privacy",
                "at the top",
            ),
            (
                json!({"stream_options": {"privacy": "local"}}),
                "stream_options.privacy",
                "`taimatsu.privacy`",
            ),
        ] {
            let error = parse(change).unwrap_err();
            assert_eq!((&error["param"], &error["code"]), (&json!(key), &json!("invalid_value")));
            let message = error["message"].as_str().unwrap();
            assert!(message.contains(hint), "{message}");
        }
        let manner = parse(json!({"taimatsu": {"privacy": "local"}, "user": "u"})).unwrap().manner;
        assert_eq!(manner.privacy, crate::engine::Privacy::Local);
    }

    #[test]
    fn choices_logprobs_and_penalties_are_read() {
        let order = parse(json!({
            "n": 3, "logprobs": true, "top_logprobs": 20,
            "presence_penalty": 1.5, "frequency_penalty": -2, "seed": 4,
        }))
        .unwrap();
        assert_eq!((order.choices(), order.logprobs, order.manner.drawn), (3, Some(20), false));
        let questions = order.questions();
        let keys: Vec<_> = questions.iter().map(|q| (q.sampling.seed, q.sampling.choice)).collect();
        assert_eq!(keys, [(4, 0), (4, 1), (4, 2)]);
        let sampling = questions[2].sampling;
        assert_eq!((sampling.presence_penalty, sampling.frequency_penalty), (1.5, -2.0));
        assert_eq!(parse(json!({"logprobs": true})).unwrap().logprobs, Some(0));
    }
}
