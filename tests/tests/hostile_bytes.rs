//! Every decoder meets bytes from strangers: none panics, and none takes memory beyond a multiple
//! of what it was given.
//!
//! Each is given noise, its own valid encodings with bytes changed, cut off and put in, and lengths
//! that claim what is not there. A counting allocator takes the highest use of memory meanwhile; it
//! counts for the whole process, so the tests here run one at a time. Frames on a stream are read
//! by code that is private to `network`, whose own tests measure it (`network/src/frames.rs`).
#![allow(clippy::unwrap_used, reason = "samples are valid, or the test is wrong")]

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use serde::de::DeserializeOwned;
use serde::ser::{SerializeTuple, Serializer};
use serde::{Deserialize, Serialize};
use taimatsu_model::manifest::MAX_MANIFEST;
use taimatsu_model::{
    GgufFile, Manifest, Message, Prompt, Template, Tokenizer, TokenizerSpec, template,
};
use taimatsu_network::StreamKind;
use taimatsu_protocol::announcement::{Answer, MAX_ANSWER, MAX_QUERY, Query};
use taimatsu_protocol::codec::{self, BoundedBytes, BoundedVec};
use taimatsu_protocol::control::{
    Forward, HopFailure, HopStats, Score, ToClient, ToHop, Token, Violation,
};
use taimatsu_protocol::link::{Downstream, Greeting, LinkAck, LinkHello, LinkReply};
use taimatsu_protocol::opening::{
    Hello, LaneOpening, MAX_OPENING, Opening, PrekeySecret, Refusal, Reply, TailOpening, TailTask,
};
use taimatsu_protocol::receipt::{self, Claim, Expected, NO_RECEIPT, Receipt};
use taimatsu_protocol::sealed::{Channel, Direction, MAX_MESSAGE, Mark, Place, Secret};
use taimatsu_protocol::signed::{MAX_RECORD, SignedBytes, Verified};
use taimatsu_protocol::{
    Announcement, Digest, ModelId, Numerics, PeerId, Sampling, SessionId, Span, SwarmId,
    UnixSeconds,
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// What a decoder may take, as a multiple of its input. The codec lets a claimed length allocate
/// up to 64 times the input (its tiers); an empty text is one byte on the wire and 24 in memory,
/// in a vector that has doubled and is being copied to its double: 24 × (2 + 1).
const TIMES: usize = 72;

/// What it may take besides: the smallest tier, and first capacities of nested lists.
const BESIDES: usize = 64 << 10;

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes of memory that `work` had at the highest, above what was there. Where that is more
/// than `allowed` it is measured again: the harness's own thread, which prints, may have taken some
/// meanwhile, and what is the decoder's comes every time.
fn peak(allowed: usize, work: impl Fn()) -> usize {
    let measure = || {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        work();
        HEAP.peak_usage().saturating_sub(before)
    };
    let first = measure();
    if first <= allowed { first } else { first.min(measure()).min(measure()) }
}

/// Noise; or one of the valid encodings, hurt.
fn hostile(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    // Lengths as the codec, and as GGUF files, write them.
    let claim = prop_oneof![
        any::<u16>().prop_map(|n| [&[251][..], &n.to_le_bytes()].concat()),
        any::<u32>().prop_map(|n| [&[252][..], &n.to_le_bytes()].concat()),
        any::<u64>().prop_map(|n| [&[253][..], &n.to_le_bytes()].concat()),
        (0..26_u32).prop_map(|bits| (1_u64 << bits).to_le_bytes().to_vec()),
    ];
    let hurts = (
        proptest::collection::vec((any::<Index>(), any::<u8>()), 0..6),
        proptest::option::of((any::<Index>(), any::<bool>(), claim)),
        proptest::option::of(any::<Index>()),
        proptest::collection::vec(any::<u8>(), 0..3),
    );
    let hurt = (proptest::sample::select(samples), hurts).prop_map(
        |(mut bytes, (changes, claim, cut, more))| {
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Some((at, over, claim)) = claim {
                let at = at.index(bytes.len());
                let end = if over { (at + claim.len()).min(bytes.len()) } else { at };
                bytes.splice(at..end, claim);
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            bytes.extend(more);
            bytes
        },
    );
    prop_oneof![1 => proptest::collection::vec(any::<u8>(), 0..600), 3 => hurt]
}

/// Gives `read` hostile bytes; a panic fails with the bytes, and so does memory over the bound.
fn withstands(name: &str, cases: u32, samples: Vec<Vec<u8>>, times: usize, read: impl Fn(&[u8])) {
    // The first call builds what is built once.
    samples.iter().for_each(|sample| read(sample));
    let mut runner =
        TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let tried = runner.run(&hostile(samples), |bytes| {
        let allowed = times.saturating_mul(bytes.len()).saturating_add(BESIDES);
        let took = peak(allowed, || read(&bytes));
        if took > allowed {
            let what = format!("{took} bytes of memory for {} of input", bytes.len());
            return Err(TestCaseError::fail(what));
        }
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{name}: {error}"));
}

/// A wire type: what decodes also encodes, to bytes that say the same.
fn wire_type<T: Serialize + DeserializeOwned>(limit: usize, samples: &[T]) {
    let samples: Vec<Vec<u8>> = samples.iter().map(codec::encode).collect();
    for sample in &samples {
        let again = codec::decode::<T>(sample, limit).map(|value| codec::encode(&value));
        assert_eq!(again.as_ref(), Ok(sample));
    }
    let name = std::any::type_name::<T>();
    withstands(name, 1_000, samples, TIMES, |bytes| {
        let Ok(value) = codec::decode::<T>(bytes, limit) else { return };
        let canonical = codec::encode(&value);
        let again = codec::decode::<T>(&canonical, limit).map(|value| codec::encode(&value));
        assert_eq!(again, Ok(canonical));
    });
}

#[test]
fn openings_and_their_answers() {
    let _alone = alone();
    let (_, hello, _) = sealed_opening();
    wire_type(MAX_OPENING + 1024, &[hello]);
    wire_type(MAX_OPENING, &[opening()]);
    wire_type(
        16 << 10,
        &[
            Reply::Accepted { nonce: [1; 32] },
            Reply::Refused(Refusal::StalePrekey(Box::new(announced()))),
            Reply::Refused(Refusal::WrongSpan(Span::whole(30).unwrap())),
            Reply::Refused(Refusal::Busy { retry_ms: 1_000 }),
        ],
    );
}

#[test]
fn control_messages() {
    let _alone = alone();
    let forward = Forward { lane: 1, generation: 2 };
    let top = || vec![(7, -0.5), (9, -1.5)].try_into().unwrap();
    let score = |next| Score { next, top: top() };
    let token = Token { id: 7, logprob: Some(-0.5), top: top() };
    let stats = HopStats { decode_steps: 9, decode_micros: 1 << 40, ..HopStats::default() };
    wire_type(
        MAX_MESSAGE,
        &[
            ToHop::Grant { until: 64 },
            ToHop::Relay { lane: 1, generation: 2 },
            ToHop::Forward(forward),
            ToHop::Close { through: 70 },
        ],
    );
    wire_type(
        MAX_MESSAGE,
        &[
            ToClient::Linked { lane: 0, generation: 1 },
            ToClient::Forward(forward),
            ToClient::Ack { received: 300, kv_len: 200, stats },
            ToClient::Verdict { index: 3, tokens: vec![token; 3].try_into().unwrap(), end: false },
            ToClient::Scored {
                position: 0,
                rows: vec![score(Some(-0.1)), score(None)].try_into().unwrap(),
            },
            ToClient::Receipt(announced()),
            ToClient::Failed(HopFailure::BadFrame(Violation::Gap)),
            ToClient::Closed { stats },
        ],
    );
}

#[test]
fn messages_of_lanes() {
    let _alone = alone();
    let session = SessionId::from_bytes([1; 16]);
    let hello = Greeting::new(session, &lane(), [2; 32]).hello().clone();
    let (reply, _) = hello.answer(&lane(), [3; 32]);
    wire_type(1024, std::slice::from_ref(&hello));
    wire_type(1024, &[reply.clone(), LinkReply::Refused]);
    wire_type(
        MAX_MESSAGE,
        &[
            Downstream::Step { count: 512, committed_through: 70_000 },
            Downstream::Accepted {
                ids: vec![1, 300, 70_000].try_into().unwrap(),
                committed_through: 9,
            },
            Downstream::Receipt(announced()),
        ],
    );
    wire_type(MAX_MESSAGE, &[LinkAck { received: 9, kv_len: 8, until: 512 }]);
    // What is read is also answered.
    withstands("a handshake", 300, vec![codec::encode(&hello)], TIMES, |bytes| {
        if let Ok(hello) = codec::decode::<LinkHello>(bytes, 1024) {
            let _ = hello.answer(&lane(), [3; 32]);
        }
    });
    withstands("its answer", 300, vec![codec::encode(&reply)], TIMES, |bytes| {
        if let Ok(reply) = codec::decode::<LinkReply>(bytes, 1024) {
            let _ = Greeting::new(session, &lane(), [2; 32]).finish(&reply);
        }
    });
}

#[test]
fn records_and_queries() {
    let _alone = alone();
    let blob = |bytes: Bytes| Answer::Blob(Some(BoundedBytes::try_from(bytes).unwrap()));
    wire_type(MAX_RECORD, &[announcement()]);
    wire_type(MAX_RECORD + 256, &[announced()]);
    wire_type(MAX_RECORD, &[receipt()]);
    wire_type(
        MAX_QUERY,
        &[
            Query::Announcements { model: Some(ModelId::of(b"m")) },
            Query::Announcements { model: None },
            Query::Blob { digest: Digest::of(b"b") },
            Query::Announce(announced()),
        ],
    );
    wire_type(
        MAX_ANSWER,
        &[
            Answer::Announcements(vec![announced(); 3].try_into().unwrap()),
            blob(Bytes::from(vec![7; 500])),
            Answer::Blob(None),
            Answer::NotUnderstood,
        ],
    );
}

#[test]
fn signed_records_are_checked_whatever_they_are() {
    let _alone = alone();
    let signed = Verified::sign(receipt(), &key()).unwrap();
    let samples = vec![codec::encode(&announced()), codec::encode(signed.wire())];
    withstands("a signed record", 300, samples, TIMES, |bytes| {
        if let Ok(signed) = codec::decode::<SignedBytes>(bytes, MAX_RECORD + 256) {
            let _ = signed.clone().verify::<Announcement>();
            let _ = signed.verify::<Receipt>();
        }
    });
}

#[test]
fn receipts_are_checked_whatever_they_say() {
    let _alone = alone();
    withstands("a receipt", 1_000, vec![codec::encode(&receipt())], TIMES, |bytes| {
        let Ok(receipt) = codec::decode::<Receipt>(bytes, MAX_RECORD) else { return };
        let expected = Expected { host: receipt.host, span: receipt.span, replaced: false };
        let claim = Claim {
            session: receipt.session,
            model: receipt.model,
            numerics: receipt.numerics,
            hops: &[expected; 2],
            prompt: &[1; 20],
            answer: &[2; 20],
            late: &[3; 20],
        };
        // Whose key it is, only its host can say; ours signs where it is ours.
        let Ok(signed) = Verified::sign(receipt, &key()) else { return };
        let said = vec![signed.wire().clone()];
        assert!(receipt::check(&claim, &[said.clone(), said]).is_err(), "one receipt of two");
    });
}

#[test]
fn sealed_openings_are_opened_or_refused() {
    let _alone = alone();
    let (prekey, hello, host) = sealed_opening();
    withstands("a sealed opening", 300, vec![codec::encode(&hello)], TIMES, |bytes| {
        if let Ok(hello) = codec::decode::<Hello>(bytes, MAX_OPENING + 1024)
            && let Ok((opening, _)) = prekey.open(&SwarmId::public(), &host, &hello)
        {
            let _ = opening.is_consistent(hello.hop);
        }
    });
}

#[test]
fn sealed_frames_are_opened_or_refused() {
    let _alone = alone();
    let tensor = vec![3; 400];
    let step = Downstream::Step { count: 1, committed_through: 0 };
    let frames = [Some(&tensor[..]), None]
        .map(|tensor| ends().0.sealer.seal(Mark::default(), &step, tensor).unwrap());
    withstands("a sealed frame", 1_000, frames.to_vec(), TIMES, |bytes| {
        let _ = ends().1.opener.open::<Downstream>(Bytes::copy_from_slice(bytes));
    });
}

#[test]
fn a_peer_with_the_right_key_may_still_write_nonsense() {
    let _alone = alone();
    let token = Token { id: 7, logprob: None, top: BoundedVec::new() };
    let verdict =
        ToClient::Verdict { index: 3, tokens: vec![token; 9].try_into().unwrap(), end: true };
    let samples = vec![codec::encode(&verdict), codec::encode(&ToHop::Grant { until: 9 })];
    withstands("a well sealed message", 1_000, samples, TIMES, |bytes| {
        let frame = ends().0.sealer.seal(Mark::default(), &Raw(bytes), None).unwrap();
        let frame = Bytes::from(frame);
        let _ = ends().1.opener.open::<ToClient>(frame.clone());
        let _ = ends().1.opener.open::<ToHop>(frame.clone());
        let _ = ends().1.opener.open::<Downstream>(frame.clone());
        let _ = ends().1.opener.open::<LinkAck>(frame);
    });
}

#[test]
fn names_of_things() {
    let _alone = alone();
    let peer = PeerId::from_public_key([5; 32]);
    let mut samples = vec![peer.to_multihash().to_vec()];
    let texts = [peer.to_string(), Digest::of(b"d").to_string(), "10-19".into(), "7".into()];
    samples.extend(texts.map(String::into_bytes));
    withstands("a name", 2_000, samples, TIMES, |bytes| {
        let _ = PeerId::from_multihash(bytes);
        let text = String::from_utf8_lossy(bytes);
        let _ = text.parse::<PeerId>();
        let _ = text.parse::<Digest>();
        let _ = text.parse::<ModelId>();
        let _ = Span::parse_inclusive(&text, 30);
    });
}

#[test]
fn model_files() {
    let _alone = alone();
    // Reading it, and all that an import derives from it: texts are copied into the tokenizer.
    withstands("a GGUF file", 2_000, vec![gguf()], TIMES, |bytes| {
        let Ok(file) = GgufFile::from_bytes(bytes.to_vec()) else { return };
        for name in file.tensor_names() {
            assert!(file.tensor(name).is_some());
        }
        let _ = Manifest::of(&file);
        let _ = TokenizerSpec::of(&file);
    });
}

#[test]
fn manifests_and_tokenizers() {
    let _alone = alone();
    let file = GgufFile::from_bytes(gguf()).unwrap();
    let manifest = Manifest::of(&file).unwrap().to_bytes().to_vec();
    withstands("a manifest", 1_500, vec![manifest], TIMES, |bytes| {
        if let Ok(manifest) = Manifest::from_bytes(bytes) {
            assert_eq!(manifest.to_bytes(), bytes);
            let _ = manifest.tensors_of(Span::whole(1).unwrap()).count();
        }
    });
    let spec = TokenizerSpec::of(&file).unwrap().to_bytes().to_vec();
    Tokenizer::new(TokenizerSpec::from_bytes(&spec).unwrap()).unwrap();
    withstands("a tokenizer", 1_500, vec![spec], TIMES, |bytes| {
        let _ = TokenizerSpec::from_bytes(bytes);
    });
}

#[test]
fn chat_templates() {
    let _alone = alone();
    let sources = [
        "{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% endfor %}",
        "{% set ns = namespace(a=[]) %}{% for m in messages %}{% set ns.a = ns.a + [m] %}\
         {% endfor %}{{ ns.a | tojson(indent=2) }}{{ strftime_now('%d %b %Y') }}",
        "{% macro f(x) %}{{ x * 9 }}{% endmacro %}{{ f(bos_token) }}{{ range(99) | list }}\
         {% if messages[0].role == 'user' and not add_generation_prompt %}{{ 1 // 2 }}{% endif %}",
    ];
    let samples = sources.map(|source| source.as_bytes().to_vec()).to_vec();
    withstands("a template", 400, samples.clone(), TEMPLATE_TIMES, |bytes| {
        let _ = Template::from_bytes(bytes);
    });
    let rendering = |bytes: &[u8]| {
        let Ok(template) = Template::from_bytes(bytes) else { return };
        let took = peak(RENDERING, || drop(template.render(&said())));
        assert!(took <= RENDERING, "{took} bytes to render");
    };
    for growing in [
        "{% set ns = namespace(t='0123456789') %}{% for a in range(60) %}\
         {% set ns.t = ns.t ~ ns.t %}{% endfor %}",
        "{% for a in range(99999) %}{{ bos_token * 9 }}{% endfor %}",
        "{{ range(99999) | list | tojson }}{{ range(99999) | map('string') | join }}",
    ] {
        rendering(growing.as_bytes());
    }
    // Rendering measures itself; outside it there is nothing more to bound.
    withstands("a rendering", 400, samples, RENDERING, rendering);
}

/// A template is a program: a byte of it may become a node of a tree and an instruction.
const TEMPLATE_TIMES: usize = 256;

/// What it makes when it runs is bounded by its steps, each of which pays for 64 bytes, and by the
/// longest prompt; not by its own length.
const RENDERING: usize = (200_000 * 64) + 3 * template::MAX_RENDERED;

#[test]
fn the_densest_templates_are_bounded_too() {
    let _alone = alone();
    let whole = ["{{a}}", "{{[[]]}}", "{%if a%}{%endif%}", "{#a#}", "{{a|e|e|e}}", "{{0}}"];
    let within = ["a,", "-", "a.b~", "[],", "{},", "not ", "0+", "a()or "];
    let whole = whole.map(|part| part.repeat(template::MAX_TEMPLATE / part.len()));
    // Shorter: an expression that long takes the engine more than the ten seconds that it is
    // given, and then goes on in a thread that nobody can end.
    let within = within.map(|part| format!("{{{{ [{}a] }}}}", part.repeat((4 << 10) / part.len())));
    for source in whole.iter().chain(&within) {
        let allowed = TEMPLATE_TIMES * source.len();
        let took = peak(allowed, || drop(Template::from_bytes(source.as_bytes())));
        let part = &source[..20];
        assert!(took <= allowed, "{part}: {} times", took / source.len());
    }
}

#[test]
#[should_panic(expected = "a greedy decoder")]
fn a_decoder_that_believes_a_claim_is_found_out() {
    let _alone = alone();
    withstands("a greedy decoder", 500, vec![vec![9, 0, 0, 0]], TIMES, |bytes| {
        let Some(claim) = bytes.first_chunk() else { return };
        let claim = u32::from_le_bytes(*claim) as usize;
        drop(Vec::<u8>::with_capacity(claim.min(1 << 24)));
    });
}

#[test]
#[should_panic(expected = "a careless decoder")]
fn a_decoder_that_panics_is_found_out() {
    let _alone = alone();
    withstands("a careless decoder", 500, vec![vec![1, 7, 7]], TIMES, |bytes| {
        let _ = bytes.first().map(|&length| bytes[..usize::from(length)].len());
    });
}

#[test]
fn a_claim_costs_no_more_at_the_edge_of_any_tier() {
    let _alone = alone();
    let edges = [9, 1024, 1025, 16_384, 16_385, 262_144, 262_145, 4_194_304, 4_194_305];
    for length in edges {
        for claim in [1_u64 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 27, 1 << 60] {
            // An answer with a blob, and its length.
            let mut bytes = [&[1, 1, 253][..], &claim.to_le_bytes()].concat();
            bytes.resize(length.max(bytes.len()), 0);
            let allowed = TIMES * bytes.len() + BESIDES;
            for took in [
                peak(allowed, || drop(codec::decode::<Answer>(&bytes, MAX_ANSWER))),
                peak(allowed, || drop(codec::decode::<String>(&bytes[2..], MAX_ANSWER))),
                peak(allowed, || {
                    drop(codec::decode::<BoundedVec<String, { 1 << 30 }>>(&bytes[2..], MAX_ANSWER))
                }),
            ] {
                assert!(took <= allowed, "{took} bytes for {length} that claim {claim}");
            }
        }
    }
}

#[test]
fn what_grows_most_in_memory_is_bounded() {
    let _alone = alone();
    // Empty texts, one more than a vector's capacity: the worst that there is.
    #[derive(Serialize, Deserialize)]
    struct Texts(BoundedVec<String, { 1 << 20 }>);
    let texts = vec![String::new(); (1 << 16) + 1];
    let bytes = codec::encode(&texts);
    let allowed = TIMES * bytes.len() + BESIDES;
    let took = peak(allowed, || drop(codec::decode::<Texts>(&bytes, MAX_MANIFEST)));
    assert!(took <= allowed, "{took} bytes for {}", bytes.len());
    // The measure itself can tell: half the bound would be broken.
    assert!(took > TIMES / 2 * bytes.len(), "{took} bytes for {}", bytes.len());
}

/// Bytes as they are, for a message that is none.
struct Raw<'a>(&'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(self.0.len())?;
        self.0.iter().try_for_each(|byte| tuple.serialize_element(byte))?;
        tuple.end()
    }
}

fn ends() -> (Channel, Channel) {
    let secret = Secret::from_bytes([4; 32]);
    let session = SessionId::from_bytes([1; 16]);
    let place = Place::Lane { lane: 0, generation: 1 };
    let end = |direction| Channel::new(&secret, session, place, direction, b"nonces");
    (end(Direction::Forth), end(Direction::Back))
}

fn lane() -> LaneOpening {
    let (peer, lane) = (PeerId::from_public_key([6; 32]), 0);
    LaneOpening { lane, peer, secret: Secret::from_bytes([4; 32]), generation: 1, fresh: true }
}

fn opening() -> Opening {
    Opening {
        model: ModelId::of(b"m"),
        span: Span::whole(30).unwrap(),
        numerics: Numerics::Echo,
        prompt_len: 3,
        positions: 64,
        receipts: true,
        out: Some(lane()),
        inward: None,
        prompt: vec![504, 3575, 282].try_into().unwrap(),
        answer: BoundedVec::new(),
        tail: Some(TailOpening {
            task: TailTask::Generate {
                sampling: Sampling::greedy(),
                end_ids: vec![2].try_into().unwrap(),
                credit: 8,
                logprobs: Some(4),
            },
            prompt: BoundedVec::new(),
        }),
    }
}

fn sealed_opening() -> (PrekeySecret, Hello, PeerId) {
    let mut rng = ChaCha20Rng::seed_from_u64(7);
    let prekey = PrekeySecret::generate(&mut rng, UnixSeconds(100));
    let host = PeerId::from_public_key([5; 32]);
    let session = SessionId::from_bytes([1; 16]);
    let sealed = opening().seal(&SwarmId::public(), &host, &prekey.public(), session, 0, &mut rng);
    (prekey, sealed.unwrap().0, host)
}

fn announcement() -> Announcement {
    let mut rng = ChaCha20Rng::seed_from_u64(8);
    let host = PeerId::from_public_key(key().verifying_key().to_bytes());
    Announcement {
        host,
        swarm: SwarmId::public(),
        model: ModelId::of(b"m"),
        blocks: 30,
        span: Span::parse_inclusive("10-19", 30).unwrap(),
        prekey: PrekeySecret::generate(&mut rng, UnixSeconds(4_000)).public(),
        numerics: Numerics::Echo,
        decode_micros: 9_000,
        prefill_rate: 500,
        free_positions: 4_096,
        sessions: 1,
        leaving: false,
        rtts: vec![(host, 30_000); 3].try_into().unwrap(),
        sequence: 1 << 40,
        expires: UnixSeconds(1_700_000_000),
    }
}

fn receipt() -> Receipt {
    Receipt {
        host: PeerId::from_public_key(key().verifying_key().to_bytes()),
        session: SessionId::from_bytes([1; 16]),
        model: ModelId::of(b"m"),
        span: Span::whole(30).unwrap(),
        numerics: Numerics::Echo,
        from: 0,
        until: 32,
        input: Digest::of(b"in"),
        output: Digest::of(b"out"),
        previous: NO_RECEIPT,
        upstream: Some(Digest::of(b"above")),
    }
}

fn announced() -> SignedBytes {
    Verified::sign(announcement(), &key()).unwrap().wire().clone()
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[9; 32])
}

fn said() -> Prompt<'static> {
    static MESSAGES: std::sync::LazyLock<Vec<Message>> =
        std::sync::LazyLock::new(|| vec![Message { role: "user".into(), content: "hello".into() }]);
    let now = UnixSeconds(1_732_406_400);
    Prompt { messages: &MESSAGES, add_generation_prompt: true, bos: "<s>", eos: "</s>", now }
}

