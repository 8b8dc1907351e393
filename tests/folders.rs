//! The folder of a run: what proves that it is one, who works in it, and that nothing of others is touched.

mod common;

use std::fs;
use std::path::Path;

use common::Scratch;
use t5_wgpu::files::{self, write_all_atomic, write_atomic};
use t5_wgpu::run_folder::{MARKER, RunFolder, is_plain_name};

const NAMES: [&str; 3] = ["last", "log.jsonl", "predictions"];

fn error<T>(result: t5_wgpu::Result<T>) -> String {
    result.err().expect("an error").to_string()
}

#[test]
fn only_what_a_run_made_is_replaced_and_removed() {
    let scratch = Scratch::new("folder-own");
    let path = scratch.path("home");
    fs::create_dir_all(path.join("last")).unwrap();
    fs::write(path.join("last/p.jpg"), "").unwrap();
    fs::write(path.join("letter.txt"), "").unwrap();
    let refused = error(RunFolder::open(&path, &NAMES));
    assert!(refused.contains("home/last: no run of t5 made this") && refused.contains("touch"), "{refused}");
    assert!(!path.join(MARKER).exists());
    // What has none of the names does not matter, and stays.
    fs::rename(path.join("last"), path.join("photos")).unwrap();
    assert!(!RunFolder::look(&path, &NAMES).unwrap());
    let folder = RunFolder::open(&path, &NAMES).unwrap();
    folder.write("log.jsonl", b"{}").unwrap();
    folder.write("predictions/a.jsonl", b"{}").unwrap();
    folder.begin("last").unwrap().commit().unwrap();
    drop(folder);
    assert!(RunFolder::look(&path, &NAMES).unwrap());
    RunFolder::open(&path, &NAMES).unwrap().dissolve(&NAMES).unwrap();
    let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["letter.txt", "photos"]);
    assert!(path.join("photos/p.jpg").exists());
}

#[test]
fn two_processes_do_not_share_a_folder() {
    let scratch = Scratch::new("folder-lock");
    let folder = RunFolder::open(&scratch.path("run"), &NAMES).unwrap();
    let refused = error(RunFolder::open(&scratch.path("run"), &NAMES));
    assert!(refused.contains("another process is working in this folder"), "{refused}");
    drop(folder);
    RunFolder::open(&scratch.path("run"), &NAMES).unwrap();
}

#[cfg(unix)]
#[test]
fn a_folder_that_goes_is_an_error() {
    let scratch = Scratch::new("folder-gone");
    let path = scratch.path("run");
    let folder = RunFolder::open(&path, &NAMES).unwrap();
    folder.write("log.jsonl", b"").unwrap();
    fs::remove_dir_all(&path).unwrap();
    for gone in [folder.write("log.jsonl", b""), folder.begin("last").map(drop), folder.check()] {
        assert!(error(gone).contains("the run's folder was removed"));
    }
    let other = RunFolder::open(&path, &NAMES).unwrap();
    assert!(error(folder.write("log.jsonl", b"")).contains("replaced"));
    other.write("log.jsonl", b"").unwrap();
}

#[test]
fn names_lead_nowhere_else() {
    let scratch = Scratch::new("folder-names");
    let folder = RunFolder::open(&scratch.path("run"), &NAMES).unwrap();
    for name in
        ["../victim", "a/../../victim", "/etc/victim", "", ".", "..", "a//b", ".hidden", "tokenizer.old", "a\\b"]
    {
        assert!(error(folder.write(name, b"")).contains("no file of a run may be called"), "{name}");
        assert!(!is_plain_name(name));
    }
    assert!(["pretrain", "a.b", "x-1_2", "log.jsonl"].into_iter().all(is_plain_name));
}

#[cfg(unix)]
#[test]
fn links_are_replaced_and_not_followed() {
    use std::os::unix::fs::symlink;
    let scratch = Scratch::new("folder-links");
    let victim = scratch.file("victim", "precious");
    let folder = RunFolder::open(&scratch.path("run"), &NAMES).unwrap();
    symlink(&victim, scratch.path("run/log.jsonl")).unwrap();
    folder.write("log.jsonl", b"{}").unwrap();
    assert_eq!(fs::read_to_string(scratch.path("run/log.jsonl")).unwrap(), "{}");
    // A folder with a link for a marker is nobody's.
    fs::create_dir(scratch.path("other")).unwrap();
    symlink(&victim, scratch.path("other").join(MARKER)).unwrap();
    assert!(RunFolder::open(&scratch.path("other"), &NAMES).is_err());
    assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
}

#[test]
fn what_a_crash_left_half_written_is_removed() {
    let scratch = Scratch::new("folder-left");
    drop(RunFolder::open(&scratch.path("run"), &NAMES).unwrap());
    fs::write(scratch.path("run/.t5-partial-x7"), "half").unwrap();
    drop(RunFolder::open(&scratch.path("run"), &NAMES).unwrap());
    assert!(!scratch.path("run/.t5-partial-x7").exists());
}

#[test]
fn several_files_are_replaced_only_if_all_can_be_written() {
    let scratch = Scratch::new("folder-all");
    let (first, second) = (scratch.file("a", "old"), scratch.path("missing/b"));
    assert!(write_all_atomic(&[(&first, b"new"), (&second, b"new")]).is_err());
    assert_eq!(fs::read_to_string(&first).unwrap(), "old");
    assert_eq!(fs::read_dir(scratch.path("")).unwrap().count(), 1, "a temporary file is left");
    write_all_atomic(&[(&first, b"new"), (&scratch.path("b"), b"new")]).unwrap();
    assert_eq!(fs::read_to_string(&first).unwrap(), "new");
}

#[cfg(unix)]
#[test]
fn devices_are_written_to_and_files_get_the_usual_rights() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    write_atomic("/dev/null", b"x").unwrap();
    assert!(fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    let scratch = Scratch::new("folder-rights");
    write_atomic(scratch.path("a"), b"").unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&scratch.path("a")), mode(&scratch.file("b", "")));
}

#[cfg(unix)]
#[test]
fn files_without_an_end_are_refused() {
    let refused = error(files::read("/dev/zero", 1 << 20));
    assert!(refused.contains("/dev/zero: this is a pipe or a device"), "{refused}");
    let scratch = Scratch::new("folder-read");
    assert_eq!(files::read(scratch.file("a", "12"), 2).unwrap(), b"12");
    let refused = error(files::read_text(scratch.file("a", b"fine\n\xff"), 9));
    assert!(refused.contains("a:2: not UTF-8"), "{refused}");
}
