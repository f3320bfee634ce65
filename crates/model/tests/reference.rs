//! The real model against llama.cpp's answers: ids, template, text.

use std::path::Path;
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
}

#[derive(Deserialize)]
struct Said {
    role: String,
    content: String,
}

static MODEL: LazyLock<StoredModel> = LazyLock::new(|| {
    let dir = store::dir_from_environment().expect("a home directory");
    pull::ensure(&Store::open(&dir).unwrap(), &SMOLLM2_135M).unwrap()
});

fn tokenizer() -> Tokenizer {
    Tokenizer::new(TokenizerSpec::from_bytes(&MODEL.tokenizer_blob).unwrap()).unwrap()
}

fn cases() -> Vec<Case> {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data");
    let text = std::fs::read(data.join("smollm2-135m-instruct-q4_1.json")).unwrap();
    serde_json::from_slice::<Reference>(&text).unwrap().cases
}

#[test]
fn the_model_is_the_one_that_the_catalogue_names() {
    let file = GgufFile::open(&MODEL.path).unwrap();
    let manifest = Manifest::of(&file).unwrap();
    assert_eq!(manifest.id(), SMOLLM2_135M.id());
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
fn the_stream_gives_every_answers_text() {
    let tokenizer = tokenizer();
    for case in cases() {
        let mut stream = Detokenizer::new();
        let mut text = String::new();
        for id in &case.tokens {
            text.push_str(&stream.push(tokenizer.token_bytes(*id)));
        }
        text.push_str(&stream.finish());
        assert_eq!(text, case.text);
    }
}
