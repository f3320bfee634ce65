//! A position's bits hang on the model and the ids up to it alone.

#[path = "support/chains.rs"]
mod support;

use support::{Chain, Model};
use taimatsu_executor::{
    CpuExecutor, ExecutorError, Input, KvId, LayerExecutor, Output, Threads, Want, Work,
};
use taimatsu_kernels::Level;
use taimatsu_protocol::Span;

/// Every weight type of the repository's tiny files, matrices of 32 bits to 4.
const TINY: [&str; 10] = [
    "gemma3.q4_k.gguf",
    "llama-1blk.f32.gguf",
    "llama-2blk.f16.gguf",
    "llama.q4_0.gguf",
    "llama.q4_1.gguf",
    "llama.q4_k_m.gguf",
    "llama.iq4_nl.gguf",
    "llama3-rope.q4_k.gguf",
    "qwen2.q4_k.gguf",
    "qwen3.q4_k.gguf",
];

/// Ids that repeat seldom and fit the smallest vocabulary.
fn ids(count: u32) -> Vec<u32> {
    (0..count).map(|index| (index * 7919 + index * index * 31) % 500).collect()
}

#[test]
fn chunks_threads_and_cuts_do_not_show() {
    for name in TINY {
        let model = Model::tiny(name);
        let ids = ids(150);
        let whole = model.chain(&[], 2, 512).bits(&ids, 512, Want::AllLogits);
        let cuts: &[&[&str]] = match model.manifest.blocks {
            7 => &[&["0-6"], &["0-0", "1-4", "5-6"]],
            4 => &[&["0-3"], &["0-0", "1-2", "3-3"], &["0-2", "3-3"]],
            3 => &[&["0-2"], &["0-0", "1-2"], &["0-1", "2-2"]],
            2 => &[&["0-1"], &["0-0", "1-1"]],
            _ => &[&["0-0"]],
        };
        for cut in cuts {
            for chunk in [1, 7, 32, 512] {
                for threads in [1, 2] {
                    let bits = model.chain(cut, threads, 512).bits(&ids, chunk, Want::AllLogits);
                    assert!(bits == whole, "{name} {cut:?}, chunks of {chunk}, {threads} threads");
                }
            }
        }
    }
}

/// The scalar code is the specification: what vectors compute is the same.
#[test]
fn instructions_and_threads_do_not_show() {
    for name in TINY {
        let model = Model::tiny(name);
        let ids = ids(40);
        let on = |level, threads| Threads::at(level, threads).unwrap();
        let run = |threads: &Threads, chunk| {
            model.chain_on(threads, &[], 512).bits(&ids, chunk, Want::AllLogits)
        };
        let scalar = run(&on(Level::Scalar, 1), 512);
        for level in Level::all() {
            for (threads, chunk) in [(1, 1), (2, 7), (8, 512)] {
                let bits = run(&on(level, threads), chunk);
                assert!(bits == scalar, "{name}, {level}, {threads} threads, chunks of {chunk}");
            }
        }
    }
}

/// Sixteen sessions of different lengths in one batch, each as if alone.
#[test]
fn a_crowd_does_not_show() {
    let model = Model::tiny("gemma3.q4_k.gguf");
    let prompts: Vec<Vec<u32>> = (1..=16).map(|number| ids(60)[..3 * number].to_vec()).collect();
    let mut alone = model.chain(&[], 1, 64);
    let expected: Vec<Vec<u32>> =
        prompts.iter().map(|prompt| alone.bits(prompt, 512, Want::LastLogits)).collect();
    let Chain { mut hops } = model.chain(&[], 2, 64 * 17);
    let (mut executor, first) = hops.remove(0);
    executor.close(first);
    let whole = executor.span();
    let kvs: Vec<KvId> = prompts.iter().map(|_| executor.open(64, whole).unwrap()).collect();
    for half in 0..2 {
        let works: Vec<Work<'_>> = prompts
            .iter()
            .zip(&kvs)
            .map(|(prompt, kv)| {
                let (before, after) = prompt.split_at(prompt.len() / 2);
                let (start, ids) = [(0, before), (before.len() as u32, after)][half];
                Work { kv: *kv, start, input: Input::Tokens(ids), want: Want::LastLogits }
            })
            .collect();
        let answers = executor.step(&works);
        if half == 1 {
            for (answer, expected) in answers.into_iter().zip(&expected) {
                let Ok(Output::Logits(logits)) = answer else { panic!("logits") };
                let bits: Vec<u32> = logits.into_iter().map(f32::to_bits).collect();
                assert!(&bits == expected);
            }
        }
    }
}

#[test]
fn a_prompt_of_512_at_once_is_a_prompt_in_pieces() {
    let mut chain = Model::smollm().chain(&[], 2, 512);
    let ids = ids(512);
    let once = chain.bits(&ids, 512, Want::Hidden);
    assert!(once == chain.bits(&ids, 129, Want::Hidden));
    assert_eq!(once.len(), 512 * 576);
}

#[test]
fn what_was_rolled_back_leaves_no_trace() {
    let mut chain = Model::tiny("llama.q4_1.gguf").chain(&["0-1", "2-3"], 1, 64);
    let straight = chain.bits(&ids(40), 512, Want::AllLogits);
    chain.truncate(0);
    let vocab = straight.len() / 40;
    chain.step(0, &ids(25), Want::Nothing);
    chain.step(25, &[1, 2, 3, 4, 5, 6, 7], Want::Nothing);
    chain.truncate(25);
    let rest = chain.step(25, &ids(40)[25..], Want::AllLogits);
    let rest: Vec<u32> = rest.into_iter().map(f32::to_bits).collect();
    assert!(rest == straight[25 * vocab..]);
}

