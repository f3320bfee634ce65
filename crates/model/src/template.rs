//! Chat templates: messages become the text that the model was trained to continue.
//!
//! A template is a program by whoever made the model, and on a client it comes from a host: so its
//! length, its steps, its memory, its time and its output have limits, and it reaches nothing but
//! what [`Prompt`] holds.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::Serialize;
use taimatsu_protocol::UnixSeconds;

mod bounded;
mod strftime;

pub use strftime::utc;

/// The longest template, in bytes: the longest in use have some thirty thousand. It bounds how deep
/// an expression can be, so the stack that compiles it too.
pub const MAX_TEMPLATE: usize = 128 << 10;

/// The longest rendered prompt, in bytes: a million tokens, and then some.
pub const MAX_RENDERED: usize = 8 << 20;

/// A chat template that compiles.
#[derive(Debug, Clone)]
pub struct Template {
    source: Arc<str>,
    /// Whether it did not end in time once: then a thread is lost to it, and one is enough.
    stuck: Arc<AtomicBool>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what the template knows besides.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// What a template may read.
#[derive(Debug, Clone, Copy)]
pub struct Prompt<'a> {
    /// The conversation so far.
    pub messages: &'a [Message],
    /// Whether the prompt ends where the assistant begins to speak.
    pub add_generation_prompt: bool,
    /// The name of the token that begins a text; empty if there is none.
    pub bos: &'a str,
    /// The name of the token that ends a text; empty if there is none.
    pub eos: &'a str,
    /// The time that the template may write into the prompt.
    pub now: UnixSeconds,
}

/// Why a template gives no prompt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template itself is too long.
    #[error("chat template of {0} bytes is over the limit of {MAX_TEMPLATE}")]
    TooLong(usize),
    /// Not text.
    #[error("chat template is not UTF-8")]
    Text,
    /// Not a template.
    #[error("chat template does not compile: {0}")]
    Syntax(String),
    /// It ran into its limit of steps and memory.
    #[error("chat template takes too many steps for these messages")]
    Steps,
    /// It did not end in time, so it is not run again.
    #[error("chat template does not end; the model is not usable for chats")]
    Stuck,
    /// There is no stack for it.
    #[error("no memory for the thread that chat templates run on")]
    Stack,
    /// It wrote more than a prompt can be.
    #[error("chat template gives more than {MAX_RENDERED} bytes for these messages")]
    Output,
    /// It refused the messages (`raise_exception`), or failed on them.
    #[error("chat template does not take these messages: {0}")]
    Refused(String),
}

impl Template {
    /// A template from its source.
    ///
    /// # Errors
    /// Too long, or it does not compile.
    pub fn new(source: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong(source.len()));
        }
        let template = Self { source: source.into(), stuck: Arc::default() };
        let source = Arc::clone(&template.source);
        bounded::run(TIME, move || environment(&source, 0).map(drop))?;
        Ok(template)
    }

    /// A template from a blob that somebody sent.
    ///
    /// # Errors
    /// Not text, too long, or it does not compile.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, TemplateError> {
        if bytes.len() > MAX_TEMPLATE {
            return Err(TemplateError::TooLong(bytes.len()));
        }
        Self::new(std::str::from_utf8(bytes).map_err(|_| TemplateError::Text)?)
    }

    /// The source.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a prompt.
    ///
    /// # Errors
    /// The template refuses the messages, or runs into a limit.
    pub fn render(&self, prompt: &Prompt<'_>) -> Result<String, TemplateError> {
        self.render_within(TIME, prompt)
    }

    fn render_within(&self, time: Duration, prompt: &Prompt<'_>) -> Result<String, TemplateError> {
        if self.stuck.load(Ordering::Relaxed) {
            return Err(TemplateError::Stuck);
        }
        let bytes: usize = prompt.messages.iter().map(|message| message.content.len()).sum();
        let fuel = FUEL + prompt.messages.len() as u64 * FUEL_OF_MESSAGE + bytes as u64 / 4;
        let messages = prompt.messages.iter().map(|message| {
            let parts = [("role", &message.role), ("content", &message.content)];
            Value::from_pairs(parts.map(|(name, text)| (name, text.as_str())))
        });
        let messages: Vec<Value> = messages.collect();
        let now = prompt.now;
        let context = context! {
            messages => messages,
            add_generation_prompt => prompt.add_generation_prompt,
            bos_token => prompt.bos,
            eos_token => prompt.eos,
            strftime_now => Value::from_function(move |format: String| utc(now, &format)),
        };
        let source = Arc::clone(&self.source);
        let rendered = bounded::run(time, move || render(&source, fuel.min(MAX_FUEL), &context));
        if rendered == Err(TemplateError::Stuck) {
            self.stuck.store(true, Ordering::Relaxed);
        }
        rendered
    }
}

