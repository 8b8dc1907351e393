//! Replacing folders: every state a crash can leave, and crashes for real.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use t5_wgpu::files::write_atomic;
use t5_wgpu::run_folder::{AtomicDir, MARKER, RunFolder, recover};

/// An empty folder of this test's own, removed at its end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("t5-atomic-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        drop(RunFolder::open(&path, &[]).unwrap());
        Scratch(path)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name != MARKER);
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A checkpoint of two files that say the same number.
fn fill(dir: &Path, version: u32) {
    fs::create_dir_all(dir.join("training_state")).unwrap();
    fs::write(dir.join("config.json"), version.to_string()).unwrap();
    fs::write(dir.join("training_state/step"), version.to_string().repeat(50_000)).unwrap();
}

/// The version of a whole checkpoint.
fn version(dir: &Path) -> u32 {
    let text = fs::read_to_string(dir.join("config.json")).unwrap();
    assert_eq!(fs::read_to_string(dir.join("training_state/step")).unwrap(), text.repeat(50_000));
    text.parse().unwrap()
}

fn begin(path: &Path) -> t5_wgpu::Result<AtomicDir> {
    RunFolder::open(path.parent().unwrap(), &[])?.begin(path.file_name().unwrap().to_str().unwrap())
}

fn save(path: &Path, version: u32) {
    let dir = begin(path).unwrap();
    fill(dir.path(), version);
    dir.commit().unwrap();
}

#[test]
fn commit_replaces_the_whole_folder() {
    let scratch = Scratch::new("commit");
    let path = scratch.0.join("runs/model");
    save(&path, 1);
    assert_eq!(version(&path), 1);
    fs::write(path.join("only-in-the-old-one"), "").unwrap();
    save(&path, 2);
    assert_eq!(version(&path), 2);
    assert!(!path.join("only-in-the-old-one").exists());
    assert_eq!(fs::read_dir(scratch.0.join("runs")).unwrap().count(), 2);
}

#[test]
fn dropping_without_commit_changes_nothing() {
    let scratch = Scratch::new("drop");
    let path = scratch.0.join("model");
    save(&path, 1);
    let dir = begin(&path).unwrap();
    fill(dir.path(), 2);
    drop(dir);
    assert_eq!((version(&path), scratch.names()), (1, vec!["model".to_owned()]));
}

/// After each step of a commit (see the table in the module), what recovery must find: (folders and their versions,
/// version afterwards). 0 stands for a folder that is not whole.
#[test]
fn recovers_from_a_crash_after_every_step() {
    type Folders = &'static [(&'static str, u32)];
    let states: [(Folders, Option<u32>); 11] = [
        (&[("", 1), (".partial", 0)], Some(1)),
        (&[("", 1), (".partial", 2)], Some(1)),
        (&[("", 1), (".new", 2)], Some(2)),
        (&[(".old", 1), (".new", 2)], Some(2)),
        (&[("", 2), (".old", 1)], Some(2)),
        (&[("", 2), (".partial", 1)], Some(2)),
        (&[("", 2), (".partial", 0)], Some(2)),
        // The first save: there is no old folder.
        (&[(".partial", 0)], None),
        (&[(".new", 1)], Some(1)),
        // Left by a crash before, and not recovered before the next one.
        (&[("", 2), (".old", 1), (".new", 3), (".partial", 0)], Some(3)),
        (&[(".old", 1)], Some(1)),
    ];
    for (folders, expected) in states {
        for save_next in [false, true] {
            let scratch = Scratch::new("steps");
            let path = scratch.0.join("model");
            for &(suffix, version) in folders {
                let dir = scratch.0.join(format!("model{suffix}"));
                match version {
                    0 => fs::create_dir(&dir).unwrap(),
                    _ => fill(&dir, version),
                }
            }
            recover(&path).unwrap();
            recover(&path).unwrap();
            match expected {
                Some(expected) => assert_eq!(version(&path), expected, "{folders:?}"),
                None => assert!(!path.exists(), "{folders:?}"),
            }
            assert_eq!(scratch.names().len(), expected.iter().len(), "{folders:?} leaves {:?}", scratch.names());
            if save_next {
                save(&path, 9);
                assert_eq!((version(&path), scratch.names().len()), (9, 1));
            }
        }
    }
}

const VICTIM: &str = "T5_ATOMIC_VICTIM";

