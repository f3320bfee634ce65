//! Gemma's file against llama.cpp's ids.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde::Deserialize;
use taimatsu_model::catalogue::GEMMA3_270M;
use taimatsu_model::{
    GgufFile, Manifest, Message, Prompt, Store, StoredModel, Template, Tokenizer, TokenizerSpec,
    pull, store,
};
use taimatsu_protocol::UnixSeconds;

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

/// The file has no template. One as Gemma's chat models have it: roles by another name, a system's
/// words before the first user's, BOS written by the template.
const TEMPLATE: &str = "{{ bos_token }}\n\
    {%- if messages[0]['role'] == 'system' -%}\n\
    {%- set first = messages[0]['content'] + '\n\n' -%}{%- set rest = messages[1:] -%}\n\
    {%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}\n\
    {%- for message in rest -%}\n\
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}\n\
    {{ raise_exception('roles must alternate') }}{%- endif -%}\n\
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\n\
    {{ '<start_of_turn>' + role + '\n' + (first if loop.first else '') }}\n\
    {%- if message['content'] is string -%}{{ message['content'] | trim }}\n\
    {%- elif message['content'] is iterable -%}{{ raise_exception('parts') }}{%- endif -%}\n\
    {{ '<end_of_turn>\n' }}\n\
    {%- endfor -%}\n\
    {%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}";

#[test]
fn a_chat_begins_once_and_its_turns_are_tokens() {
    let said = |role: &str, content: &str| Message { role: role.into(), content: content.into() };
    let messages = [said("system", "Be brief."), said("user", " Hi "), said("assistant", "Yes?")];
    let prompt = Prompt {
        messages: &messages,
        add_generation_prompt: true,
        bos: TOKENIZER.token_name(2).unwrap(),
        eos: TOKENIZER.token_name(1).unwrap(),
        now: UnixSeconds(0),
    };
    let rendered = Template::new(TEMPLATE).unwrap().render(&prompt).unwrap();
    assert_eq!(
        rendered,
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n\
         <start_of_turn>model\nYes?<end_of_turn>\n<start_of_turn>model\n"
    );
    let ids = TOKENIZER.encode(&rendered, true).unwrap();
    assert_eq!(TOKENIZER.with_bos(ids.clone()), ids);
    let count = |wanted: u32| ids.iter().filter(|id| **id == wanted).count();
    assert_eq!((count(2), count(105), count(106), ids[1]), (1, 3, 2, 105));
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
