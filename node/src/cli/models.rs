//! `taimatsu ls`, `show`, `rm`, `import`: the model store.

use std::path::Path;

use indicatif::HumanBytes;
use serde_json::{Value, json};
use taimatsu_model::{Listed, StoredModel};

use super::Global;
use crate::failure::Failure;
use crate::local::{store, store_failure};
use crate::stdout::say;
use crate::text::row;

/// Lists the stored models.
pub(super) fn list(global: &Global) -> Result<(), Failure> {
    let store = store(global)?;
    let models = store.list().map_err(|error| store_failure(&error))?;
    if global.json {
        let models: Vec<Value> = models.iter().map(listed_json).collect();
        say(json!({"schema_version": 1, "models": models}))?;
        return Ok(());
    }
    for model in &models {
        let licence = row(model.license.as_deref().unwrap_or("licence unknown"));
        let names = model.names.join(", ");
        say(format!("{names:<28} {:>10}  {licence}", HumanBytes(model.bytes).to_string()))?;
    }
    if models.is_empty() && !global.quiet {
        crate::stderr::tell(&format!(
            "no models in {}; try: taimatsu pull smollm2:135m",
            store.dir().display()
        ));
    }
    Ok(())
}

/// Shows what a model is.
pub(super) fn show(global: &Global, reference: &str) -> Result<(), Failure> {
    let model = store(global)?.resolve(reference).map_err(|error| store_failure(&error))?;
    if global.json {
        say(shown_json(&model))?;
        return Ok(());
    }
    let manifest = &model.manifest;
    let rows = [
        ("names", model.names.join(", ")),
        ("id", model.id.to_string()),
        ("file", model.path.display().to_string()),
        ("size", HumanBytes(model.bytes).to_string()),
        ("sha256", model.sha256.clone().unwrap_or_else(|| "not computed: used in place".into())),
        ("licence", model.license.clone().unwrap_or_else(|| "unknown".into())),
        ("source", model.source.clone()),
        ("architecture", manifest.architecture.clone()),
        ("blocks", manifest.blocks.to_string()),
        ("hidden", manifest.hidden.to_string()),
        ("heads", format!("{} ({} for keys and values)", manifest.heads, manifest.kv_heads)),
        ("context", format!("{} tokens", manifest.context_length)),
        ("vocabulary", format!("{} tokens", manifest.vocab)),
        ("tensors", manifest.tensors.len().to_string()),
        ("tokenizer", manifest.tokenizer.to_string()),
        ("template", manifest.template.map_or_else(|| "none".into(), |digest| digest.to_string())),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        say(format!("{name:<13} {}", row(value)))?;
    }
    Ok(())
}

/// Removes a model.
pub(super) fn remove(global: &Global, name: &str) -> Result<(), Failure> {
    let removed = store(global)?.remove(name).map_err(|error| store_failure(&error))?;
    if global.json {
        let mut value = listed_json(&removed);
        value["schema_version"] = 1.into();
        say(value)?;
    } else if !global.quiet {
        crate::stderr::tell(&format!(
            "removed {} · {} freed",
            removed.names.join(", "),
            HumanBytes(removed.bytes)
        ));
    }
    Ok(())
}

/// Copies a file into the store.
pub(super) fn import(global: &Global, file: &Path, name: Option<&str>) -> Result<(), Failure> {
    let model =
        store(global)?.import(file, name, &mut |_, _| {}).map_err(|error| store_failure(&error))?;
    if global.json {
        say(shown_json(&model))?;
    } else if !global.quiet {
        crate::stderr::tell(&format!(
            "{} is stored · {}",
            model.names.join(", "),
            HumanBytes(model.bytes)
        ));
    }
    Ok(())
}

fn listed_json(model: &Listed) -> Value {
    json!({
        "names": model.names,
        "id": model.id.to_string(),
        "bytes": model.bytes,
        "license": model.license,
    })
}

fn shown_json(model: &StoredModel) -> Value {
    let manifest = &model.manifest;
    json!({
        "schema_version": 1,
        "names": model.names,
        "id": model.id.to_string(),
        "path": model.path.display().to_string(),
        "bytes": model.bytes,
        "sha256": model.sha256,
        "license": model.license,
        "source": model.source,
        "manifest": {
            "architecture": manifest.architecture,
            "blocks": manifest.blocks,
            "hidden": manifest.hidden,
            "feed_forward": manifest.feed_forward,
            "heads": manifest.heads,
            "kv_heads": manifest.kv_heads,
            "context_length": manifest.context_length,
            "vocab": manifest.vocab,
            "tensors": manifest.tensors.len(),
            "tokenizer": manifest.tokenizer.to_string(),
            "template": manifest.template.map(|digest| digest.to_string()),
        },
    })
}
