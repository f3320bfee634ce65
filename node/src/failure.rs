//! Failures as people meet them: four lines at most (what, cause, next step), and an exit code
//! that scripts can rely on.

use std::fmt;
use std::path::Path;

use crate::engine::{EngineError, Privacy};

/// Exit codes, as `taimatsu help` documents them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Anything that has no code of its own.
    Failure = 1,
    /// The command line is not right.
    Usage = 2,
    /// No such model, peer or file.
    NotFound = 3,
    /// No node is running here.
    NoNode = 4,
    /// The swarm cannot be reached, or does not cover the model.
    Swarm = 5,
    /// Disk, memory, port.
    Resources = 7,
    /// A digest does not match.
    Integrity = 8,
    /// `doctor` found something wrong.
    Unwell = 9,
    /// Stopped by Ctrl-C.
    Interrupted = 130,
}

impl Code {
    /// In one word, for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Failure => "failure",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::NoNode => "no_node",
            Self::Swarm => "swarm",
            Self::Resources => "resources",
            Self::Integrity => "integrity",
            Self::Unwell => "unwell",
            Self::Interrupted => "interrupted",
        }
    }
}

/// What went wrong, why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code.
    pub code: Code,
    what: String,
    cause: Option<String>,
    remedy: Option<String>,
}

impl Failure {
    /// A failure of this kind.
    #[must_use]
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self { code, what: one_line(&what.into()), cause: None, remedy: None }
    }

    /// Why it happened.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(one_line(&cause.to_string()));
        self
    }

    /// What to do next, best a command.
    #[must_use]
    pub fn try_this(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(one_line(&remedy.into()));
        self
    }

    /// The same for a caller who named this home: the command that is advised names it too.
    #[must_use]
    pub fn at_home(mut self, home: Option<&Path>) -> Self {
        if let (Some(home), Some(remedy)) = (home, &mut self.remedy)
            && let Some(rest) = remedy.strip_prefix("taimatsu ")
            && !rest.contains("--home")
        {
            *remedy = format!("taimatsu --home {} {rest}", home.display());
        }
        self
    }

    /// What went wrong, without cause and remedy.
    #[must_use]
    pub fn what(&self) -> &str {
        &self.what
    }

    /// As `--json` shows it on stderr.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({"error": {
            "exit_code": self.code as u8,
            "code": self.code.word(),
            "message": self.what,
            "cause": self.cause,
            "try": self.remedy,
        }})
    }

    /// A failure with an error's whole chain of sources as its cause.
    #[must_use]
    pub fn of(code: Code, what: impl Into<String>, error: &dyn std::error::Error) -> Self {
        Self::new(code, what).because(chain(error))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\n  cause: {cause}")?;
        }
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  try:   {remedy}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        let what = error.to_string();
        match error {
            EngineError::UnknownModel { near, .. } => {
                let known = near.join(", ");
                let failure = Self::new(Code::NotFound, what)
                    .because("no model has this name, and no file this path");
                if known.is_empty() {
                    failure.try_this("taimatsu ls, or taimatsu pull smollm2:135m")
                } else {
                    failure.try_this(format!("one of: {known}"))
                }
            }
            EngineError::Invalid { param: "model", .. } => Self::new(Code::Failure, what)
                .try_this("a GGUF file of a supported kind, or taimatsu ls"),
            EngineError::Invalid { param: "messages", .. } => Self::new(Code::Usage, what)
                .try_this("taimatsu run --raw, for the text as it stands"),
            EngineError::Invalid { .. } => Self::new(Code::Usage, what).try_this("taimatsu help"),
            EngineError::ContextOverflow { .. } => {
                Self::new(Code::Usage, what).try_this("a shorter prompt, or a smaller --max-tokens")
            }
            EngineError::Uncovered { model, missing } => {
                let first = missing.first().map_or([0, 0], |range| *range);
                Self::new(Code::Swarm, what)
                    .because("no other node announces these blocks")
                    .try_this(format!(
                        "host them on another node: taimatsu up --serve {model}@{}-{}",
                        first[0], first[1]
                    ))
            }
            EngineError::NoHost { .. } => Self::new(Code::Swarm, what)
                .because("no node of the swarm announces it")
                .try_this("host it: taimatsu up --serve MODEL, or give --bootstrap ADDR"),
            EngineError::NoSuchRoute { wish: "any", .. } => Self::new(Code::Swarm, what)
                .because("a host failed, and no other way is known")
                .try_this("again in a moment"),
            EngineError::NoSuchRoute { .. } => {
                Self::new(Code::Swarm, what).try_this("the same without --route")
            }
            EngineError::Private { model, privacy, of_node, .. } => {
                let failure = Self::new(Code::Swarm, what);
                let wider = if of_node { "start the node" } else { "ask" };
                match privacy {
                    Privacy::Local => failure
                        .because("this node does not host the whole model")
                        .try_this(format!(
                            "taimatsu up --serve {model}, or {wider} with --privacy trusted"
                        )),
                    Privacy::Trusted | Privacy::Anyone => failure
                        .because("no host that the owner of this node trusts announces them")
                        .try_this(format!(
                            "taimatsu up --trust PEER (taimatsu map {model} shows hosts), or {wider} \
                             with --privacy anyone"
                        )),
                }
            }
            EngineError::Busy { .. } => Self::new(Code::Swarm, what).try_this("again in a moment"),
            EngineError::PeerFailed { .. } | EngineError::PeerTimeout { .. } => {
                Self::new(Code::Swarm, what)
                    .try_this("again: another route is taken where there is one")
            }
            EngineError::Stopping => Self::new(Code::NoNode, what)
                .because("it was told to stop before the answer was complete")
                .try_this("taimatsu up, and then again"),
            EngineError::Internal(_) => Self::new(Code::Failure, what),
        }
    }
}

/// An error and its sources in one line, none told twice.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !told.contains(&text) {
            told = format!("{told}: {text}");
        }
        source = error.source();
    }
    told
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_at_most_four_lines() {
        let failure = Failure::new(Code::NotFound, "a\nb")
            .because("many\nlines\nof cause")
            .try_this("this\nthen that");
        let text = failure.to_string();
        assert_eq!(text, "error: a b\n  cause: many lines of cause\n  try:   this then that");
        assert!(text.lines().count() <= 4);
    }

    #[test]
    fn advice_keeps_to_the_home_that_was_named() {
        let said = |remedy: &str, home: Option<&str>| {
            let failure = Failure::new(Code::NoNode, "no").try_this(remedy);
            failure.at_home(home.map(Path::new)).to_json()["error"]["try"].take()
        };
        assert_eq!(said("taimatsu up", Some("b")), "taimatsu --home b up");
        assert_eq!(said("taimatsu up", None), "taimatsu up");
        assert_eq!(said("on another node: taimatsu up", Some("b")), "on another node: taimatsu up");
    }

    #[test]
    fn an_unknown_model_names_its_neighbours() {
        let near = vec!["smollm2:135m".into()];
        let failure = Failure::from(EngineError::UnknownModel { name: "smolm".into(), near });
        assert_eq!(failure.code, Code::NotFound);
        assert!(failure.to_string().contains("smollm2:135m"));
    }
}
