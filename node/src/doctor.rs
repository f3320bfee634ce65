//! What is wrong here: checks of this machine, of its models, and of the way into the swarm. Each
//! says what it saw and, where something is not right, the one thing to do.

mod machine;
mod models;
mod swarm;

use serde_json::{Value, json};

use crate::cli::Global;
use crate::config;
use crate::failure::Failure;
use crate::node_client::NodeClient;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    pub(crate) name: &'static str,
    pub(crate) state: State,
    /// What was seen.
    pub(crate) detail: String,
    /// What to do; none where all is well.
    pub(crate) fix: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Well.
    Pass,
    /// Well enough to work, or not to be told from here.
    Warn,
    /// Not well.
    Fail,
}

impl State {
    /// In one word.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}

impl Check {
    fn pass(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Pass, detail: detail.into(), fix: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warn, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Fail, detail: detail.into(), fix: Some(fix.into()) }
    }

    /// A failure that somebody else met.
    fn failed(name: &'static str, failure: &Failure) -> Self {
        let told = failure.to_json();
        let text = |key: &str| told["error"][key].as_str().map(str::to_owned);
        let detail = [text("message"), text("cause")].into_iter().flatten().collect::<Vec<_>>();
        let fix = text("try").unwrap_or_else(|| "taimatsu help".into());
        Self::fail(name, detail.join(": "), fix)
    }

    /// As `--json` shows it.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "state": self.state.word(),
            "detail": self.detail,
            "fix": self.fix,
        })
    }
}

/// Makes every check, and tells each as it is made. `trouble` is what is wrong with the settings;
/// then it goes by the flags alone.
pub(crate) async fn examine(
    global: &Global,
    node: Option<&NodeClient>,
    trouble: Option<&Failure>,
    tell: &mut dyn FnMut(Check),
) {
    tell(machine::settings(global, trouble));
    let state = match node {
        Some(node) => Some(node.status().await),
        None => None,
    };
    for check in machine::examine(global, node.is_some()) {
        tell(check);
    }
    // A running node knows best where its models are, unless somebody asks for others.
    let asked = global.settings.models.origin.is_of_this_call();
    let told = state.as_ref().and_then(|state| state.as_ref().ok()?["store"].as_str());
    let told = told.filter(|_| !asked);
    let store = told.map_or_else(|| config::models(global), |store| Ok(store.into()));
    for check in models::examine(store.clone()).await {
        tell(check);
    }
    tell(models::golden(global, store.ok()).await);
    match (node, state) {
        (Some(node), Some(Ok(state))) => {
            tell(swarm::node(&state));
            tell(swarm::ledger(&state));
            tell(swarm::announcements(node, &state).await);
            tell(swarm::neighbours(&state));
            tell(swarm::dht(node, &state).await);
            swarm::coverage(&state).into_iter().for_each(tell);
        }
        // It runs, and wants a key, or says what cannot be understood.
        (_, Some(Err(failure))) => tell(Check::failed("node", &failure)),
        _ => tell(Check::warn(
            "node",
            "none runs here, so its way into the swarm was not looked at",
            "taimatsu up, and then taimatsu doctor",
        )),
    }
}
