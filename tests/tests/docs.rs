//! The pages say what is so: every command in them is one that the program, cargo or the API
//! takes, every test that they name is there, and every link leads somewhere.
//!
//! Nothing is run as it stands in a page, and no shell reads it. A line of `taimatsu` is given to
//! the program with `--help` behind it: that reads what stands before, refuses verbs, flags and
//! values that it does not know, and starts nothing. Lines of `cargo` are held against the
//! workspace's packages and targets, those of `curl` against the routes in `node/src/api.rs`.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeMap;

use cargo_metadata::{MetadataCommand, Target};
use taimatsu_tests::house::workspace_root;
use taimatsu_tests::program::Machine;
use taimatsu_tests::simulation::scenarios;

const PROGRAM: &str = env!("CARGO_BIN_EXE_taimatsu-under-test");

/// What may stand between `cargo` and its flags.
const VERBS: [&str; 8] = ["bench", "build", "clippy", "doc", "fmt", "install", "run", "test"];

/// Flags of cargo that have no value.
const SWITCHES: [&str; 8] = [
    "--all",
    "--all-targets",
    "--check",
    "--lib",
    "--locked",
    "--offline",
    "--release",
    "--workspace",
];

#[test]
fn every_command_is_one() {
    let machine = Machine::new(PROGRAM);
    let known = Known::read();
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut wrong = Vec::new();
    for piece in pages().iter().flat_map(pieces) {
        for command in piece.commands().unwrap_or_else(|error| panic!("{}: {error}", piece.place)) {
            *seen.entry(command[0].clone()).or_default() += 1;
            if let Err(error) = known.check(&command, &|args: &[String]| program(&machine, args)) {
                wrong.push(format!("  {}: `{}`: {error}\n", piece.place, piece.code.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "commands that are none:\n{}", wrong.concat());
    // An extractor that finds nothing would find nothing wrong.
    for (of, least) in [("taimatsu", 20), ("cargo", 8), ("curl", 1), (".ci/run", 1)] {
        assert!(seen.get(of).is_some_and(|seen| *seen >= least), "{of}: {seen:?}");
    }
}

#[test]
fn every_test_that_is_named_is_there() {
    let mut seen = 0;
    for piece in pages().iter().flat_map(pieces) {
        let Some((file, name)) = piece.code.split_once(".rs::") else { continue };
        let source = std::fs::read_to_string(workspace_root().join(format!("{file}.rs")));
        let there = source.is_ok_and(|source| has_test(&source, name));
        assert!(there, "{}: there is no test `{}`", piece.place, piece.code);
        seen += 1;
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn every_path_of_the_api_is_a_route() {
    let known = Known::read();
    let mut seen = 0;
    for piece in pages().iter().flat_map(pieces).filter(|piece| !piece.fenced) {
        let (method, path) = piece.code.split_once(' ').unwrap_or(("", &piece.code));
        if ["/v1/", "/taimatsu/v1/"].iter().any(|root| path.starts_with(root)) {
            let there = known.routes.iter().any(|route| {
                route.takes(method, path) || method.is_empty() && route.takes(route.method, path)
            });
            assert!(there, "{}: the API has no `{}`", piece.place, piece.code);
            seen += 1;
        }
    }
    assert!(seen > 3, "{seen}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut seen = 0;
    for page in pages() {
        let here = workspace_root().join(&page.path);
        let targets = page.text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap();
            assert!(here.with_file_name(file).exists(), "{}: no {target}", page.path);
            seen += 1;
        }
    }
    assert!(seen > 10, "{seen}");
}

/// A page, by its path from the workspace's root.
struct Page {
    path: String,
    text: String,
}

fn pages() -> Vec<Page> {
    let root = workspace_root();
    let mut paths = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).to_vec();
    for folder in ["docs", "docs/decisions"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                paths.push(format!("{folder}/{name}"));
            }
        }
    }
    paths.sort();
    let read = |path: String| {
        let text = std::fs::read_to_string(root.join(&path)).unwrap();
        Page { path, text }
    };
    paths.into_iter().map(read).collect()
}

/// Code in a page: a line of a fenced block (continued ones as one), or what stands in backticks.
struct Piece {
    place: String,
    code: String,
    fenced: bool,
}

fn pieces(page: &Page) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut in_fence = false;
    // A line that goes on in the next one; outside fences a paragraph.
    let mut begun: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(page.text.lines().chain([""])) {
        let is_fence = line.trim_start().starts_with("```");
        if in_fence && !is_fence {
            let (first, mut code) = begun.take().unwrap_or_else(|| (number, String::new()));
            if let Some(more) = line.strip_suffix('\\') {
                code.push_str(more);
                begun = Some((first, code));
            } else {
                code.push_str(line);
                pieces.push(Piece { place: page.place(first), code, fenced: true });
            }
        } else if is_fence || line.trim().is_empty() {
            if let Some((first, text)) = begun.take() {
                pieces.extend(in_backticks(&page.place(first), &text));
            }
            in_fence ^= is_fence;
        } else {
            let (_, text) = begun.get_or_insert_with(|| (number, String::new()));
            text.push_str(line.trim());
            text.push(' ');
        }
    }
    assert!(!in_fence, "{}: a fence without its end", page.path);
    pieces
}

fn in_backticks(place: &str, paragraph: &str) -> Vec<Piece> {
    let parts: Vec<&str> = paragraph.split('`').collect();
    assert!(parts.len() % 2 == 1, "{place}: a backtick without its other");
    let code = parts.into_iter().skip(1).step_by(2);
    code.map(|code| Piece { place: place.to_owned(), code: code.to_owned(), fenced: false })
        .collect()
}

impl Page {
    fn place(&self, line: usize) -> String {
        format!("{}:{line}", self.path)
    }
}

impl Piece {
    /// The commands of ours in it, where it begins with one; else it is something else.
    fn commands(&self) -> Result<Vec<Vec<String>>, String> {
        let mut first = self.code.split_whitespace().skip_while(|word| is_before_command(word));
        if !first.next().is_some_and(is_ours) {
            return Ok(Vec::new());
        }
        // In a sentence, a name by itself is a name; `taimatsu 2026 ...` are domains of signatures.
        let names = |word: Option<&str>| word.is_none_or(|word| word.starts_with("20"));
        if !self.fenced && !self.code.starts_with(".ci/") && names(first.next()) {
            return Ok(Vec::new());
        }
        let mut commands = cut(&self.code)?;
        for command in &mut commands {
            let before = command.iter().take_while(|word| is_before_command(word)).count();
            command.drain(..before);
        }
        commands.retain(|command| command.first().is_some_and(|word| is_ours(word)));
        Ok(commands)
    }
}

fn is_ours(word: &str) -> bool {
    ["taimatsu", "cargo", "curl"].contains(&word) || word.starts_with(".ci/")
}

/// A prompt, or a setting of the environment.
fn is_before_command(word: &str) -> bool {
    let is_name = |name: &str| {
        !name.is_empty() && name.chars().all(|letter| letter == '_' || letter.is_ascii_uppercase())
    };
    word == "$" || word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

/// The simple commands of a line, each as its words, as a shell would cut it up: by blanks,
/// quotes, comments, pipes. Nothing is expanded.
fn cut(line: &str) -> Result<Vec<Vec<String>>, String> {
    let mut commands = vec![Vec::new()];
    let mut word: Option<String> = None;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        let ends_command = "|;&<>".contains(letter);
        match letter {
            '\'' | '"' => word.get_or_insert_default().push_str(&quoted(letter, &mut letters)?),
            '\\' => word.get_or_insert_default().extend(letters.next()),
            '#' if word.is_none() => break,
            _ if ends_command || letter.is_whitespace() => {
                commands.last_mut().unwrap().extend(word.take());
                if ends_command {
                    commands.push(Vec::new());
                }
            }
            _ => word.get_or_insert_default().push(letter),
        }
    }
    commands.last_mut().unwrap().extend(word);
    Ok(commands)
}

fn quoted(quote: char, letters: &mut std::str::Chars<'_>) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match letters.next() {
            None => return Err("a quote without its other".to_owned()),
            Some(letter) if letter == quote => return Ok(text),
            Some('\\') if quote == '"' => text.extend(letters.next()),
            Some(letter) => text.push(letter),
        }
    }
}

