//! What a request for answers asks for, whichever endpoint it came by: the questions, and how the
//! answers are to look.

use serde_json::{Map, Value};
use taimatsu_protocol::Sampling;

use super::error::ApiError;
use super::fields::{Fields, kind};
use super::sampling::{self, Chosen};
use super::unique::Unique;
use crate::engine::{Privacy, Prompt, Question, RouteWish};

/// The OpenAI API takes as many stop texts.
const MAX_STOPS: usize = 4;

/// Choices per prompt at most.
const MAX_N: i128 = 8;

/// A request that makes sense.
#[derive(Debug, Clone)]
pub(super) struct Order {
    /// The answer's: `chatcmpl-…`, `cmpl-…`.
    pub(super) id: String,
    /// By which endpoint it came.
    pub(super) shape: Shape,
    /// As asked for.
    pub(super) model: String,
    /// One or more.
    pub(super) prompts: Vec<Prompt>,
    /// The prompts are part of the answers.
    pub(super) echo: bool,
    /// Tokens wanted at most.
    pub(super) max_tokens: Option<u32>,
    /// Alternatives wanted per token; none: no log probabilities.
    pub(super) logprobs: Option<u8>,
    /// What both endpoints take.
    pub(super) manner: Manner,
}

/// The two forms of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// `/v1/chat/completions`: a message.
    Chat,
    /// `/v1/completions`: a text.
    Text,
}

/// What both endpoints take, by the same names.
#[derive(Debug, Clone)]
pub(super) struct Manner {
    /// How to choose tokens; `choice` is 0.
    pub(super) sampling: Sampling,
    /// The request left the seed open: the reply tells it.
    pub(super) drawn: bool,
    /// Choices per prompt.
    pub(super) n: usize,
    /// Texts that end an answer.
    pub(super) stop: Vec<String>,
    /// End tokens end nothing.
    pub(super) ignore_eos: bool,
    /// Who may compute.
    pub(super) route: RouteWish,
    /// Who may see it.
    pub(super) privacy: Privacy,
    /// The answer comes as events.
    pub(super) stream: bool,
    /// A last event has the token counts.
    pub(super) include_usage: bool,
    /// The answer carries our label: who computed what, and how fast.
    pub(super) label: bool,
}

impl Order {
    /// The questions: every prompt's choices, prompt after prompt. A choice is one session with the
    /// request's seed and its own number, so the first is the answer that would come alone.
    pub(super) fn questions(&self) -> Vec<Question> {
        let each = |prompt: &Prompt| {
            let prompt = prompt.clone();
            (0..self.manner.n).map(move |choice| self.question(prompt.clone(), choice))
        };
        self.prompts.iter().flat_map(each).collect()
    }

    fn question(&self, prompt: Prompt, choice: usize) -> Question {
        Question {
            id: Some(self.id.clone()),
            model: self.model.clone(),
            prompt,
            sampling: Sampling { choice: choice as u32, ..self.manner.sampling },
            max_tokens: self.max_tokens,
            stop: self.manner.stop.clone(),
            ignore_eos: self.manner.ignore_eos,
            logprobs: self.logprobs,
            route: self.manner.route,
            privacy: self.manner.privacy,
        }
    }

    /// A question about this prompt that wants no token: it is made ids, and nothing is computed.
    pub(super) fn of_no_tokens(&self, prompt: Prompt) -> Question {
        Question { max_tokens: Some(0), ..self.question(prompt, 0) }
    }

    /// Number of choices in all.
    pub(super) fn choices(&self) -> usize {
        self.prompts.len() * self.manner.n
    }

    /// The prompt that a choice answers.
    pub(super) const fn prompt_of(&self, choice: usize) -> usize {
        choice / self.manner.n
    }
}

impl Shape {
    /// The key that the prompt stands under.
    pub(super) const fn prompt_key(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Text => "prompt",
        }
    }
}

impl Manner {
    /// Reads it. `draw` gives the seed where there is none.
    pub(super) fn read(fields: &Fields<'_>, draw: fn() -> u64) -> Result<Self, ApiError> {
        let Chosen { sampling, drawn } = sampling::read(fields, draw)?;
        misplaced(fields)?;
        let Settings { mut label, route, privacy } = taimatsu(fields)?;
        let mut include_usage = false;
        if let Some(map) = fields.object("stream_options")? {
            let options = Fields::new(map, "stream_options.");
            include_usage = options.flag("include_usage")?.unwrap_or(false);
            misplaced(&options)?;
            if let Some(settings) = switch(&options, "taimatsu")? {
                label = true;
                let nothing = Map::new();
                let inner = settings.unwrap_or(&nothing);
                Fields::new(inner, "stream_options.taimatsu.").only(&[])?;
            }
        }
        Ok(Self {
            sampling,
            drawn,
            n: choices(fields)?,
            stop: stops(fields)?,
            ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
            route,
            privacy,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage,
            label,
        })
    }
}

