//! What the network is handed, inside Noise, holds nothing of prompt, answer, ids or activations;
//! and a flipped bit in it is refused. A chain of three nodes with the real model, each frame of
//! each stream recorded where it leaves and where it arrives.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use taimatsu::engine::{EngineError, Event, Message, Privacy, Prompt, Question, RouteWish};
use taimatsu::node::{Node, NodeConfig, Offer};
use taimatsu_executor::{CpuExecutor, ExecutorLimits, Input, LayerExecutor, Output, Want, Work};
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{GgufFile, Store, pull, store};
use taimatsu_network::{Direction, FrameTap, StreamKind};
use taimatsu_protocol::codec::{self, BoundedVec};
use taimatsu_protocol::link::{Downstream, LinkHello};
use taimatsu_protocol::{PeerId, Sampling, Span};

const QUESTION: &str = "Write a sentence about lanterns, harbours and fog.";
const TOKENS: u32 = 12;
const SPANS: [&str; 3] = ["0-9", "10-19", "20-29"];
const LIMITS: ExecutorLimits = ExecutorLimits { kv_positions: 2_048, threads: 1 };

/// Everything here happens within seconds; the bound only ends a test that hangs.
const HANGS: Duration = Duration::from_secs(120);

/// Does something to a frame on its way out: its place in the stream kind, its peer, its bytes.
type Hand = Box<dyn Fn(Direction, PeerId, StreamKind, &mut Vec<u8>) + Send + Sync>;

/// One node's ear and hand at its streams.
struct Ear {
    heard: Mutex<Vec<(StreamKind, Vec<u8>)>>,
    hand: Option<Hand>,
}

impl Ear {
    fn new(hand: Option<Hand>) -> Arc<Self> {
        Arc::new(Self { heard: Mutex::default(), hand })
    }
}

impl FrameTap for Ear {
    fn frame(&self, direction: Direction, peer: PeerId, kind: StreamKind, frame: &mut Vec<u8>) {
        if let Some(hand) = &self.hand {
            hand(direction, peer, kind, frame);
        }
        self.heard.lock().unwrap().push((kind, frame.clone()));
    }
}

/// One test at a time: a host keeps a file open for each of its tensors, and a process may have
/// no more than 1,024 open on some machines.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A leader, a middle, a tail and a client in this process, each with its own ear.
struct Chain {
    _homes: Vec<tempfile::TempDir>,
    nodes: Vec<Node>,
    ears: Vec<Arc<Ear>>,
}

fn models() -> PathBuf {
    let dir = store::dir_from_environment().expect("HOME or XDG_DATA_HOME is set");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap();
    dir
}

impl Chain {
    /// `ears`: of the three hosts in order, and of the client.
    async fn start(name: &str, models: &Path, ears: [Arc<Ear>; 4]) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        let homes = ears.each_ref().map(|_| tempfile::tempdir().unwrap());
        for (number, ear) in ears.iter().enumerate() {
            let door = match nodes.first() {
                Some(first) => first.addresses().await.iter().map(|a| a.parse().unwrap()).collect(),
                None => Vec::new(),
            };
            let home = &homes[number];
            let mut key = [number as u8 + 1; 32];
            key[..name.len()].copy_from_slice(name.as_bytes());
            let mut node = Node::start(NodeConfig {
                key: key.into(),
                swarm: name.to_owned(),
                listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
                bootstrap: door,
                max_sessions: 4,
                models: models.to_owned(),
                home: home.path().to_owned(),
                owner: taimatsu::node::Owner::default(),
                tap: Some(ear.clone()),
            })
            .await
            .unwrap();
            if let Some(span) = SPANS.get(number) {
                let offer = Offer::of(models, SMOLLM2_135M.name, Some(span), LIMITS).unwrap();
                node.host(offer).await.unwrap();
            }
            nodes.push(node);
        }
        Self { _homes: homes.into(), nodes, ears: ears.to_vec() }
    }

    fn client(&self) -> &Node {
        &self.nodes[3]
    }

    /// Asks the question through the client: ids of prompt and answer, text, frames that went
    /// through the client; or the ids so far, and why it ended.
    async fn ask(&self) -> Result<Answered, (Vec<u32>, EngineError)> {
        let engine = self.client().engine();
        let mut answer = loop {
            match engine.ask(question()).await {
                Ok(answer) => break answer,
                // Not found yet; each ask waits for a lookup.
                Err(EngineError::Uncovered { .. }) => {}
                Err(error) => return Err((Vec::new(), error)),
            }
        };
        let (mut prompt, mut ids, mut text) = (Vec::new(), Vec::new(), String::new());
        while let Some(event) = answer.events.recv().await {
            match event {
                Event::Started(started) => prompt = started.prompt_tokens,
                Event::Rerouted(_) => {}
                Event::Token(token) => {
                    ids.push(token.id);
                    text.push_str(&token.text);
                }
                Event::Finished(finished) => {
                    let forwarded = finished.report.forwarded_frames;
                    return Ok(Answered { prompt, ids, text, forwarded });
                }
                Event::Failed(error) => return Err((ids, error)),
            }
        }
        panic!("an answer ends with a word");
    }

    fn heard(&self) -> Vec<(StreamKind, Vec<u8>)> {
        self.ears.iter().flat_map(|ear| ear.heard.lock().unwrap().clone()).collect()
    }
}