/// Gives the program these arguments and `--help`.
fn program(machine: &Machine, args: &[String]) -> Result<(), String> {
    // Behind it, `--help` would be a word like any other, and the command would be run.
    if args.iter().any(|arg| arg == "--") {
        return Err("`--` cannot be looked behind".to_owned());
    }
    let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args.first() != Some(&"help") {
        args.push("--help");
    }
    let said = machine.run(&args);
    if said.status.code() == Some(0) { Ok(()) } else { Err(said.err) }
}

/// What a command may name.
struct Known {
    packages: BTreeMap<String, Package>,
    routes: Vec<Route>,
}

struct Package {
    /// From the workspace's root.
    folder: String,
    /// The flag that names such a target, and its name.
    targets: Vec<(&'static str, String)>,
}

/// A path of the API.
struct Route {
    method: &'static str,
    path: String,
}

impl Route {
    fn takes(&self, method: &str, path: &str) -> bool {
        let fits = match self.path.split_once("{*") {
            Some((root, _)) => path.len() > root.len() && path.starts_with(root),
            None => path == self.path,
        };
        fits && method == self.method
    }
}

/// The routes of the API's router, from its source.
fn routes(source: &str) -> Vec<Route> {
    let route = |rest: &str| {
        let (path, handler) = rest.split_once('"')?;
        let handler = handler.trim_start_matches([',', ' ', '\n']);
        let method = ["GET", "POST"]
            .into_iter()
            .find(|method| handler.starts_with(&format!("{}(", method.to_ascii_lowercase())));
        Some(Route { method: method?, path: path.to_owned() })
    };
    source.split(".route(\"").skip(1).filter_map(route).collect()
}

impl Known {
    fn read() -> Self {
        let root = workspace_root();
        let mut command = MetadataCommand::new();
        command.manifest_path(root.join("Cargo.toml")).no_deps();
        let metadata = command.other_options(["--offline".to_owned()]).exec().unwrap();
        let package = |package: &&cargo_metadata::Package| {
            let folder = package.manifest_path.parent().unwrap().as_std_path();
            let folder = folder.strip_prefix(&metadata.workspace_root).unwrap();
            let folder = folder.to_str().unwrap().to_owned();
            let targets = package.targets.iter().filter_map(named_by).collect();
            (package.name.to_string(), Package { folder, targets })
        };
        let packages = metadata.workspace_packages().iter().map(package).collect();
        let routes = routes(&std::fs::read_to_string(root.join("node/src/api.rs")).unwrap());
        Self { packages, routes }
    }

