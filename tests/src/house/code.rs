//! What nobody writes: panics by habit, leftovers, unbounded queues, waiting by the clock in tests.

use super::tokens::{Before, Behind, Mention, attributes, mentions};
use super::{Breach, Kind, Source};

/// The one file that names the serialiser (design.md section 11).
const CODEC: &str = "protocol/src/codec.rs";

/// The one file of the node that reads the environment.
const CONFIG: &str = "node/src/config.rs";

/// Programs, which may end with any error; libraries name theirs.
const ANYHOW: [&str; 2] = ["node/src/main.rs", "bootstrap/src/main.rs"];

/// Where `unsafe` may stand: the kernels, and the one place that maps a file, which is not
/// possible without.
const UNSAFE: [&str; 2] = ["crates/kernels/", "crates/model/src/mapped.rs"];

/// Every rule about single words of code, applied to one file.
#[must_use]
pub fn breaches(source: &Source) -> Vec<Breach> {
    let (shipped, tested) = (mentions(&source.shipped), mentions(&source.tested));
    let mut breaches = Vec::new();
    for (rule, mentions) in [
        (unwraps as Rule, &shipped),
        (catch_all, &shipped),
        (leftovers, &shipped),
        (leftovers, &tested),
        (queues, &shipped),
        (queues, &tested),
        (unsafes, &shipped),
        (unsafes, &tested),
        (environment, &shipped),
        (serialiser, &shipped),
        (serialiser, &tested),
        (sleeps, &tested),
    ] {
        let found = mentions.iter().filter_map(|mention| {
            rule(source, mention).map(|what| source.breach(mention.line, what))
        });
        breaches.extend(found);
    }
    let ignored = attributes(&source.tested, "ignore");
    let what = "`#[ignore]`: a test runs, or is not there";
    breaches.extend(ignored.into_iter().map(|line| source.breach(line, what)));
    breaches
}

type Rule = fn(&Source, &Mention) -> Option<String>;

fn unwraps(_: &Source, mention: &Mention) -> Option<String> {
    let called = mention.before == Before::Dot && mention.ends("unwrap");
    // `Option::unwrap`, handed to a closure's place.
    let named = mention.segments.len() > 1 && mention.ends("unwrap");
    (called || named)
        .then(|| "`unwrap` outside tests: return an error, or `expect` with the reason".to_owned())
}

fn leftovers(_: &Source, mention: &Mention) -> Option<String> {
    let macros = ["todo", "unimplemented", "dbg"];
    let is = mention.behind == Behind::Bang && macros.iter().any(|name| mention.ends(name));
    is.then(|| format!("`{}!` is a leftover", mention.text()))
}

fn queues(_: &Source, mention: &Mention) -> Option<String> {
    let names = ["unbounded", "unbounded_channel", "UnboundedSender", "UnboundedReceiver"];
    // Of the channels called `mpsc::channel`, only the standard library's takes no capacity.
    let std = mention.ends("sync::mpsc::channel") && mention.begins("std")
        || mention.ends("mpsc::channel") && mention.behind == Behind::EmptyCall;
    (std || names.iter().any(|name| mention.has(name))).then(|| {
        format!("`{}` is a queue without a bound; say how long, and what when full", mention.text())
    })
}

fn catch_all(source: &Source, mention: &Mention) -> Option<String> {
    let allowed = ANYHOW.contains(&source.path.as_str()) || source.path.starts_with("tests/");
    (mention.has("anyhow") && !allowed)
        .then(|| "`anyhow` in a library: an enum of the operation's errors".to_owned())
}

fn serialiser(source: &Source, mention: &Mention) -> Option<String> {
    (mention.has("bincode") && source.path != CODEC)
        .then(|| format!("`bincode` outside {CODEC}: use the codec"))
}

fn environment(source: &Source, mention: &Mention) -> Option<String> {
    let reads = ["env::var", "env::var_os", "env::vars", "env::vars_os", "env::temp_dir"];
    let read = reads.iter().any(|name| mention.ends(name));
    (read && source.path.starts_with("node/") && source.path != CONFIG)
        .then(|| format!("the environment is read in {CONFIG} only: settings have one way in"))
}

fn unsafes(source: &Source, mention: &Mention) -> Option<String> {
    let allowed = UNSAFE.iter().any(|place| source.path.starts_with(place));
    (mention.has("unsafe") && !allowed).then(|| "`unsafe` outside the kernels".to_owned())
}

fn sleeps(_: &Source, mention: &Mention) -> Option<String> {
    let paths = ["thread::sleep", "time::sleep", "time::sleep_until"];
    // A future that is raced against the clock is `timeout`'s work.
    let is = paths.iter().any(|path| mention.ends(path));
    is.then(|| format!("`{}` in a test: wait for what happens, not for time", mention.text()))
}

