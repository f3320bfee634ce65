//! Gemma's file against llama.cpp's ids.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;
use taimatsu_model::catalogue::GEMMA3_270M;
use taimatsu_model::{
    GgufFile, Manifest, Store, StoredModel, Tokenizer, TokenizerSpec, pull, store,
};

static MODEL: LazyLock<StoredModel> = LazyLock::new(|| {
    let dir = store::dir_from_environment().expect("a home directory");
    let store = Store::open(&dir).expect("a place for models");
    pull::ensure(&store, &GEMMA3_270M).expect("the model, or a way to it")
});

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    Tokenizer::new(TokenizerSpec::from_bytes(&MODEL.tokenizer_blob).unwrap()).unwrap()
});

fn data(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(name);
    std::fs::read(path).unwrap()
}

#[test]
fn the_model_is_the_one_that_the_catalogue_names() {
    let file = GgufFile::open(&MODEL.path).unwrap();
    let manifest = Manifest::of(&file).unwrap();
    assert_eq!(manifest.id(), GEMMA3_270M.id());
    assert_eq!((MODEL.id, MODEL.bytes), (manifest.id(), GEMMA3_270M.bytes()));
    assert_eq!((manifest.architecture.as_str(), manifest.blocks), ("gemma3", GEMMA3_270M.blocks));
    assert_eq!((manifest.hidden, manifest.head_dim, manifest.vocab), (640, 256, 262_144));
    assert_eq!(manifest.tensors.len(), 236);
    // It goes on with texts: there is no chat that it was trained for.
    assert_eq!(MODEL.template_blob, None);
}

#[test]
fn the_tokenizer_gives_every_prompts_ids_and_every_answers_text() {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        rendered: String,
        prompt_tokens: Vec<u32>,
        tokens: Vec<u32>,
        text: String,
    }
    let reference = data("gemma-3-270m-q4_k_m.json");
    let reference: Reference = serde_json::from_slice(&reference).unwrap();
    assert_eq!(reference.cases.len(), 5);
    for case in reference.cases {
        let ids = TOKENIZER.with_bos(TOKENIZER.encode(&case.rendered, true).unwrap());
        assert_eq!(ids, case.prompt_tokens);
        assert_eq!(TOKENIZER.decode(&ids), case.rendered);
        assert_eq!(TOKENIZER.decode(&case.tokens), case.text);
    }
}

#[test]
fn spaces_emoji_and_every_script_get_the_references_ids() {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        text: String,
        ids: Vec<u32>,
        plain: Option<Vec<u32>>,
    }
    let reference: Reference = serde_json::from_slice(&data("gemma3-tokenizer.json")).unwrap();
    assert!(reference.cases.len() > 200);
    for Case { text, ids, plain } in reference.cases {
        assert_eq!(TOKENIZER.encode(&text, true).unwrap(), ids, "{text:?}");
        let letters = TOKENIZER.encode(&text, false).unwrap();
        assert_eq!(letters, plain.unwrap_or(ids), "{text:?}");
        // U+2581 stands for a space, so the two cannot be told apart.
        assert_eq!(TOKENIZER.decode(&letters), text.replace('\u{2581}', " "));
    }
}

#[test]
fn an_answer_ends_with_its_text_or_its_turn() {
    let names = TOKENIZER.end_ids().iter().map(|id| TOKENIZER.token_name(*id).unwrap());
    // Not with `</s>`, which closes struck-out text here, and which llama.cpp takes for an end.
    assert_eq!(names.collect::<Vec<_>>(), ["<eos>", "<end_of_turn>"]);
}

proptest! {
    #[test]
    fn any_text_comes_back(text in "[^\u{2581}]{0,80}|[ \\n\\ta-f<>/]{0,80}|(\\PC| ){0,80}") {
        let text = text.replace('\u{2581}', "");
        let ids = TOKENIZER.encode(&text, false).unwrap();
        prop_assert_eq!(TOKENIZER.decode(&ids), text);
    }
}