    /// What is wrong with a command, if anything. `run` is asked about the program's arguments.
    fn check(
        &self,
        command: &[String],
        run: &dyn Fn(&[String]) -> Result<(), String>,
    ) -> Result<(), String> {
        match command[0].as_str() {
            "taimatsu" => run(&command[1..]),
            "cargo" => self.cargo(&command[1..])?.map_or(Ok(()), run),
            "curl" => self.curl(&command[1..]),
            file if workspace_root().join(file).is_file() => Ok(()),
            _ => Err("there is no such file".to_owned()),
        }
    }

    /// What cargo would give the program, where it would run it.
    fn cargo<'a>(&self, words: &'a [String]) -> Result<Option<&'a [String]>, String> {
        let end = words.iter().position(|word| word == "--");
        let behind = end.map_or(&[][..], |end| &words[end + 1..]);
        let mut words = words[..end.unwrap_or(words.len())].iter().map(String::as_str);
        let verb = words.next().unwrap_or_default();
        if !VERBS.contains(&verb) {
            return Err(format!("`cargo {verb}` is not known here"));
        }
        let (mut package, mut target) = (None, None);
        while let Some(flag) = words.next() {
            if SWITCHES.contains(&flag) {
                continue;
            }
            let value = words.next().ok_or_else(|| format!("`{flag}` has no value"))?;
            match flag {
                "-p" | "--package" if self.packages.contains_key(value) => package = Some(value),
                "--test" | "--bench" | "--bin" | "--example" => target = Some((flag, value)),
                "--path" if self.packages.values().any(|package| package.folder == value) => {}
                _ => return Err(format!("`{flag} {value}` is not known here")),
            }
        }
        if let Some((flag, name)) = target {
            let mut places =
                self.packages.iter().filter(|(of, _)| package.is_none_or(|p| p == *of));
            let has = |place: &Package| place.targets.contains(&(kind(flag), name.to_owned()));
            if !places.any(|(_, place)| has(place)) {
                return Err(format!("there is no `{flag} {name}`"));
            }
        }
        match (verb, package, target) {
            ("run", None | Some("taimatsu"), None) => Ok(Some(behind)),
            ("test", _, Some(("--test", "simulation"))) => simulation(behind).map(|()| None),
            _ if behind.is_empty() => Ok(None),
            _ => Err("what stands behind `--` is not known here".to_owned()),
        }
    }

    fn curl(&self, words: &[String]) -> Result<(), String> {
        let (mut method, mut address) = ("GET", "");
        let mut words = words.iter().map(String::as_str);
        while let Some(word) = words.next() {
            match word {
                "-N" | "-i" | "-s" => {}
                "-H" => {
                    words.next().ok_or("`-H` has no value")?;
                }
                "-d" => {
                    let body = words.next().unwrap_or_default();
                    let json = serde_json::from_str::<serde_json::Value>(body);
                    json.map_err(|error| format!("its body is no JSON: {error}"))?;
                    method = "POST";
                }
                _ if word.starts_with("http://") && address.is_empty() => address = word,
                _ => return Err(format!("`{word}` of curl is not known here")),
            }
        }
        let rest = address.trim_start_matches("http://");
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if !["127.0.0.1", "localhost"].contains(&host.split(':').next().unwrap()) {
            return Err(format!("`{address}` is not this machine"));
        }
        let path = path.split('?').next().unwrap();
        let there = self.routes.iter().any(|route| route.takes(method, path));
        there.then_some(()).ok_or_else(|| format!("the API has no {method} {path}"))
    }
}