#[test]
fn company_in_a_batch_does_not_show() {
    for name in ["llama.q4_1.gguf", "llama-2blk.f16.gguf"] {
        let model = Model::tiny(name);
        let mut chain = model.chain(&[], 2, 64);
        let alone = chain.bits(&ids(30), 512, Want::AllLogits);
        chain.truncate(0);
        let Chain { hops } = &mut model.chain(&[], 2, 256);
        let (executor, first) = &mut hops[0];
        executor.close(*first);
        let [a, b, c] =
            [64, 64, 64].map(|positions| executor.open(positions, executor.span()).unwrap());
        let own = ids(30);
        let work = |kv, start, ids, want| Work { kv, start, input: Input::Tokens(ids), want };
        let mut answers = executor.step(&[
            work(b, 0, &[9, 8, 7], Want::Hidden),
            work(a, 0, &own[..13], Want::AllLogits),
            work(c, 5, &[1], Want::Nothing),
        ]);
        assert!(answers[2].is_err(), "nothing is computed for c yet");
        let Ok(Output::Logits(mut logits)) = answers.remove(1) else { panic!("logits") };
        let mut answers = executor.step(&[
            work(a, 13, &own[13..], Want::AllLogits),
            work(b, 3, &[5; 20], Want::LastLogits),
        ]);
        let Ok(Output::Logits(more)) = answers.remove(0) else { panic!("logits") };
        logits.extend(more);
        let bits: Vec<u32> = logits.into_iter().map(f32::to_bits).collect();
        assert!(bits == alone, "{name}");
    }
}

/// One executor of the whole model and one of its first half, entered and left midway.
#[test]
fn parts_of_spans_are_spans() {
    let model = Model::tiny("llama.q4_1.gguf");
    let ids = ids(30);
    let straight = model.chain(&[], 1, 64).bits(&ids, 512, Want::AllLogits);
    let part = |text| Span::parse_inclusive(text, model.manifest.blocks).unwrap();
    let Chain { mut hops } = model.chain(&["0-1"], 2, 64);
    let (mut first, _) = hops.remove(0);
    let Chain { mut hops } = model.chain(&["0-3"], 2, 64);
    let (mut whole, other) = hops.remove(0);
    whole.close(other);
    first.close(KvId(0));
    let lead = first.open(30, part("0-0")).unwrap();
    let [middle, tail] = ["1-2", "3-3"].map(|text| whole.open(30, part(text)).unwrap());
    let mut logits: Vec<u32> = Vec::new();
    for (start, ids) in (0..).step_by(7).zip(ids.chunks(7)) {
        let step = |executor: &mut CpuExecutor, kv, input, want| {
            let other = Work { kv: KvId(99), start: 0, input: Input::Tokens(&[1]), want };
            let mut answers = executor.step(&[other, Work { kv, start, input, want }]);
            assert_eq!(answers.remove(0), Err(ExecutorError::UnknownKv(99)));
            match answers.remove(0).unwrap() {
                Output::Hidden(values) | Output::Logits(values) => values,
                Output::Nothing => unreachable!("something was asked for"),
            }
        };
        let hidden = step(&mut first, lead, Input::Tokens(ids), Want::Hidden);
        let hidden = step(&mut whole, middle, Input::Hidden(&hidden), Want::Hidden);
        let rows = step(&mut whole, tail, Input::Hidden(&hidden), Want::AllLogits);
        logits.extend(rows.into_iter().map(f32::to_bits));
    }
    assert!(logits == straight);
}

#[test]
fn parts_in_one_batch_do_not_show() {
    let model = Model::tiny("llama.q4_0.gguf");
    let Chain { mut hops } = model.chain(&[], 2, 128);
    let (mut executor, kv) = hops.remove(0);
    executor.close(kv);
    let part = |text| Span::parse_inclusive(text, model.manifest.blocks).unwrap();
    let ids = ids(9);
    let last = Want::LastLogits;
    let work = |kv, input, want| Work { kv, start: 0, input, want };
    let whole = executor.open(16, executor.span()).unwrap();
    let alone = executor.step(&[work(whole, Input::Tokens(&ids), last)]).remove(0);
    let [again, lead] = ["0-3", "0-1"].map(|text| executor.open(16, part(text)).unwrap());
    let mut answers = executor.step(&[
        work(lead, Input::Tokens(&ids), Want::Hidden),
        work(again, Input::Tokens(&ids), last),
    ]);
    assert_eq!(answers.remove(1), alone);
    let Ok(Output::Hidden(hidden)) = answers.remove(0) else { panic!("hidden states") };
    let tail = executor.open(16, part("2-3")).unwrap();
    assert_eq!(executor.step(&[work(tail, Input::Hidden(&hidden), last)]).remove(0), alone);
    let ids = Input::Tokens(&ids);
    let [tail, lead] = ["2-3", "0-1"].map(|text| executor.open(16, part(text)).unwrap());
    assert!(executor.step(&[work(tail, ids, last)]).remove(0).is_err(), "it does not embed");
    assert!(executor.step(&[work(lead, ids, last)]).remove(0).is_err(), "it has no head");
}

#[test]
fn the_last_logits_are_the_last_of_all() {
    let mut chain = Model::tiny("qwen2.q4_k.gguf").chain(&[], 1, 64);
    let all = chain.bits(&ids(20), 512, Want::AllLogits);
    let last = chain.bits(&ids(20), 512, Want::LastLogits);
    assert!(all.ends_with(&last) && all.len() == 20 * last.len());
}
