//! The window without a person: types by itself, measures the frames, then unloads the model and opens it again.
//!
//! It ends with a line of JSON: median and longest milliseconds from frame to frame while the model was opened, while it had
//! nothing to do and while it answered; how many answers came whole and how many were stopped by the next key; the last answer.

use std::time::{Duration, Instant};

use eframe::egui;
use serde_json::{Value, json};

use crate::Chat;

/// What is typed, again and again.
const TEXT: &str = "words that are typed into this window ";

/// Between two keys: too short for an answer to begin within a word, and long enough after one.
const WITHIN_WORD: Duration = Duration::from_millis(80);
const AFTER_WORD: Duration = Duration::from_millis(800);

/// How long the window has nothing to do before that.
const IDLE: Duration = Duration::from_secs(2);

/// What the check waits for.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Opening,
    Typing { begin: Instant },
    Reopening,
    Done,
}

pub struct Check {
    seconds: Duration,
    step: Step,
    keys: usize,
    /// Since typing began.
    next_key: Duration,
    was_answering: bool,
    /// Milliseconds of frames.
    opening: Vec<f64>,
    idle: Vec<f64>,
    answering: Vec<f64>,
    whole: usize,
    stopped: usize,
    /// The last whole answer, and that to the same text by the model that was opened again.
    answers: [Option<String>; 2],
    failure: Option<String>,
}

impl Check {
    /// Types for so long.
    pub fn new(seconds: u32) -> Check {
        Check {
            seconds: Duration::from_secs(seconds.into()),
            step: Step::Opening,
            keys: 0,
            next_key: Duration::ZERO,
            was_answering: false,
            opening: Vec::new(),
            idle: Vec::new(),
            answering: Vec::new(),
            whole: 0,
            stopped: 0,
            answers: [None, None],
            failure: None,
        }
    }

    /// Adds the keys that are due to what the window hears.
    pub fn press_keys(&mut self, input: &mut egui::RawInput) {
        // Where there are no people, nothing gives a window the focus.
        input.focused = true;
        let Step::Typing { begin } = self.step else { return };
        while self.next_key < self.seconds && begin + self.next_key <= Instant::now() {
            let key = TEXT.chars().cycle().nth(self.keys).unwrap_or(' ');
            input.events.push(egui::Event::Text(key.into()));
            self.keys += 1;
            self.next_key += if key == ' ' { AFTER_WORD } else { WITHIN_WORD };
        }
    }

    /// Looks at the window before a frame, which comes so many milliseconds after the one before.
    pub fn proceed(&mut self, chat: &mut Chat, ctx: &egui::Context, frame: Option<f64>) {
        let (is_ready, is_answering) = (chat.is_ready(), chat.stream.is_some());
        match is_answering || self.was_answering {
            true => self.answering.extend(frame),
            false if is_ready => self.idle.extend(frame),
            false => self.opening.extend(frame),
        }
        if self.was_answering && !is_answering {
            if chat.typed.is_some() {
                self.stopped += 1;
            } else {
                self.whole += 1;
                self.answers[usize::from(self.step == Step::Reopening)] = Some(chat.answer.clone());
            }
        }
        self.was_answering = is_answering;
        let rests = is_ready && !chat.is_busy();
        match (self.step, &chat.fault) {
            (Step::Opening, None) if rests => self.step = Step::Typing { begin: Instant::now() + IDLE },
            (Step::Typing { begin }, None) if rests && begin.elapsed() > self.seconds => {
                self.step = Step::Reopening;
                // The model's worker does one after the other.
                chat.t5.iter().for_each(|t5| drop(t5.unload()));
                chat.open_model();
            }
            (Step::Reopening, None) if rests => self.step = Step::Done,
            (Step::Done, _) => ctx.send_viewport_cmd(egui::ViewportCommand::Close),
            (_, Some(fault)) => {
                self.failure = Some(fault.clone());
                self.step = Step::Done;
            }
            _ => {}
        }
    }

    /// What became of it, or what is wrong.
    pub fn report(self) -> Result<Value, String> {
        match (self.failure, &self.answers) {
            (Some(failure), _) => return Err(failure),
            (None, [Some(first), Some(second)]) if first == second && !first.is_empty() => {}
            (None, answers) => {
                return Err(format!("the answers before and after the model was opened again: {answers:?}"));
            }
        }
        Ok(json!({
            "frames": self.opening.len() + self.idle.len() + self.answering.len(),
            "opening": times(self.opening),
            "idle": times(self.idle),
            "answering": times(self.answering),
            "whole_answers": self.whole,
            "stopped_answers": self.stopped,
            "answer": self.answers[0],
        }))
    }
}

fn times(mut milliseconds: Vec<f64>) -> Value {
    milliseconds.sort_by(f64::total_cmp);
    let round = |time: Option<&f64>| time.map(|time| (10.0 * time).round() / 10.0);
    json!({
        "frames": milliseconds.len(),
        "median_ms": round(milliseconds.get(milliseconds.len() / 2)),
        "worst_ms": round(milliseconds.last()),
    })
}
