//! `taimatsu config`: the settings in force, and where they come from.

use serde_json::{Map, Value, json};

use super::Global;
use crate::config::Files;
use crate::failure::{Code, Failure};
use crate::stdout::say;

/// Prints every setting.
pub(super) fn show(global: &Global, origins: bool) -> Result<(), Failure> {
    let rows = global.settings.rows();
    if global.json {
        let entry = |(key, value, origin): &(&str, Value, &crate::config::Origin)| {
            let mut entry = json!({"value": value});
            if origins {
                entry["origin"] = origin.word().into();
                entry["place"] = origin.place(key).into();
            }
            ((*key).to_owned(), entry)
        };
        let settings: Map<String, Value> = rows.iter().map(entry).collect();
        return say(json!({"schema_version": 1, "settings": settings}));
    }
    for (key, value, origin) in &rows {
        let shown = format!("{key:<21} = {}", in_words(value));
        if !origins {
            say(shown)?;
            continue;
        }
        let place = origin.place(key).map_or_else(String::new, |place| format!(" {place}"));
        say(format!("{shown:<64}  # {}{place}", origin.word()))?;
    }
    Ok(())
}

/// Prints where the file is, or would be.
pub(super) fn path(global: &Global) -> Result<(), Failure> {
    let files = Files::of(global.config.as_deref());
    let path = files.user.ok_or_else(|| {
        Failure::new(Code::Resources, "there is no configuration directory")
            .because("HOME is not set")
            .try_this("--config FILE")
    })?;
    if global.json {
        return say(json!({
            "schema_version": 1,
            "path": path.display().to_string(),
            "exists": path.is_file(),
            "system": files.system.display().to_string(),
            "system_exists": files.system.is_file(),
        }));
    }
    say(path.display())
}

/// As TOML would have it; what is not set is a dash.
fn in_words(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        other => other.to_string(),
    }
}
