//! `taimatsu doctor`: the checks as they are read.

use serde_json::{Value, json};

use super::{Global, client};
use crate::doctor::{Check, State, examine};
use crate::failure::{Code, Failure};
use crate::stdout::say;

/// Looks for what is wrong. Its report is its answer, also where something is.
pub(super) async fn doctor(global: &Global, trouble: Option<Failure>) -> Result<(), Failure> {
    let found = client::find_node(global).await;
    let named = found.as_ref().err().map(|failure| Check {
        name: "node",
        state: State::Fail,
        detail: failure.what().to_owned(),
        fix: Some("taimatsu up, or another --api".into()),
    });
    let node = found.ok().flatten();
    let mut checks = Vec::new();
    let mut told = Ok(());
    let mut tell = |check: Check| {
        if !global.json && told.is_ok() {
            told = lines(&check).iter().try_for_each(say);
        }
        checks.push(check);
    };
    examine(global, node.as_ref(), trouble.as_ref(), &mut tell).await;
    named.into_iter().for_each(&mut tell);
    told?;
    let wrong = checks.iter().filter(|check| check.state == State::Fail).count();
    if global.json {
        let all: Vec<Value> = checks.iter().map(Check::to_json).collect();
        say(json!({"schema_version": 1, "ok": wrong == 0, "checks": all}))?;
    }
    if wrong == 0 {
        return Ok(());
    }
    let what = format!("{wrong} of {} checks failed", checks.len());
    Err(Failure::new(Code::Unwell, what).try_this("what stands behind each of them"))
}

fn lines(check: &Check) -> Vec<String> {
    let mark = match check.state {
        State::Pass => '✓',
        State::Warn => '!',
        State::Fail => '✗',
    };
    let mut lines = vec![format!("  {mark} {:<10} {}", check.name, check.detail)];
    lines.extend(check.fix.as_ref().map(|fix| format!("      try:     {fix}")));
    lines
}
