//! The real model against llama.cpp's answers: ids, template, text.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde::Deserialize;
use taimatsu_model::catalogue::SMOLLM2_135M;
use taimatsu_model::{
    Detokenizer, GgufFile, Manifest, Message, Prompt, Store, StoredModel, Template, Tokenizer,
    TokenizerSpec, pull, store,
};
use taimatsu_protocol::UnixSeconds;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    messages: Option<Vec<Said>>,
    rendered: String,
    prompt_tokens: Vec<u32>,
    tokens: Vec<u32>,
    text: String,
    n: usize,
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

static MODEL: LazyLock<StoredModel> = LazyLock::new(|| {
    let dir = store::dir_from_environment().expect("a home directory");
    let store = Store::open(&dir).expect("a place for models");
    pull::ensure(&store, &SMOLLM2_135M).expect("the model, or a way to it")
});

fn tokenizer() -> Tokenizer {
    Tokenizer::new(TokenizerSpec::from_bytes(&MODEL.tokenizer_blob).unwrap()).unwrap()
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name)
}

fn cases() -> Vec<Case> {
    let text = std::fs::read(data("smollm2-135m-instruct-q4_1.json")).unwrap();
    serde_json::from_slice::<Reference>(&text).unwrap().cases
}

#[test]
fn the_model_is_the_one_that_the_catalogue_names() {
    let file = GgufFile::open(&MODEL.path).unwrap();
    let manifest = Manifest::of(&file).unwrap();
    assert_eq!(manifest.id(), SMOLLM2_135M.id());
    assert_eq!(manifest.blocks, SMOLLM2_135M.blocks);
    assert_eq!((MODEL.id, &MODEL.manifest), (manifest.id(), &manifest));
    assert_eq!((manifest.blocks, manifest.hidden, manifest.vocab), (30, 576, 49_152));
    assert_eq!(manifest.tensors.len(), 272);
}

#[test]
fn the_template_gives_every_conversations_text() {
    let template = Template::from_bytes(MODEL.template_blob.as_deref().unwrap()).unwrap();
    let mut seen = 0;
    for case in cases() {
        let Some(messages) = case.messages else { continue };
        let messages: Vec<Message> =
            messages.into_iter().map(|Said { role, content }| Message { role, content }).collect();
        let prompt = Prompt {
            messages: &messages,
            add_generation_prompt: true,
            bos: "<|im_start|>",
            eos: "<|im_end|>",
            now: UnixSeconds(0),
        };
        assert_eq!(template.render(&prompt).unwrap(), case.rendered);
        seen += 1;
    }
    assert_eq!(seen, 3);
}

#[test]
fn the_tokenizer_gives_every_prompts_ids() {
    let tokenizer = tokenizer();
    assert!(!tokenizer.adds_bos());
    assert_eq!((tokenizer.bos(), tokenizer.end_ids()), (Some(1), [0, 2].as_slice()));
    for case in cases() {
        assert_eq!(tokenizer.encode(&case.rendered, true).unwrap(), case.prompt_tokens);
    }
}

#[test]
fn tiny_models_give_every_prompts_ids() {
    #[derive(Deserialize)]
    struct Tiny {
        models: Vec<TinyModel>,
    }
    #[derive(Deserialize)]
    struct TinyModel {
        file: String,
        cases: Vec<TinyCase>,
    }
    #[derive(Deserialize)]
    struct TinyCase {
        prompt: String,
        prompt_tokens: Vec<u32>,
    }
    let folder = data("tiny");
    let text = std::fs::read(folder.join("tiny.json")).unwrap();
    let tiny: Tiny = serde_json::from_slice(&text).unwrap();
    assert!(!tiny.models.is_empty());
    for model in tiny.models {
        let file = GgufFile::open(&folder.join(&model.file)).unwrap();
        let tokenizer = Tokenizer::new(TokenizerSpec::of(&file).unwrap()).unwrap();
        for case in model.cases {
            let ids = tokenizer.encode(&case.prompt, true).unwrap();
            assert_eq!(ids, case.prompt_tokens, "{}: {}", model.file, case.prompt);
        }
    }
}

#[test]
fn the_stream_gives_every_answers_text() {
    let tokenizer = tokenizer();
    for case in cases() {
        let ids = whole(&tokenizer, &case);
        assert_eq!(ids.len(), case.n);
        let mut stream = Detokenizer::new();
        let mut text = String::new();
        for id in ids {
            text.push_str(&stream.push(tokenizer.token_bytes(id)));
        }
        text.push_str(&stream.finish());
        assert_eq!(text, case.text);
    }
}

/// All tokens of an answer: the reference leaves out those that end inside a character. Where the
/// text goes on with other bytes than the next token's, the token of the bytes between is put in.
fn whole(tokenizer: &Tokenizer, case: &Case) -> Vec<u32> {
    let named =
        |bytes: &[u8]| (0..tokenizer.vocab()).find(|id| tokenizer.token_bytes(*id) == bytes);
    let mut rest = case.text.as_bytes();
    let mut ids = Vec::new();
    for id in &case.tokens {
        let bytes = tokenizer.token_bytes(*id);
        let skipped = (0..4).find(|skip| rest[*skip..].starts_with(bytes)).unwrap();
        if skipped > 0 {
            ids.push(named(&rest[..skipped]).unwrap());
        }
        ids.push(*id);
        rest = &rest[skipped + bytes.len()..];
    }
    if rest == "\u{fffd}".as_bytes() {
        // The answer ends inside a character: which is all the same here.
        ids.push(named(&[0xe3, 0x81]).unwrap());
    }
    ids
}