fn render(source: &str, fuel: u64, context: &Value) -> Result<String, TemplateError> {
    let env = environment(source, fuel)?;
    let template = env.get_template(NAME).map_err(syntax)?;
    let mut output = Limited::default();
    match template.render_captured_to(context, &mut output) {
        Ok(_) => {}
        Err(_) if output.full => return Err(TemplateError::Output),
        Err(error) => return Err(failure(&error)),
    }
    String::from_utf8(output.bytes).map_err(|_| TemplateError::Text)
}

fn environment(source: &str, fuel: u64) -> Result<Environment<'_>, TemplateError> {
    let mut env = Environment::new();
    let blocks = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    env.set_syntax(blocks.map_err(syntax)?);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.set_fuel(Some(fuel));
    env.add_filter("tojson", tojson);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_template(NAME, source).map_err(syntax)?;
    Ok(env)
}

fn syntax(error: Error) -> TemplateError {
    TemplateError::Syntax(error.to_string())
}

fn failure(error: &Error) -> TemplateError {
    match error.kind() {
        ErrorKind::OutOfFuel => TemplateError::Steps,
        _ => {
            let detail = error.detail().map_or_else(|| error.to_string(), str::to_owned);
            TemplateError::Refused(detail.chars().take(400).collect())
        }
    }
}

/// As Python's `json.dumps(ensure_ascii=False)`, which templates are written for: minijinja's own
/// filter escapes for HTML.
fn tojson(state: &State<'_, '_>, value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    // Python's other arguments change nothing here.
    let _: (Option<bool>, Option<bool>) = (kwargs.get("ensure_ascii")?, kwargs.get("sort_keys")?);
    kwargs.assert_all_used()?;
    let mut output = Limited::default();
    let written = match indent {
        Some(width) => {
            let spaces = " ".repeat(width.min(16));
            let pretty = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut output, pretty))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut output, Spaced)),
    };
    // A value that holds itself many times is small, and long when written.
    state.consume_fuel(output.bytes.len() as u64)?;
    written.map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    String::from_utf8(output.bytes)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))
}

/// Python's separators: a space behind `,` and `:`.
struct Spaced;

impl serde_json::ser::Formatter for Spaced {
    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { to.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        to.write_all(b": ")
    }
}