/// A whole model in some six hundred bytes: enough for a manifest and a tokenizer.
fn gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let pair =
        |key: &str, ty: u32, value: &[u8]| [&text(key)[..], &ty.to_le_bytes(), value].concat();
    let number = |key: &str, value: u32| pair(key, 4, &value.to_le_bytes());
    let texts = |key: &str, values: &[&str]| {
        let head = [&8_u32.to_le_bytes()[..], &(values.len() as u64).to_le_bytes()].concat();
        let values: Vec<u8> = values.iter().flat_map(|value| text(value)).collect();
        pair(key, 9, &[head, values].concat())
    };
    let keys = [
        pair("general.architecture", 8, &text("llama")),
        number("llama.block_count", 1),
        number("llama.embedding_length", 32),
        number("llama.context_length", 64),
        number("llama.attention.head_count", 4),
        pair("llama.attention.layer_norm_rms_epsilon", 6, &1e-5_f32.to_le_bytes()),
        pair("tokenizer.ggml.model", 8, &text("gpt2")),
        pair("tokenizer.ggml.pre", 8, &text("gpt-2")),
        texts("tokenizer.ggml.tokens", &["a", "b", "ab"]),
        texts("tokenizer.ggml.merges", &["a b"]),
        pair("tokenizer.chat_template", 8, &text("{{ messages[0].content }}")),
    ];
    let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes(), &1_u64.to_le_bytes()].concat();
    bytes.extend((keys.len() as u64).to_le_bytes());
    bytes.extend(keys.concat());
    bytes.extend(text("token_embd.weight"));
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend([32_u64, 3].map(u64::to_le_bytes).concat());
    bytes.extend(2_u32.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32) + 3 * 18, 5);
    bytes
}

#[test]
fn every_stream_takes_the_longest_message_of_its_kind() {
    // The bounds above are the ones that streams let through.
    assert!(MAX_OPENING + 1024 <= StreamKind::Control.max_frame());
    assert!(MAX_MESSAGE < StreamKind::Control.max_frame());
}