/// A body as the object that it must be.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    let Unique(value) =
        serde_json::from_slice(body).map_err(|error| ApiError::invalid_json(&error))?;
    match value {
        Value::Object(map) => Ok(map),
        other => {
            let found = kind(&other);
            Err(ApiError::wrong_body(format!("the body must be an object, not {found}")))
        }
    }
}

/// The model's name; it may be empty, but not absent.
pub(super) fn model(fields: &Fields<'_>) -> Result<String, ApiError> {
    match fields.text("model")? {
        Some(model) => Ok(model.to_owned()),
        None => Err(ApiError::invalid("model", "`model` is missing")),
    }
}

/// What stands under our own key.
#[derive(Default)]
struct Settings {
    label: bool,
    route: RouteWish,
    privacy: Privacy,
}

/// The settings under our own key.
const OURS: [&str; 2] = ["route", "privacy"];

/// Refuses our settings where they are not heeded: who asks for privacy is not to be overheard
/// because of a letter.
fn misplaced(fields: &Fields<'_>) -> Result<(), ApiError> {
    let heeded = "`taimatsu.privacy` and `taimatsu.route` are heeded, at the top";
    let ours =
        |key: &str| ["taimatsu", "privacy", "route"].contains(&key.trim().to_lowercase().as_str());
    if let Some(key) = fields.keys().find(|key| *key != "taimatsu" && ours(key)) {
        return Err(fields.unknown(key, heeded));
    }
    // What client libraries take apart, and hands write as it stands.
    for key in ["extra_body", "extra", "options"] {
        if let Some(Value::Object(map)) = fields.value(key) {
            let inner = Fields::new(map, format!("{}.", fields.path(key)));
            if let Some(key) = inner.keys().find(|key| ours(key)) {
                return Err(inner.unknown(key, heeded));
            }
        }
    }
    Ok(())
}

/// Our own key: whether the label is wanted, who may compute, and who may see.
fn taimatsu(fields: &Fields<'_>) -> Result<Settings, ApiError> {
    let Some(settings) = switch(fields, "taimatsu")? else { return Ok(Settings::default()) };
    let Some(map) = settings else { return Ok(Settings { label: true, ..Settings::default() }) };
    let settings = Fields::new(map, "taimatsu.");
    settings.only(&OURS)?;
    let route = match settings.text("route")? {
        None => RouteWish::Any,
        Some("local") => RouteWish::Local,
        Some("whole") => RouteWish::Whole,
        Some("chain") => RouteWish::Chain,
        Some(_) => return Err(settings.outside("route", "local, whole or chain")),
    };
    let privacy = match settings.text("privacy")? {
        None | Some("anyone") => Privacy::Anyone,
        Some("trusted") => Privacy::Trusted,
        Some("local") => Privacy::Local,
        Some(_) => return Err(settings.outside("privacy", "local, trusted or anyone")),
    };
    Ok(Settings { label: true, route, privacy })
}

/// True, or an object of settings, is on.
fn switch<'a>(
    fields: &Fields<'a>,
    key: &str,
) -> Result<Option<Option<&'a Map<String, Value>>>, ApiError> {
    match fields.value(key) {
        None | Some(Value::Bool(false)) => Ok(None),
        Some(Value::Bool(true)) => Ok(Some(None)),
        Some(Value::Object(map)) => Ok(Some(Some(map))),
        Some(_) => Err(fields.outside(key, "true, false or an object")),
    }
}

fn choices(fields: &Fields<'_>) -> Result<usize, ApiError> {
    match fields.integer("n")? {
        None => Ok(1),
        Some(n) if (1..=MAX_N).contains(&n) => Ok(n as usize),
        Some(_) => Err(fields.outside("n", &format!("from 1 to {MAX_N}"))),
    }
}

fn stops(fields: &Fields<'_>) -> Result<Vec<String>, ApiError> {
    let texts: Option<Vec<String>> = match fields.value("stop") {
        None => Some(Vec::new()),
        Some(Value::String(text)) => Some(vec![text.clone()]),
        Some(Value::Array(list)) if list.len() <= MAX_STOPS => {
            list.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        }
        Some(_) => None,
    };
    let mut texts =
        texts.ok_or_else(|| fields.outside("stop", "a string, or a list of up to 4 strings"))?;
    // An empty text would stop every answer before its first token; clients send it for "none".
    texts.retain(|text| !text.is_empty());
    Ok(texts)
}