/// Takes [`MAX_RENDERED`] bytes and no more.
#[derive(Default)]
struct Limited {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.bytes.len() + bytes.len() > MAX_RENDERED {
            self.full = true;
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

const NAME: &str = "chat";

/// Steps of a rendering, besides those for the messages; a step pays for 64 bytes too. Real
/// templates take a few thousand.
const FUEL: u64 = 200_000;

/// More steps for each message, besides one for every four bytes of it.
const FUEL_OF_MESSAGE: u64 = 500;

/// Most steps: a value nests one deeper with every six or so, which the stack must hold.
const MAX_FUEL: u64 = 600_000;

/// Real templates take milliseconds.
const TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn said(role: &str, content: &str) -> Message {
        Message { role: role.into(), content: content.into() }
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, TemplateError> {
        let prompt = Prompt {
            messages,
            add_generation_prompt: true,
            bos: "<s>",
            eos: "</s>",
            now: UnixSeconds(1_732_406_400),
        };
        Template::new(source)?.render(&prompt)
    }

    #[test]
    fn messages_become_text() {
        let source = "{{ bos_token }}{% for m in messages %}\n  {% if m.role == 'user' %}\n\
                      [{{ m['content'].strip() | tojson }}]\n  {% endif %}\n{% endfor %}\
                      {{ strftime_now('%d %b %Y') }}";
        let text = render(source, &[said("user", " <a> & \"b\" é "), said("x", "y")]).unwrap();
        assert_eq!(text, "<s>[\"<a> & \\\"b\\\" é\"]\n24 Nov 2024");
    }

    /// What the templates of Qwen 2.5 and 3 do: walk backwards, and take thoughts out of answers.
    #[test]
    fn messages_are_walked_backwards_and_thoughts_taken_out() {
        let source = "{%- set ns = namespace(last=messages|length - 1, more=true) %}\
            {%- for message in messages[::-1] %}\
            {%- if ns.more and message.role == 'user' and not \
            (message.content.startswith('<tool>') and message.content.endswith('</tool>')) %}\
            {%- set ns.more = false %}{%- set ns.last = (messages|length - 1) - loop.index0 %}\
            {%- endif %}{%- endfor %}{{- ns.last }}\
            {%- for message in messages %}{%- set text = message.content %}\
            {%- if message.reasoning_content is defined and message.reasoning_content is not none %}!\
            {%- elif '</think>' in text %}{%- set thought = text.split('</think>')[0].rstrip('\\n')\
            .split('<think>')[-1].lstrip('\\n') %}\
            {{- '(' + thought + ')' + text.split('</think>')[-1].lstrip('\\n') }}\
            {%- else %}{{- '|' + text.strip() }}{%- endif %}{%- endfor %}\
            {%- if enable_thinking is defined and enable_thinking is false %}!{%- endif %}";
        let said = [
            ("user", " Hi "),
            ("assistant", "<think>\nhm\n</think>\n\nHo"),
            ("user", "<tool>1</tool>"),
        ];
        let messages =
            said.map(|(role, content)| Message { role: role.into(), content: content.into() });
        assert_eq!(render(source, &messages).unwrap(), "0|Hi(hm)Ho|<tool>1</tool>");
    }

    #[test]
    fn json_is_pythons() {
        let text = render("{{ {'a': [1, 'x<y']} | tojson }}", &[]).unwrap();
        assert_eq!(text, r#"{"a": [1, "x<y"]}"#);
    }

    #[test]
    fn a_refusal_gives_the_templates_words() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert_eq!(error, TemplateError::Refused("roles must alternate".into()));
    }

    #[test]
    fn a_template_that_never_ends_is_stopped() {
        let endless =
            "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        assert_eq!(render(endless, &[]), Err(TemplateError::Steps));
        let growing = "{% set ns = namespace(t='0123456789') %}\
                       {% for a in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}";
        assert_eq!(render(growing, &[]), Err(TemplateError::Steps));
        let nested = "{% set ns = namespace(t=[]) %}\
                      {% for a in range(60) %}{% set ns.t = [ns.t, ns.t] %}{% endfor %}\
                      {{ ns.t | tojson }}";
        assert!(render(nested, &[]).is_err());
    }

    #[test]
    fn deep_expressions_and_values_end_no_process() {
        let nested = |step: &str| {
            format!(
                "{{% set ns = namespace(t=[0]) %}}{{% for a in range(99999) %}}\
                 {{% set ns.t = {step} %}}{{% endfor %}}"
            )
        };
        for step in ["[ns.t]", "{'a': ns.t}", "namespace(a=ns.t)", "ns.t|batch(1)"] {
            assert_eq!(render(&nested(step), &[]), Err(TemplateError::Steps), "{step}");
        }
        let long = |part: &str| {
            let count = (MAX_TEMPLATE - 20) / part.len();
            format!("{{{{ messages{} }}}}", part.repeat(count))
        };
        for part in [".a", "()", "|e", "[0]"] {
            // Whatever it gives: it was compiled and run, and we are still here.
            match render(&long(part), &[]) {
                Ok(_) | Err(TemplateError::Refused(_)) => {}
                Err(error) => panic!("{part}: {error}"),
            }
        }
    }

    #[test]
    fn a_template_that_gets_stuck_is_left_and_not_run_again() {
        // 2^60 elements to count, after 360 steps.
        let template = Template::new(
            "{% set ns = namespace(t=[1]) %}{% if messages %}{% for a in range(60) %}\
             {% set ns.t = ns.t + ns.t %}{% endfor %}{% endif %}{{ ns.t|list|length }}",
        );
        let template = template.unwrap();
        let messages = [said("user", "x")];
        let prompt = |messages| Prompt {
            messages,
            add_generation_prompt: true,
            bos: "",
            eos: "",
            now: UnixSeconds(0),
        };
        assert_eq!(template.render(&prompt(&[])), Ok("1".into()));
        let time = Duration::from_millis(50);
        assert_eq!(template.render_within(time, &prompt(&messages)), Err(TemplateError::Stuck));
        assert_eq!(template.clone().render(&prompt(&[])), Err(TemplateError::Stuck));
    }

    #[test]
    fn too_much_text_is_stopped() {
        let loud = "{% for a in range(900) %}{{ messages[0].content }}{% endfor %}";
        let message = said("user", &"x".repeat(10_000));
        assert_eq!(render(loud, &[message]), Err(TemplateError::Output));
        let long = " ".repeat(MAX_TEMPLATE + 1);
        assert_eq!(render(&long, &[]), Err(TemplateError::TooLong(MAX_TEMPLATE + 1)));
    }

    proptest! {
        #[test]
        fn any_template_renders_or_is_refused(
            source in proptest::collection::vec(prop_oneof![
                prop::sample::select(vec![
                    "{{", "}}", "{%", "%}", "for ", " in ", "messages", "set ", "if ", "endif", "endfor",
                    "|tojson", "*", "~", "[", "]", "range(9)", "9", "-",
                ]).prop_map(str::to_owned),
                "\\PC{0,4}",
            ], 0..20).prop_map(|parts| parts.concat()),
        ) {
            let _ = render(&source, &[said("user", "hello")]);
        }
    }
}
