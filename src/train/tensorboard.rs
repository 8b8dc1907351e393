//! Events for TensorBoard: scalars in the file format that its `EventAccumulator` reads.
//!
//! A file is a sequence of records (TFRecord: length, masked CRC-32C of the length, bytes, masked CRC-32C of the bytes), each an
//! `Event` message of TensorFlow's `event.proto`. A resumed run starts another file in the same folder; its session log tells
//! TensorBoard to forget the scalars that earlier files have of the steps that are done again.
//!
//! Read back with `EventAccumulator` of PyPI's tensorboard 2.21.0: tags, steps and values are right, and behind a resumed run the
//! scalars of the steps that are done again are gone.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;
use serde_json::Value as Json;

use super::evaluate::TOKEN_ACCURACY;
use crate::error::{Error, Result};

/// A folder's open event file. Records are written whole and at once, so that a reader may look in at any time.
pub struct TensorBoard {
    path: PathBuf,
    file: File,
}

impl TensorBoard {
    /// Starts an event file in `dir`, which is created if missing. What earlier files there say of steps after `resume_step` is
    /// forgotten: 0 for a new run, or the step of the checkpoint that training goes on from.
    ///
    /// # Errors
    /// The folder or the file cannot be written.
    pub fn open(dir: &Path, resume_step: u64) -> Result<TensorBoard> {
        fs::create_dir_all(dir).map_err(Error::io("create the folder", dir))?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64());
        // Readers take the files of a folder in the order of their names.
        let before = latest(dir)?;
        let seconds = (now as u64).max(before.map_or(0, |seconds| seconds + 1));
        let path = dir.join(format!("{PREFIX}{seconds:010}.t5.{}", std::process::id()));
        let file = File::create_new(&path).map_err(Error::io("create", &path))?;
        let mut board = TensorBoard { path, file };
        board.write(now, 0, What::FileVersion(VERSION.into()))?;
        if before.is_some() {
            // Readers drop the steps from this one on.
            board.write(now, resume_step + 1, What::SessionLog(SessionLog { status: SESSION_START }))?;
        }
        Ok(board)
    }

    /// Adds values under their names; those that are not finite are left out. `wall_time` is in seconds since 1970.
    pub fn scalars(&mut self, step: u64, wall_time: f64, values: &[(&str, f64)]) -> Result<()> {
        let scalar = |&(tag, value): &(&str, f64)| Value { tag: tag.into(), simple_value: value as f32 };
        let value: Vec<Value> = values.iter().filter(|(_, value)| value.is_finite()).map(scalar).collect();
        if value.is_empty() { Ok(()) } else { self.write(wall_time, step, What::Summary(Summary { value })) }
    }

    fn write(&mut self, wall_time: f64, step: u64, what: What) -> Result<()> {
        let event = Event { wall_time, step: step as i64, what: Some(what) };
        self.file.write_all(&record(&event.encode_to_vec())).map_err(Error::io("write", &self.path))
    }
}

/// The step of a line of `log.jsonl` and its scalars by TensorBoard's tags, such as "train/loss" or "TASK/per"; `None` for lines
/// without any.
pub fn scalars_of(event: &Json) -> Option<(u64, Vec<(String, f64)>)> {
    let step = event["step"].as_u64()?;
    let number = |of: &Json, key: &str, tag: String| Some((tag, of[key].as_f64()?));
    let scalars: Vec<(String, f64)> = match event["event"].as_str()? {
        "step" => STEP_SCALARS.iter().filter_map(|key| number(event, key, format!("train/{key}"))).collect(),
        "evaluation" => {
            let tasks = event["tasks"].as_object().into_iter().flatten();
            tasks
                .flat_map(|(task, figures)| {
                    let own = [("loss", "loss"), ("accuracy", TOKEN_ACCURACY)];
                    let own =
                        own.into_iter().filter_map(move |(key, tag)| number(figures, key, format!("{task}/{tag}")));
                    let metrics = figures["metrics"].as_object().into_iter().flatten();
                    own.chain(metrics.filter_map(move |(key, value)| Some((format!("{task}/{key}"), value.as_f64()?))))
                })
                .collect()
        }
        "norms" => {
            let tensors = event["tensors"].as_object().into_iter().flatten();
            let of = |(name, norms): (&String, &Json)| {
                let tags = ["parameters", "gradient"].map(|what| format!("norms/{name}/{what}"));
                tags.into_iter().zip([norms[0].as_f64(), norms[1].as_f64()]).collect::<Vec<_>>()
            };
            let noise = ["noise", "signal"].map(|key| (format!("gradient/{key}"), event[key].as_f64()));
            let all = tensors.flat_map(of).chain(noise);
            all.filter_map(|(tag, value)| Some((tag, value?))).collect()
        }
        _ => return None,
    };
    (!scalars.is_empty()).then_some((step, scalars))
}

/// What is shown of a step's line.
const STEP_SCALARS: [&str; 8] =
    ["loss", "accuracy", "lr", "grad_norm", "tokens_per_second", "padding", "epoch", "tokens"];

