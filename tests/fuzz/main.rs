//! Every reader of files under damaged and hostile input, in this process: no panic, no overflow of the stack, bounded time and
//! memory, and errors that name the file.
//!
//! Which inputs are tried follows from the target's name and their numbers alone. By default it is some hundred a target, seconds
//! in all; `T5_FUZZ=1000000` tries a million of each target, `T5_FUZZ=400000..1000000` those of these numbers, so that a long
//! search can be made in parts, also side by side. The input at hand lies in `/dev/shm/t5-fuzz-PROCESS/TARGET/` (where there are
//! no files in memory, in `target/tmp`), and stays there after a failure. What was found lies in `tests/data/fuzz/TARGET/` and is
//! tried first.

mod memory;
mod mutate;
mod targets;

use std::any::Any;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use mutate::{LONGEST, Random, Shape, mutated};
use t5_wgpu::Result;

/// So many are tried of each target without `T5_FUZZ`.
const INPUTS: u64 = 400;

/// The stack of a program's first thread on Windows, the smallest that a reader runs on.
const STACK: usize = 1 << 20;

/// What one input may take, on a machine that has other things to do.
const MOST_TIME: Duration = Duration::from_secs(5);
const MOST_MEMORY: usize = 384 << 20;

/// Bytes an input may leave behind, and what is made once, such as tables of a library, so many times as much.
const MOST_LEFT: usize = 256;

/// After which it is taken to have no end.
const HANG: Duration = Duration::from_secs(60);

/// A longer message is no message.
const MOST_MESSAGE: usize = 4096;

/// A reader and what it reads.
pub struct Target {
    /// The file that is spoilt.
    pub file: &'static str,
    pub shape: Shape,
    /// Whole and right files to begin with.
    pub seeds: Vec<Vec<u8>>,
    /// Files that the reader needs beside it.
    pub beside: Vec<(&'static str, Vec<u8>)>,
    /// Reads the file in this folder, and whatever it promises about it.
    pub read: fn(&Path) -> Result<()>,
}

/// Memory is counted for the whole process: one target at a time.
static TURN: Mutex<()> = Mutex::new(());

/// Tries one target. Called by the tests that `targets.rs` lists.
pub fn fuzz(name: &str, target: Target) {
    assert!(target.seeds.iter().all(|seed| seed.len() < LONGEST), "what {name} begins with is cut");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = folder_of(name);
    let _ = fs::remove_dir_all(&folder);
    for (file, contents) in target.beside.iter().chain([&(target.file, Vec::new())]) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, contents).unwrap();
    }
    let path = folder.join(target.file);
    // Counted, so that neither thread waits for the other at each input.
    let begun = Arc::new(AtomicU64::new(0));
    let (alive, ended) = channel::<()>();
    let (name, done, counted) = (name.to_owned(), folder.clone(), begun.clone());
    let work = move || {
        let _alive = alive;
        try_all(&name, &target, &folder, &|| _ = counted.fetch_add(1, Ordering::Relaxed));
    };
    let worker = thread::Builder::new().stack_size(STACK).spawn(work).unwrap();
    let mut before = 0;
    while ended.recv_timeout(HANG) == Err(RecvTimeoutError::Timeout) {
        let now = begun.load(Ordering::Relaxed);
        assert!(now > before, "no end after {} s: {}", HANG.as_secs(), path.display());
        before = now;
    }
    if let Err(panic) = worker.join() {
        panic!("{}: {}", path.display(), message_of(&*panic));
    }
    fs::remove_dir_all(&done).unwrap();
    // The last target takes the folder around it along.
    let _ = fs::remove_dir(done.parent().unwrap());
}

fn try_all(name: &str, target: &Target, folder: &Path, go_on: &dyn Fn()) {
    let numbers = numbers();
    for seed in &target.seeds {
        go_on();
        let outcome = try_one(target, folder, seed);
        assert!(outcome.is_ok(), "a right file is refused: {}", outcome.unwrap_err());
    }
    for case in cases(name) {
        go_on();
        let _ = try_one(target, folder, &fs::read(case).unwrap());
    }
    let start = Instant::now();
    let mut read = 0;
    let before = memory::held();
    for number in numbers.clone() {
        go_on();
        let mut random = Random::new(name, number);
        let input = mutated(target.shape, &target.seeds, &mut random);
        read += u64::from(try_one(target, folder, &input).is_ok());
    }
    let (left, inputs) = (memory::held().saturating_sub(before), numbers.end - numbers.start);
    assert!(left < MOST_LEFT * (1024 + inputs as usize), "{left} bytes are still held after {inputs} inputs");
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{name}: inputs {} to {} in {seconds:.1} s, {read} of them read", numbers.start, numbers.end);
}

/// Where a target's files lie. A disk would take most of the time.
pub fn folder_of(name: &str) -> PathBuf {
    let memory = Path::new("/dev/shm");
    let root = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
    root.join(format!("t5-fuzz-{}", std::process::id())).join(name)
}

/// The numbers of the inputs that `T5_FUZZ` asks for: `N` or `N..M`.
fn numbers() -> Range<u64> {
    let Ok(text) = std::env::var("T5_FUZZ") else { return 0..INPUTS };
    let number = |text: &str| text.parse().expect("T5_FUZZ is a number of inputs, or two with .. between them");
    match text.split_once("..") {
        Some((from, to)) => number(from)..number(to),
        None => 0..number(&text),
    }
}

/// What was found once.
fn cases(name: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/fuzz").join(name);
    let mut cases: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn try_one(target: &Target, folder: &Path, input: &[u8]) -> Result<(), String> {
    fs::write(folder.join(target.file), input).unwrap();
    let start = Instant::now();
    let (outcome, memory) = memory::peak_of(|| (target.read)(folder));
    let time = start.elapsed();
    assert!(time < MOST_TIME, "{time:?} for {} bytes", input.len());
    assert!(memory < MOST_MEMORY, "{} MiB of memory for {} bytes", memory >> 20, input.len());
    outcome.map_err(|error| {
        let text = error.to_string();
        let names_it = text.contains(&*folder.to_string_lossy()) || text.contains(target.file);
        assert!(names_it, "an error that does not name the file: {text}");
        assert!(
            text.len() < MOST_MESSAGE,
            "a message of {} bytes: {}",
            text.len(),
            text.get(..200).unwrap_or_default()
        );
        text
    })
}

fn message_of(panic: &dyn Any) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| Some((*panic.downcast_ref::<&str>()?).to_owned())).unwrap_or_default()
}