/// Not a test by itself: the process that `survives_kill_9` kills. Saves versions 1, 2, 3, ... until then.
#[test]
fn victim() {
    let Some(path) = std::env::var_os(VICTIM).map(PathBuf::from) else {
        return;
    };
    let start = fs::read_to_string(path.join("config.json")).map_or(0, |text| text.parse().unwrap());
    let give_up = Instant::now() + Duration::from_secs(20);
    for version in start + 1.. {
        save(&path, version);
        assert!(Instant::now() < give_up, "nobody killed this process");
    }
}

#[test]
fn survives_kill_9() {
    let scratch = Scratch::new("kill");
    let path = scratch.0.join("model");
    let mut last = 0;
    for round in 0..40 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim"])
            .env(VICTIM, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // On a slow disk the first save takes longer.
        let patience = if last == 0 { 20_000 * (round + 1) } else { 20_000 + 1_373 * round };
        std::thread::sleep(Duration::from_micros(patience));
        // A reader beside the living writer must neither disturb it nor see a mixture.
        recover(&path).unwrap();
        child.kill().unwrap();
        assert!(!child.wait().unwrap().success());
        recover(&path).unwrap();
        if path.exists() {
            let now = version(&path);
            assert!(now >= last, "went back from {last} to {now}");
            last = now;
        }
        assert!(scratch.names().len() <= 1, "{:?}", scratch.names());
    }
    assert!(last > 0, "no process lived long enough to save anything");
}

#[cfg(unix)]
#[test]
fn a_reader_leaves_a_living_writer_alone() {
    let scratch = Scratch::new("living");
    let path = scratch.0.join("model");
    let dir = begin(&path).unwrap();
    fill(dir.path(), 1);
    recover(&path).unwrap();
    let error = begin(&path).unwrap_err().to_string();
    assert!(error.contains("another process is writing here"), "{error}");
    dir.commit().unwrap();
    assert_eq!(version(&path), 1);
}

#[cfg(unix)]
#[test]
fn readers_and_a_writer_at_once() {
    let scratch = Scratch::new("threads");
    let path = scratch.0.join("model");
    save(&path, 1);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2).map(|_| scope.spawn(|| (0..300).for_each(|_| recover(&path).unwrap()))).collect();
        (2..40).for_each(|version| save(&path, version));
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert_eq!((version(&path), scratch.names().len()), (39, 1));
}

/// Only in a run's folder are folders of such names left over from a crash.
#[test]
fn folders_of_others_are_left_alone() {
    let scratch = Scratch::new("foreign");
    fs::remove_file(scratch.0.join(MARKER)).unwrap();
    for name in ["photos.old", "photos.new", "photos.partial"] {
        fs::create_dir(scratch.0.join(name)).unwrap();
    }
    for path in [scratch.0.join("photos"), scratch.0.join("nowhere/at/all"), PathBuf::from(".")] {
        recover(path).unwrap();
    }
    assert_eq!(scratch.names(), ["photos.new", "photos.old", "photos.partial"]);
}

#[test]
fn files_are_replaced_whole() {
    let scratch = Scratch::new("file");
    let path = scratch.0.join("log.json");
    for text in ["first", "second, longer", ""] {
        write_atomic(&path, text.as_bytes()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    assert_eq!(scratch.names(), ["log.json"]);
    let error = write_atomic(scratch.0.join("no/log.json"), b"x").unwrap_err().to_string();
    assert!(error.starts_with("cannot create"), "{error}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_may_not_be_written_is_reported_with_its_remedy() {
    // Even root may not create folders here.
    let error = RunFolder::open(Path::new("/sys/kernel/t5-model"), &[]).unwrap_err().to_string();
    assert!(error.starts_with("cannot create /sys/kernel/t5-model:"), "{error}");
}

/// Needs the right to mount a file system of its own; says so where it has none.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_leaves_the_old_checkpoint() {
    let scratch = Scratch::new("full");
    let mount = |program: &str, args: &[&str]| {
        let status = Command::new(program).args(args).arg(&scratch.0).status();
        status.is_ok_and(|s| s.success())
    };
    if !mount("mount", &["-t", "tmpfs", "-o", "size=1m", "tmpfs"]) {
        eprintln!("not checked: this user may not mount the small file system that a full disk needs");
        return;
    }
    let path = scratch.0.join("model");
    save(&path, 1);
    let dir = begin(&path).unwrap();
    let error = write_atomic(dir.path().join("big"), &vec![0; 2 << 20]).unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("No space left on device"), "{error}");
    assert!(error.contains("free some space"), "{error}");
    drop(dir);
    assert_eq!((version(&path), scratch.names().len()), (1, 1));
    assert!(mount("umount", &[]));
}
