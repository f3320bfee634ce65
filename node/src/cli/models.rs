//! `taimatsu ls`, `show`, `rm`, `import`: the model store.

use std::path::Path;

use indicatif::HumanBytes;
use serde_json::{Value, json};
use taimatsu_model::{Listed, Removed, StoredModel};

use super::{Global, client};
use crate::failure::{Code, Failure};
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

/// Removes a name; with its last one, the model. A model that the node here hosts stays.
pub(super) async fn remove(global: &Global, name: &str, force: bool) -> Result<(), Failure> {
    let store = store(global)?;
    let meant = store.would_remove(name).map_err(|error| store_failure(&error))?;
    if meant.kept.is_empty() && !force {
        refuse_hosted(global, name, &meant).await?;
        if store.is_in_use(name) {
            return Err(in_use(global, name, "a running process computes with its file"));
        }
    }
    let Removed { model, kept } = store.remove(name).map_err(|error| store_failure(&error))?;
    if global.json {
        let mut value = listed_json(&model);
        value["schema_version"] = 1.into();
        value["kept_names"] = kept.into();
        say(value)?;
    } else if !global.quiet {
        let what = match kept.is_empty() {
            true => format!("{} freed", HumanBytes(model.bytes)),
            false => format!("the file stays, it is {} too", kept.join(", ")),
        };
        crate::stderr::tell(&format!("removed {} · {what}", model.names.join(", ")));
    }
    Ok(())
}

/// A node that hosts a model reads its file, and could not be started again without it.
async fn refuse_hosted(global: &Global, name: &str, meant: &Removed) -> Result<(), Failure> {
    let Ok(Some(node)) = client::find_node(global).await else { return Ok(()) };
    let status = node.status().await?;
    let id = meant.model.id.to_string();
    let mut hosting = status["hosting"].as_array().into_iter().flatten();
    if hosting.all(|hosted| hosted["model"] != *id) {
        return Ok(());
    }
    Err(in_use(global, name, &format!("the node at {} hosts it", node.address())))
}

fn in_use(global: &Global, name: &str, cause: &str) -> Failure {
    let dir = crate::config::models(global).map(|dir| dir.display().to_string());
    let models = dir.map_or_else(|_| String::new(), |dir| format!("--models {dir} "));
    Failure::new(Code::Usage, format!("{name} is in use"))
        .because(cause)
        .try_this(format!("stop it first, or taimatsu {models}rm --force {name}"))
}

/// Copies a file into the store.
pub(super) fn import(global: &Global, file: &Path, name: Option<&str>) -> Result<(), Failure> {
    let model =
        store(global)?.import(file, name, &mut |_, _| {}).map_err(|error| store_failure(&error))?;
    if global.json {
        say(shown_json(&model))?;
    } else if !global.quiet {
        crate::stderr::tell(&format!(
            "stored as {} · {}",
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