/// A doc at the head of every file, tests within a crate aside: what it is for, before the code.
#[must_use]
pub fn module_doc(source: &Source) -> Vec<Breach> {
    let told = source.text.starts_with("//!") || source.kind == Kind::TestModule;
    if told { Vec::new() } else { vec![source.breach(1, "does not begin with a `//!` doc")] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str, kind: Kind) -> usize {
        breaches(&Source::parse(path, text, kind).unwrap()).len()
    }

    fn shipped(text: &str) -> usize {
        found("crates/a/src/b.rs", text, Kind::Shipped)
    }

    fn tested(text: &str) -> usize {
        found("crates/a/tests/b.rs", text, Kind::Integration)
    }

    #[test]
    fn unwraps_are_found_in_code_and_in_macros_and_nowhere_else() {
        assert_eq!(shipped("fn a() { b().unwrap(); }"), 1);
        assert_eq!(shipped("fn a() { select! { x = b() => x.unwrap() } }"), 1);
        assert_eq!(shipped("fn a() { b.map(Option::unwrap); }"), 1);
        assert_eq!(shipped("/// `.unwrap()`\nfn a() { b(\".unwrap()\").unwrap_or(1); }"), 0);
        assert_eq!(shipped("#[cfg(test)]\nmod tests { fn a() { b().unwrap(); } }"), 0);
        assert_eq!(shipped("#[test]\nfn a() { b().unwrap(); }"), 0);
        assert_eq!(tested("fn a() { b().unwrap(); }"), 0);
    }

    #[test]
    fn leftovers_are_found_in_tests_too() {
        for text in
            ["fn a() { todo!() }", "fn a() { unimplemented!(\"b\") }", "fn a() { dbg!(b); }"]
        {
            assert_eq!((shipped(text), tested(text)), (1, 1), "{text}");
        }
        assert_eq!(shipped("fn todo() { todo() }"), 0);
    }

    #[test]
    fn queues_have_bounds() {
        for text in [
            "fn a() { let b = tokio::sync::mpsc::unbounded_channel(); }",
            "use futures::channel::mpsc::{self, UnboundedSender};",
            "fn a() { let b = std::sync::mpsc::channel::<u8>(); }",
            "use std::sync::mpsc::channel;",
            "fn a() { let b = mpsc::channel(); }",
        ] {
            assert_eq!(shipped(text), 1, "{text}");
        }
        assert_eq!(shipped("fn a() { let b = mpsc::channel(8); let c = oneshot::channel(); }"), 0);
    }

    #[test]
    fn anyhow_bincode_and_unsafe_have_their_places() {
        let anyhow = "use anyhow::Context;";
        assert_eq!(shipped(anyhow), 1);
        assert_eq!(found("node/src/lib.rs", anyhow, Kind::Shipped), 1);
        assert_eq!(found("node/src/main.rs", anyhow, Kind::Shipped), 0);
        let named = "fn a() { bincode::config::standard(); }";
        assert_eq!((shipped(named), tested(named)), (1, 1));
        assert_eq!(found(CODEC, named, Kind::Shipped), 0);
        let unsafes = "fn a() { unsafe { b() } }";
        assert_eq!((shipped(unsafes), tested(unsafes)), (1, 1));
        assert_eq!(found("crates/kernels/src/b.rs", unsafes, Kind::Shipped), 0);
    }

    #[test]
    fn the_environment_has_one_door() {
        let text = "fn a() { let b = std::env::var_os(\"B\"); let c = std::env::args_os(); }";
        assert_eq!(found("node/src/cli.rs", text, Kind::Shipped), 1);
        assert_eq!(found(CONFIG, text, Kind::Shipped), 0);
        assert_eq!(shipped(text), 0);
    }

    #[test]
    fn tests_do_not_sleep_and_are_not_ignored() {
        for text in [
            "fn a() { std::thread::sleep(b); }",
            "async fn a() { tokio::time::sleep(b).await; }",
            "use std::thread::{self, sleep};",
            "#[test]\n#[ignore]\nfn a() {}",
            "#[test]\n#[ignore = \"slow\"]\nfn a() {}",
            "proptest! { #[test]\n#[ignore]\nfn a(b in c()) {} }",
        ] {
            assert_eq!(tested(text), 1, "{text}");
        }
        let within = "#[cfg(test)]\nmod tests { fn a() { std::thread::sleep(b); } }";
        assert_eq!(shipped(within), 1);
        assert_eq!(shipped("fn a() { std::thread::sleep(b); }"), 0);
    }

    #[test]
    fn a_file_begins_with_its_doc() {
        let doc = |text, kind| module_doc(&Source::parse("a.rs", text, kind).unwrap()).len();
        assert_eq!(doc("use a::b;\n", Kind::Shipped), 1);
        assert_eq!(doc("//! What for.\nuse a::b;\n", Kind::Shipped), 0);
        assert_eq!(doc("use a::b;\n", Kind::TestModule), 0);
    }
}