#[derive(Debug)]
struct Answered {
    prompt: Vec<u32>,
    ids: Vec<u32>,
    text: String,
    forwarded: u32,
}

fn question() -> Question {
    Question {
        id: None,
        model: SMOLLM2_135M.name.into(),
        prompt: Prompt::Chat(vec![Message { role: "user".into(), content: QUESTION.into() }]),
        sampling: Sampling::greedy(),
        max_tokens: Some(TOKENS),
        stop: Vec::new(),
        ignore_eos: true,
        logprobs: None,
        route: RouteWish::Chain,
        privacy: Privacy::Anyone,
    }
}

/// All 8-byte windows of what nobody else shall read.
struct Secrets(HashSet<[u8; 8]>);

impl Secrets {
    fn of(models: &Path, answered: &Answered) -> Self {
        let mut secrets = Self(HashSet::new());
        let ids = [answered.prompt.clone(), answered.ids.clone()].concat();
        secrets.add(QUESTION.as_bytes());
        secrets.add(answered.text.as_bytes());
        secrets.add(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>());
        secrets.add(&codec::encode(&ids));
        for activations in activations(models, &ids) {
            secrets.add(&activations);
        }
        secrets
    }

    fn add(&mut self, bytes: &[u8]) {
        let windows = bytes.array_windows::<8>();
        // Nearly empty ones stand in any header: a counter, a length.
        self.0.extend(windows.filter(|w| w.iter().filter(|byte| **byte != 0).count() > 3));
    }

    fn occur_in(&self, frame: &[u8]) -> bool {
        frame.array_windows::<8>().any(|window| self.0.contains(window))
    }
}