fn named_by(target: &Target) -> Option<(&'static str, String)> {
    let flags = [
        (target.is_test(), "--test"),
        (target.is_bench(), "--bench"),
        (target.is_bin(), "--bin"),
        (target.is_example(), "--example"),
    ];
    let (_, flag) = flags.into_iter().find(|(is, _)| *is)?;
    Some((flag, target.name.clone()))
}

/// The flag itself, for as long as the program lives.
fn kind(flag: &str) -> &'static str {
    ["--test", "--bench", "--bin"].into_iter().find(|kind| *kind == flag).unwrap_or("--example")
}

/// Whether the simulator takes these words.
fn simulation(words: &[String]) -> Result<(), String> {
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let value = words.next().ok_or_else(|| format!("`{flag}` has no value"))?;
        let is_known = match flag.as_str() {
            "--seed" | "--seeds" | "--nodes" => value.parse::<u64>().is_ok(),
            "--scenario" => scenarios::named(value).is_some(),
            _ => false,
        };
        if !is_known {
            return Err(format!("the simulator takes no `{flag} {value}`"));
        }
    }
    Ok(())
}

/// Whether this source has a test of this name, or a scenario of the simulator.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<&str> = source.lines().map(str::trim_start).collect();
    let (function, scenario) = (format!("fn {name}("), format!("const {name}: Scenario "));
    let is_there = |at: usize| {
        let mut above = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
        let marks = ["#[test]", "#[tokio::test"];
        let is_function = lines[at].trim_start_matches("async ").starts_with(&function);
        lines[at].contains(&scenario)
            || is_function && above.any(|line| marks.iter().any(|mark| line.starts_with(mark)))
    };
    (0..lines.len()).any(is_there)
}

