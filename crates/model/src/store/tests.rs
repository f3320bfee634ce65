use std::path::PathBuf;

use taimatsu_protocol::Digest;

use super::*;

fn tiny(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny").join(name)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

fn import(store: &Store, file: &str, name: &str) -> Result<StoredModel, StoreError> {
    store.import(&tiny(file), Some(name), &mut |_, _| {})
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    files.sort();
    files
}

#[test]
fn an_imported_model_is_found_by_name_and_id_and_is_the_file() {
    let (dir, store) = store();
    let mut seen = (0, 0);
    let path = tiny("llama.q4_1.gguf");
    let model = store.import(&path, Some("tiny:q4"), &mut |at, of| seen = (at, of)).unwrap();
    assert_eq!((seen.0, seen.1), (model.bytes, model.bytes));
    for reference in ["tiny:q4", &model.id.to_string()] {
        let found = store.resolve(reference).unwrap();
        assert_eq!(found.id, model.id);
        assert_eq!(found.manifest, model.manifest);
        assert_eq!(fs::read(found.path).unwrap(), fs::read(&path).unwrap());
    }
    let manifest = store.blob(model.id.digest()).unwrap().unwrap();
    assert_eq!(Manifest::from_bytes(&manifest).unwrap(), model.manifest);
    assert!(store.blob(model.manifest.tokenizer).unwrap().is_some());
    assert!(store.blob(model.manifest.template.unwrap()).unwrap().is_some());
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_removed_model_leaves_nothing_and_takes_nothing_of_others() {
    let (dir, store) = store();
    import(&store, "llama.q4_1.gguf", "one").unwrap();
    let before = files(dir.path());
    // The same tokenizer and template, so two blobs are shared.
    import(&store, "llama.q4_0.gguf", "two").unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    store.remove("two").unwrap();
    assert_eq!(files(dir.path()), before);
    assert!(store.resolve("one").is_ok());
    assert!(matches!(store.resolve("two"), Err(StoreError::Unknown(name)) if name == "two"));
    assert!(matches!(store.remove("two"), Err(StoreError::Unknown(_))));
}

#[test]
fn a_file_stays_as_long_as_it_has_a_name() {
    let (dir, store) = store();
    let empty = files(dir.path());
    for name in ["one", "two", "three"] {
        import(&store, "llama.q4_1.gguf", name).unwrap();
    }
    let removed = store.remove("two").unwrap();
    assert_eq!(
        (removed.model.names, removed.kept),
        (vec!["two".into()], vec!["one".into(), "three".into()])
    );
    assert_eq!(store.resolve("one").unwrap().names, ["one", "three"]);
    assert!(store.find("two").unwrap().is_none());
    store.remove("one").unwrap();
    let last = store.remove("three").unwrap();
    assert_eq!((last.model.names, last.kept), (vec!["three".to_owned()], vec![]));
    let names =
        |files: &[PathBuf]| files.iter().filter(|file| !file.ends_with("models.json")).count();
    assert_eq!(names(&files(dir.path())), names(&empty));
    // By its id a model goes whole, and so does one that is damaged.
    for cut in [false, true] {
        let id = import(&store, "llama.q4_1.gguf", "one").unwrap().id.to_string();
        let model = import(&store, "llama.q4_1.gguf", "two").unwrap();
        if cut {
            File::options().write(true).open(&model.path).unwrap().set_len(9).unwrap();
        }
        let removed = store.remove(if cut { "one" } else { &id }).unwrap();
        assert_eq!((removed.model.names.len(), removed.kept.len()), (2, 0), "{cut}");
        assert!(!model.path.exists() && store.list().unwrap().is_empty());
    }
}

#[test]
fn a_name_stands_for_one_model_and_a_model_can_have_more() {
    let (_dir, store) = store();
    import(&store, "llama.q4_1.gguf", "one").unwrap();
    let error = import(&store, "llama.q4_0.gguf", "one").unwrap_err();
    assert!(matches!(error, StoreError::NameTaken(name) if name == "one"));
    let again = import(&store, "llama.q4_1.gguf", "uno").unwrap();
    assert_eq!(again.names, ["one", "uno"]);
    assert_eq!(store.list().unwrap().len(), 1);
    assert!(matches!(import(&store, "llama.q4_0.gguf", "../x"), Err(StoreError::BadName(_))));
}

#[test]
fn what_is_no_model_is_refused_and_leaves_nothing() {
    let (dir, store) = store();
    let before = files(dir.path());
    let whole = fs::read(tiny("llama.q4_1.gguf")).unwrap();
    let cut = dir.path().join("cut.gguf");
    fs::write(&cut, &whole[..whole.len() - 1]).unwrap();
    let error = store.import(&cut, None, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, StoreError::Gguf { .. }), "{error}");
    fs::remove_file(&cut).unwrap();
    assert_eq!(files(dir.path()), before);
    assert!(matches!(store.resolve("/no/such.gguf"), Err(StoreError::File { .. })));
}

#[test]
fn a_file_in_place_is_hashed_once_and_again_when_it_changes() {
    let (dir, store) = store();
    let path = dir.path().join("model.gguf");
    fs::copy(tiny("llama.q4_1.gguf"), &path).unwrap();
    let reference = path.display().to_string();
    let first = store.resolve(&reference).unwrap();
    let notes = || fs::read_dir(dir.path().join("paths")).unwrap().count();
    assert_eq!(notes(), 1);
    // The second time tells what is noted, not what the file holds: the note is made to differ.
    let note = fs::read_dir(dir.path().join("paths")).unwrap().next().unwrap().unwrap().path();
    let other = import(&store, "llama.q4_0.gguf", "other").unwrap();
    let text = fs::read_to_string(&note).unwrap();
    fs::write(&note, text.replace(&first.id.to_string(), &other.id.to_string())).unwrap();
    assert_eq!(store.resolve(&reference).unwrap().id, other.id);
    fs::remove_file(&path).unwrap();
    fs::copy(tiny("llama-2blk.f16.gguf"), &path).unwrap();
    let changed = store.resolve(&reference).unwrap();
    assert_eq!(changed.manifest.blocks, 2);
    assert_eq!(notes(), 1);
}

#[test]
fn a_store_that_is_only_read_gives_models_and_takes_none() {
    let (dir, writable) = store();
    let model = import(&writable, "llama.q4_1.gguf", "one").unwrap();
    let before = files(dir.path());
    let store = Store::open_read_only(dir.path()).unwrap();
    assert_eq!(store.resolve("one").unwrap().id, model.id);
    let place = tiny("llama.q4_0.gguf").display().to_string();
    assert_eq!(store.resolve(&place).unwrap().manifest.blocks, 4);
    assert!(matches!(store.remove("one"), Err(StoreError::ReadOnly(_))));
    assert!(matches!(store.put_blob(Digest::of(b"x"), b"x"), Err(StoreError::ReadOnly(_))));
    assert!(matches!(import(&store, "llama.q4_0.gguf", "two"), Err(StoreError::ReadOnly(_))));
    assert_eq!(files(dir.path()), before);
    assert!(Store::open_read_only(&dir.path().join("none")).is_err());
}

#[test]
fn a_blob_is_what_its_digest_says_or_nothing() {
    let (dir, store) = store();
    let digest = Digest::of(b"hello");
    assert!(matches!(store.put_blob(digest, b"hullo"), Err(StoreError::Digest { .. })));
    assert_eq!(store.blob(digest).unwrap(), None);
    store.put_blob(digest, b"hello").unwrap();
    assert_eq!(store.blob(digest).unwrap().as_deref(), Some(b"hello".as_slice()));
    let file = files(&dir.path().join("blobs")).remove(0);
    fs::write(&file, b"hallo").unwrap();
    assert_eq!(store.blob(digest).unwrap(), None);
    store.put_blob(digest, b"hello").unwrap();
    assert!(store.blob(digest).unwrap().is_some());
    let long = vec![0; MAX_BLOB + 1];
    assert!(matches!(store.put_blob(digest, &long), Err(StoreError::BlobTooLong(_))));
}

#[test]
fn the_cache_of_blobs_has_a_bound_and_spares_the_stores_own() {
    let (dir, store) = store();
    let model = import(&store, "llama.q4_1.gguf", "one").unwrap();
    let folder = dir.path().join("blobs");
    for number in 0..3 {
        // Sparse: long for the bound, short on the disk.
        let file = File::create(folder.join(format!("{number:064}"))).unwrap();
        file.set_len(blobs::MAX_CACHE).unwrap();
    }
    store.put_blob(Digest::of(b"new"), b"new").unwrap();
    let total: u64 = files(&folder).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(total <= blobs::MAX_CACHE, "{total}");
    assert!(store.blob(model.manifest.tokenizer).unwrap().is_some());
}

#[test]
fn a_lost_blob_is_made_again_from_the_model() {
    let (dir, store) = store();
    let model = import(&store, "llama.q4_1.gguf", "one").unwrap();
    files(&dir.path().join("blobs")).iter().for_each(|path| fs::remove_file(path).unwrap());
    let found = store.resolve("one").unwrap();
    assert_eq!((found.id, found.names), (model.id, model.names));
    assert_eq!(found.tokenizer_blob, model.tokenizer_blob);
}

#[test]
fn two_imports_at_once_both_count() {
    let (dir, _) = store();
    std::thread::scope(|scope| {
        for (file, name) in [("llama.q4_1.gguf", "one"), ("llama.q4_0.gguf", "two")] {
            let dir = dir.path();
            scope.spawn(move || import(&Store::open(dir).unwrap(), file, name).unwrap());
        }
    });
    assert_eq!(Store::open(dir.path()).unwrap().list().unwrap().len(), 2);
}

#[test]
fn what_a_dead_process_left_is_swept_and_the_livings_is_not() {
    let (dir, store) = store();
    let dead = dir.path().join("partial").join("dead");
    fs::create_dir(&dead).unwrap();
    fs::write(dead.join("owner"), b"").unwrap();
    fs::write(dead.join("model.gguf"), b"half").unwrap();
    let alive = store.scratch().unwrap();
    assert!(!dead.exists());
    let second = store.scratch().unwrap();
    assert!(alive.path().exists() && second.path().exists());
}

#[test]
fn a_broken_index_is_named_and_a_path_in_it_is_not_followed() {
    let (dir, store) = store();
    let index = dir.path().join("models.json");
    let evil = r#"{"schema_version":1,"models":[{"names":["a"],"id":"x","sha256":"../../etc",
        "bytes":1,"license":null,"source":""}]}"#;
    for text in ["{", evil] {
        fs::write(&index, text).unwrap();
        let error = store.resolve("a").unwrap_err();
        assert!(error.to_string().contains("models.json"), "{error}");
    }
}

#[test]
fn too_little_room_is_said_in_bytes() {
    let (_dir, store) = store();
    let error = store.need(1 << 60).unwrap_err();
    assert!(matches!(error, StoreError::NoSpace { needed, free, .. } if needed > free && free > 0));
}

#[test]
fn a_catalogues_name_is_for_its_file_alone() {
    let (_dir, store) = store();
    for name in catalogue::SMOLLM2_135M.names() {
        let error = import(&store, "llama.q4_1.gguf", name).unwrap_err();
        assert!(matches!(error, StoreError::NameOfCatalogue(_)), "{error}");
    }
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn a_file_that_somebody_maps_is_in_use() {
    let (_dir, store) = store();
    let model = import(&store, "llama.q4_1.gguf", "one").unwrap();
    assert!(!store.is_in_use("one") && !store.is_in_use("two"));
    let file = GgufFile::open(&model.path).unwrap();
    assert!(store.is_in_use("one"));
    drop(file);
    assert!(!store.is_in_use("one"));
}