/// What travels on lanes 0 and 1: hidden states after block 9 and after block 19.
fn activations(models: &Path, ids: &[u32]) -> [Vec<u8>; 2] {
    let model = Store::open(models).unwrap().resolve(SMOLLM2_135M.name).unwrap();
    let file = Arc::new(GgufFile::open(&model.path).unwrap());
    let through = |span: &str, input: Input<'_>| {
        let span = Span::parse_inclusive(span, 30).unwrap();
        let mut executor = CpuExecutor::load(&file, &model.manifest, span, LIMITS).unwrap();
        let kv = executor.open(512, span).unwrap();
        let work = Work { kv, start: 0, input, want: Want::Hidden };
        let Output::Hidden(hidden) = executor.step(&[work]).remove(0).unwrap() else { panic!() };
        hidden
    };
    let first = through(SPANS[0], Input::Tokens(ids));
    let second = through(SPANS[1], Input::Hidden(&first));
    [first, second].map(|values| values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn quiet() -> Arc<Ear> {
    Ear::new(None)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, what).await.expect("it hangs")
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_in_clear_between_hops() {
    let _turn = TURN.lock().await;
    let models = models();
    let chain = Chain::start("direct", &models, [quiet(), quiet(), quiet(), quiet()]).await;
    let answered = within(chain.ask()).await.unwrap();
    assert_eq!((answered.ids.len() as u32, answered.forwarded), (TOKENS, 0));
    let secrets = Secrets::of(&models, &answered);
    let heard = chain.heard();
    let steps =
        heard.iter().filter(|(kind, frame)| *kind == StreamKind::Link && frame.len() > 2_304);
    assert!(steps.count() >= 2 * TOKENS as usize, "the activations went by here");
    for (kind, frame) in &heard {
        assert!(!secrets.occur_in(frame), "a {kind:?} frame of {} bytes is readable", frame.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ear_would_hear_what_is_not_sealed() {
    let _turn = TURN.lock().await;
    let models = models();
    let chain = Chain::start("control", &models, [quiet(), quiet(), quiet(), quiet()]).await;
    let answered = within(chain.ask()).await.unwrap();
    let secrets = Secrets::of(&models, &answered);
    let [activations, _] = activations(&models, &answered.prompt);
    let step = codec::encode(&Downstream::Step { count: 1, committed_through: 0 });
    assert!(secrets.occur_in(&[&step[..], &activations[..2_304]].concat()));
    let ids = BoundedVec::truncated(answered.ids.iter().copied());
    assert!(secrets.occur_in(&codec::encode(&Downstream::Accepted { ids, committed_through: 0 })));
    assert!(secrets.occur_in(format!("x{}", &answered.text[3..]).as_bytes()));
}

/// Spoils the hello of lane 0, so that leader and middle cannot link straight.
fn deaf_to_hellos() -> Arc<Ear> {
    Ear::new(Some(Box::new(|direction, _, kind, frame| {
        let hello = codec::decode::<LinkHello>(frame, 1_024);
        let first = hello.is_ok_and(|hello| hello.lane == 0 && hello.generation == 1);
        if kind == StreamKind::Link && direction == Direction::Out && first {
            frame.clear();
        }
    })))
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_in_clear_at_a_third_that_forwards() {
    let _turn = TURN.lock().await;
    let models = models();
    let chain = Chain::start("third", &models, [deaf_to_hellos(), quiet(), quiet(), quiet()]).await;
    let answered = within(chain.ask()).await.unwrap();
    assert!(answered.forwarded > TOKENS, "{} frames went through the client", answered.forwarded);
    let secrets = Secrets::of(&models, &answered);
    for (kind, frame) in chain.heard() {
        assert!(!secrets.occur_in(&frame), "a {kind:?} frame of {} bytes is readable", frame.len());
    }
    let straight = Chain::start("again", &models, [quiet(), quiet(), quiet(), quiet()]).await;
    assert_eq!(within(straight.ask()).await.unwrap().ids, answered.ids);
}

/// Flips one bit in the middle of the `number`th frame of this kind that comes in and is long.
fn flips(kind: StreamKind, longer: usize, number: u32) -> Arc<Ear> {
    let seen = Mutex::new(0_u32);
    Ear::new(Some(Box::new(move |direction, _, of, frame| {
        if of == kind && direction == Direction::In && frame.len() > longer {
            let mut seen = seen.lock().unwrap();
            *seen += 1;
            if *seen == number {
                let middle = frame.len() / 2;
                frame[middle] ^= 1;
            }
        }
    })))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_between_hops_is_refused() {
    let _turn = TURN.lock().await;
    let models = models();
    let whole = Chain::start("whole", &models, [quiet(), quiet(), quiet(), quiet()]).await;
    let right = within(whole.ask()).await.unwrap().ids;
    for number in [1, 5] {
        let bad = flips(StreamKind::Link, 2_304, number);
        let name = format!("flip{number}");
        let chain = Chain::start(&name, &models, [quiet(), bad, quiet(), quiet()]).await;
        // What does not open is not taken: both ends are opened anew, or, while the session is
        // being opened for the first time, nothing was given out.
        match within(chain.ask()).await {
            Ok(answered) => assert_eq!(answered.ids, right),
            Err((ids, error)) => {
                assert!(error.to_string().contains("bad_frame: does not open"), "{error}");
                assert!(ids.is_empty() && number == 1, "{ids:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_at_the_third_is_refused() {
    let _turn = TURN.lock().await;
    let models = models();
    let bad = flips(StreamKind::Control, 2_304, 3);
    let chain = Chain::start("bit", &models, [deaf_to_hellos(), quiet(), quiet(), bad]).await;
    let whole = Chain::start("unbent", &models, [quiet(), quiet(), quiet(), quiet()]).await;
    let right = within(whole.ask()).await.unwrap().ids;
    match within(chain.ask()).await {
        Ok(answered) => assert_eq!(answered.ids, right),
        Err((ids, error)) => {
            assert!(matches!(error, EngineError::PeerFailed { .. }), "{error}");
            assert!(ids.is_empty(), "{ids:?}");
        }
    }
}