/// What a page with this text gets wrong, where the program takes `up` and no other verb.
fn wrongs(text: &str) -> Vec<String> {
    let known = Known::read();
    let run = |args: &[String]| match args.first().map(String::as_str) {
        Some("up") => Ok(()),
        _ => Err("no such verb".to_owned()),
    };
    let page = Page { path: "sample.md".to_owned(), text: text.to_owned() };
    let check = |piece: Piece| -> Vec<String> {
        match piece.commands() {
            Ok(commands) => commands.iter().filter_map(|of| known.check(of, &run).err()).collect(),
            Err(error) => vec![error],
        }
    };
    pieces(&page).into_iter().flat_map(check).collect()
}

#[test]
fn what_is_no_command_is_noticed() {
    let of_program =
        ["taimatsu fly", "  $ A=b taimatsu", "curl -s http://localhost/health | taimatsu x"];
    let of_cargo = [
        "cargo fly",
        "cargo test -p nobody",
        "cargo test -p taimatsu-tests --test nothing",
        "cargo test -p taimatsu --test simulation",
        "cargo test --workspace --not-known x",
        "cargo run --release -- fly",
        "cargo run -p taimatsu-bootstrap -- up",
        "cargo install --path nowhere",
        "cargo test -p taimatsu-tests --test simulation -- --seed many",
        "cargo test -p taimatsu-tests --test simulation -- --scenario none",
    ];
    let of_curl = [
        "curl http://127.0.0.1:4810/v1/nothing",
        "curl http://127.0.0.1:4810/v1/models/",
        "curl http://127.0.0.1:4810/v1/completions",
        "curl http://elsewhere.example/v1/models",
        "curl http://127.0.0.1:4810/v1/completions -d '{\"model\": }'",
        "curl -o file http://127.0.0.1:4810/v1/models",
    ];
    let others = [".ci/nothing", "taimatsu up 'no end"];
    let all = of_program.iter().chain(&of_cargo).chain(&of_curl).chain(&others);
    for bad in all {
        assert_eq!(wrongs(&format!("text\n```\n{bad}\n```\n")).len(), 1, "{bad}");
    }
    assert_eq!(wrongs("Say `taimatsu fly` or `taimatsu\nwalk`.").len(), 2);
}

#[test]
fn what_is_a_command_passes_and_what_is_none_is_left_alone() {
    let good = [
        "taimatsu up --serve \"a b\"   # isn't it",
        "A=b taimatsu up \\\n  --more",
        "cargo test -p taimatsu-tests --test simulation -- --seed 7 --scenario churn",
        "cargo install --path node",
        "cargo run --release -- up",
        "curl -N http://localhost:4810/v1/models/org/name",
        "curl http://127.0.0.1:4810/v1/completions -d '{\"model\": \"m\"}'",
        "  others     taimatsu fly --away",
        "  it isn't a command",
    ];
    for good in good {
        assert_eq!(wrongs(&format!("```\n{good}\n```")), [""; 0], "{good}");
    }
    assert_eq!(wrongs("`taimatsu`, `taimatsu 2026 receipt 1`, taimatsu fly"), [""; 0]);
}

#[test]
fn what_is_no_test_is_noticed() {
    let source = "#[test]\n// why\nfn a() {}\nfn b() {}\n  #[tokio::test(x)]\n  async fn c() {}\n";
    assert!(has_test(source, "a") && has_test(source, "c"));
    assert!(!has_test(source, "b") && !has_test(source, "d") && !has_test(source, ""));
    assert!(has_test("pub(super) const X: Scenario = Scenario {", "X"));
    assert!(!has_test("pub const X: u32 = 1;", "X"));
}
