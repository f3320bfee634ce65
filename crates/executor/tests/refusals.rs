//! What cannot be computed is refused by name, and leaves the rest as it was.

#[path = "support/chains.rs"]
mod support;

use std::sync::Arc;

use support::Model;
use taimatsu_executor::{
    CpuExecutor, ExecutorError, ExecutorLimits, Input, KvId, LayerExecutor, Threads, Want, Work,
};
use taimatsu_model::{GgufFile, Hyper, Manifest, Packs, TensorEntry};
use taimatsu_protocol::Span;

#[test]
fn misuse_is_named_and_leaves_the_kv_alone() {
    let model = Model::tiny("llama.q4_1.gguf");
    let mut chain = model.chain(&["0-1", "2-3"], 1, 16);
    let (head, tail) = chain.hops.split_at_mut(1);
    let ((front, kv), (back, back_kv)) = (&mut head[0], &mut tail[0]);
    let (kv, back_kv) = (*kv, *back_kv);
    let vocab = front.shape().vocab;
    let hidden = front.shape().hidden as usize;

    let outside = [1, vocab];
    let cases = [
        (tokens(kv, 3, &[1], Want::Nothing), ExecutorError::WrongStart { asked: 3, len: 0 }),
        (tokens(KvId(99), 0, &[1], Want::Nothing), ExecutorError::UnknownKv(99)),
        (tokens(kv, 0, &outside, Want::Nothing), ExecutorError::UnknownToken { id: vocab, vocab }),
    ];
    for (work, refusal) in cases {
        assert_eq!(front.step(&[work]).remove(0), Err(refusal));
    }
    let values = vec![0.0; hidden];
    let shapes = [
        tokens(kv, 0, &[], Want::Nothing),
        tokens(kv, 0, &[1], Want::LastLogits),
        Work { kv, start: 0, input: Input::Hidden(&values), want: Want::Hidden },
    ];
    for work in shapes {
        let refusal = front.step(&[work]).remove(0);
        assert!(matches!(refusal, Err(ExecutorError::BadShape(_))), "{refusal:?}");
    }
    let full = front.step(&[tokens(kv, 0, &[1; 17], Want::Nothing)]).remove(0);
    assert!(matches!(full, Err(ExecutorError::ContextFull { most: 16, .. })), "{full:?}");
    let short =
        Work { kv: back_kv, start: 0, input: Input::Hidden(&values[1..]), want: Want::Nothing };
    let refusal = back.step(&[short]).remove(0);
    assert!(matches!(refusal, Err(ExecutorError::BadShape(_))), "{refusal:?}");
    assert_eq!((front.kv_len(kv), back.kv_len(back_kv)), (Some(0), Some(0)));
    assert!(front.step(&[]).is_empty());
}

#[test]
fn what_is_not_finite_is_refused_with_its_place() {
    let model = Model::tiny("llama.q4_1.gguf");
    let mut chain = model.chain(&["0-1", "2-3"], 1, 64);
    let (back, kv) = &mut chain.hops[1];
    let (kv, hidden) = (*kv, back.shape().hidden as usize);
    let fine = vec![0.1; 2 * hidden];
    back.step(&[hidden_work(kv, 0, &fine)]).remove(0).unwrap();
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut bad = fine.clone();
        bad[hidden + 3] = value;
        let refusal = back.step(&[hidden_work(kv, 2, &bad)]).remove(0);
        assert_eq!(refusal, Err(ExecutorError::NonFinite { position: 3, block: None }));
        assert_eq!(back.kv_len(kv), Some(2));
    }
}

#[test]
fn kv_is_counted_when_it_is_opened_and_freed_when_it_is_closed() {
    let model = Model::tiny("llama-1blk.f32.gguf");
    let mut chain = model.chain(&[], 1, 100);
    let (executor, first) = &mut chain.hops[0];
    assert_eq!(executor.free_positions(), 0);
    assert_eq!(executor.open(1, executor.span()), Err(ExecutorError::NoKv { asked: 1, free: 0 }));
    executor.close(*first);
    executor.close(*first);
    assert_eq!((executor.free_positions(), executor.kv_len(*first)), (100, None));
    let second = executor.open(60, executor.span()).unwrap();
    assert_ne!(second, *first);
    assert_eq!(
        executor.open(41, executor.span()),
        Err(ExecutorError::NoKv { asked: 41, free: 40 })
    );
    assert_eq!(executor.truncate(second, 1), Err(ExecutorError::WrongStart { asked: 1, len: 0 }));
    let most = executor.shape().context_length;
    let beyond = executor.open(most + 1, executor.span());
    assert_eq!(beyond, Err(ExecutorError::ContextFull { asked: most + 1, most }));
}