/// The folder within a run's.
pub const FOLDER: &str = "tensorboard";

const PREFIX: &str = "events.out.tfevents.";
const VERSION: &str = "brain.Event:2";
const SESSION_START: i32 = 1;

/// The seconds in the name of the last event file.
fn latest(dir: &Path) -> Result<Option<u64>> {
    let mut latest = None;
    for entry in fs::read_dir(dir).map_err(Error::io("read the folder", dir))? {
        let name = entry.map_err(Error::io("read the folder", dir))?.file_name();
        let seconds = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('.').next()?.parse().ok());
        latest = latest.max(seconds);
    }
    Ok(latest)
}

fn record(bytes: &[u8]) -> Vec<u8> {
    let length = (bytes.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), bytes, &masked_crc(bytes).to_le_bytes()].concat()
}

/// Rotated and shifted, so that a checksum of bytes that hold checksums means something.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(oneof = "What", tags = "3, 5, 7")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum What {
    #[prost(string, tag = "3")]
    FileVersion(String),
    #[prost(message, tag = "5")]
    Summary(Summary),
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

#[derive(Clone, PartialEq, Message)]
struct SessionLog {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct Value {
    #[prost(string, tag = "1")]
    tag: String,
    // Always written: a value of 0 is one.
    #[prost(float, required, tag = "2")]
    simple_value: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The events of all files of a folder in the order in which TensorBoard reads them.
    fn read(dir: &Path) -> Vec<Event> {
        let mut paths: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let mut events = Vec::new();
        for path in paths {
            let bytes = fs::read(path).unwrap();
            let mut rest = &bytes[..];
            while let Some((head, tail)) = rest.split_at_checked(12) {
                let length = u64::from_le_bytes(head[..8].try_into().unwrap()) as usize;
                assert_eq!(head[8..], masked_crc(&head[..8]).to_le_bytes());
                assert_eq!(tail[length..length + 4], masked_crc(&tail[..length]).to_le_bytes());
                events.push(Event::decode(&tail[..length]).unwrap());
                rest = &tail[length + 4..];
            }
            assert!(rest.is_empty());
        }
        events
    }

    #[test]
    fn checksums_are_those_of_tfrecord() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xE306_9283u32.rotate_right(15).wrapping_add(0xA282_EAD8));
        // The first record of every file that TensorFlow writes, but for the wall time (here 0): `brain.Event:2`.
        let first = Event { what: Some(What::FileVersion(VERSION.into())), ..Event::default() };
        assert_eq!(first.encode_to_vec(), b"\x1a\x0dbrain.Event:2");
    }

    #[test]
    fn a_resumed_run_forgets_what_is_done_again() {
        let dir = std::env::temp_dir().join(format!("t5-tensorboard-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let mut board = TensorBoard::open(&dir, 0).unwrap();
        board.scalars(5, 1.5, &[("train/loss", 2.25), ("train/lr", f64::NAN)]).unwrap();
        board.scalars(6, 1.5, &[("train/loss", f64::INFINITY)]).unwrap();
        let mut resumed = TensorBoard::open(&dir, 5).unwrap();
        resumed.scalars(6, 3.0, &[("train/loss", 2.0)]).unwrap();
        drop(resumed);
        let mut again = TensorBoard::open(&dir, 0).unwrap();
        again.scalars(1, 4.0, &[("train/loss", 3.0)]).unwrap();
        let events = read(&dir);
        fs::remove_dir_all(&dir).unwrap();
        let steps: Vec<i64> = events.iter().map(|event| event.step).collect();
        assert_eq!(steps, [0, 5, 0, 6, 6, 0, 1, 1]);
        let what: Vec<What> = events.into_iter().map(|event| event.what.unwrap()).collect();
        assert_eq!(what[0], What::FileVersion("brain.Event:2".into()));
        let What::Summary(summary) = &what[1] else { panic!("{what:?}") };
        assert_eq!(summary.value.len(), 1);
        assert_eq!((summary.value[0].tag.as_str(), summary.value[0].simple_value), ("train/loss", 2.25));
        for at in [3, 6] {
            assert_eq!(what[at], What::SessionLog(SessionLog { status: SESSION_START }));
        }
    }

    #[test]
    fn lines_of_the_log_become_scalars() {
        let line = |text: &str| scalars_of(&serde_json::from_str(text).unwrap());
        let (step, scalars) = line(r#"{"event":"step","step":5,"steps":9,"loss":2.5,"lr":0.001,"tokens":7}"#).unwrap();
        assert_eq!(step, 5);
        assert_eq!(scalars, [("train/loss".into(), 2.5), ("train/lr".into(), 0.001), ("train/tokens".into(), 7.0)]);
        let (_, scalars) = line(
            r#"{"event":"evaluation","step":5,"tasks":{"say":{"loss":1.5,"accuracy":null,"metrics":{"per":10.5}}}}"#,
        )
        .unwrap();
        assert_eq!(scalars, [("say/loss".into(), 1.5), ("say/per".into(), 10.5)]);
        assert_eq!(line(r#"{"event":"warning","step":5,"what":"x"}"#), None);
    }
}