#[test]
fn models_that_would_come_out_wrong_are_refused_by_name() {
    let refused = |change: &dyn Fn(&mut Manifest)| {
        let Model { file, mut manifest, .. } = Model::tiny("llama.q4_1.gguf");
        change(&mut manifest);
        let span = Span::whole(manifest.blocks).unwrap();
        let limits = ExecutorLimits { kv_positions: 1, threads: 1 };
        CpuExecutor::load(&file, &manifest, span, limits).err()
    };
    assert_eq!(refused(&|_| {}), None);
    let other = ExecutorError::UnsupportedArchitecture("mamba".into());
    assert_eq!(refused(&|manifest| manifest.architecture = "mamba".into()), Some(other));
    for name in ["rope.scaling.factor", "expert_count", "logit_scale"] {
        let value = (name.to_owned(), Hyper::Integer(4));
        let change =
            |manifest: &mut Manifest| manifest.extra = vec![value.clone()].try_into().unwrap();
        assert_eq!(refused(&change), Some(ExecutorError::UnsupportedFeature(name.into())));
    }
    let change = |manifest: &mut Manifest| {
        let mut tensors = manifest.tensors.to_vec();
        let bias = TensorEntry { name: "blk.3.attn_q.bias".into(), ..tensors[0].clone() };
        tensors.push(bias);
        manifest.tensors = tensors.try_into().unwrap();
    };
    let bias = ExecutorError::UnsupportedFeature("blk.3.attn_q.bias".into());
    assert_eq!(refused(&change), Some(bias));
    let wider = refused(&|manifest| manifest.feed_forward += 32);
    assert!(matches!(wider, Some(ExecutorError::BadTensor { .. })), "{wider:?}");
    let shorter = refused(&|manifest| manifest.blocks -= 1);
    assert!(
        matches!(&shorter, Some(ExecutorError::UnsupportedFeature(name)) if name.starts_with("blk.3."))
    );
    let longer = refused(&|manifest| manifest.blocks += 1);
    assert_eq!(longer, Some(ExecutorError::MissingTensor("blk.4.attn_norm.weight".into())));
}

fn tokens(kv: KvId, start: u32, ids: &[u32], want: Want) -> Work<'_> {
    Work { kv, start, input: Input::Tokens(ids), want }
}

fn hidden_work(kv: KvId, start: u32, values: &[f32]) -> Work<'_> {
    Work { kv, start, input: Input::Hidden(values), want: Want::LastLogits }
}

/// A file that was damaged since its manifest was made is not computed with, nor packed.
#[test]
fn a_damaged_tensor_is_refused_by_name() {
    let Model { file, manifest, .. } = Model::tiny("llama.q4_1.gguf");
    let (threads, span) = (Threads::start(1).unwrap(), Span::whole(4).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let load = |file: &Arc<GgufFile>, packs: &str| {
        let packs = Packs::new(&dir.path().join(packs));
        CpuExecutor::load_on(&threads, file, &manifest, span, 16, Some(&packs)).map(drop)
    };
    for (number, name) in ["token_embd.weight", "blk.2.ffn_norm.weight", "blk.1.attn_k.weight"]
        .into_iter()
        .enumerate()
    {
        let tensor = file.tensor(name).unwrap().bytes;
        let start = tensor.as_ptr() as usize - file.bytes().as_ptr() as usize;
        let path = dir.path().join(name);
        let mut bytes = file.bytes().to_vec();
        bytes[start + tensor.len() / 2] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let damaged = Arc::new(GgufFile::open(&path).unwrap());
        let refusal = load(&damaged, &number.to_string());
        let Err(ExecutorError::BadTensor { tensor, why }) = refusal else { panic!("{refusal:?}") };
        assert_eq!(tensor, name);
        assert!(why.contains("damaged"), "{why}");
    }
    assert_eq!(load(&file, "0"), Ok(()), "nothing of the damaged ones was packed");
}

/// Packed tensors are mapped: what somebody writes there would be computed with.
#[test]
fn a_packed_tensor_that_is_written_to_is_noticed() {
    let Model { file, manifest, .. } = Model::tiny("llama.q4_1.gguf");
    let dir = tempfile::tempdir().unwrap();
    let packs = Packs::new(dir.path());
    let (threads, span) = (Threads::start(1).unwrap(), Span::parse_inclusive("1-2", 4).unwrap());
    let load = || CpuExecutor::load_on(&threads, &file, &manifest, span, 16, Some(&packs)).unwrap();
    let executor = load();
    assert!(executor.is_sound());
    let some = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let file = std::fs::File::options().write(true).open(some).unwrap();
    file.set_len(7).unwrap();
    assert!(!executor.is_sound());
    assert!(load().is_sound(), "it is packed anew");
}
