//! The state with which a run goes on, besides the model in its checkpoint: `training_state/` with the optimiser's moments and
//! `state.json`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::engine::Engine;
use super::evaluate::Best;
use super::settings::Settings;
use crate::checkpoint::{Weights, write_model};
use crate::data::stream::BatchPosition;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};
use crate::run_folder::recover;

/// The folder within a checkpoint.
pub const FOLDER: &str = "training_state";

/// Raised whenever one program could not go on with what another one writes; 4: batches of tasks keep to passes.
const FORMAT: u32 = 4;

/// The format before. Its runs on text alone can be continued: their batches have not changed.
const FORMAT_BEFORE: u32 = 3;

const STATE_FILE: &str = "state.json";
const MOMENTS_FILE: &str = "optimizer.safetensors";

/// How far a run is. Dropout follows from the step number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub format: u32,
    /// Steps done.
    pub step: u64,
    /// Source and target tokens seen.
    pub tokens: u64,
    /// Floating-point operations of them, see [`super::engine::Engine::flops`]. An older program did not count them.
    #[serde(default)]
    pub flops: f64,
    /// Steps that changed nothing because their gradient was not finite, or 0, and how many of them in a row until now.
    pub skipped: u64,
    pub skipped_in_a_row: u64,
    /// Seconds of training in all sessions.
    pub elapsed: f64,
    pub best: Option<Best>,
    /// Evaluations since the best one.
    pub evaluations_since_best: u64,
    /// The step of the last evaluation. `None`: an older program did not write it down.
    #[serde(default)]
    pub evaluated: Option<u64>,
    /// Whether training ended before its last step.
    pub ended_early: bool,
    /// Where the data of the next step begin.
    pub position: BatchPosition,
    /// Of the training files, in hexadecimal.
    pub data: String,
    pub settings: Settings,
    /// The kernel of each class of shapes, where the run does not go by the ops' own rules: another kernel rounds otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<BTreeMap<String, String>>,
}

impl State {
    pub fn new(settings: Settings, data: String) -> State {
        State {
            format: FORMAT,
            step: 0,
            tokens: 0,
            flops: 0.0,
            skipped: 0,
            skipped_in_a_row: 0,
            elapsed: 0.0,
            best: None,
            evaluations_since_best: 0,
            evaluated: Some(0),
            ended_early: false,
            position: BatchPosition::default(),
            data,
            settings,
            kernels: None,
        }
    }

    /// Whether the run is done: its last step, and the evaluation of that.
    pub fn is_finished(&self) -> bool {
        let has_ended = self.step >= self.settings.steps || self.ended_early;
        has_ended && self.evaluated.is_none_or(|evaluated| evaluated >= self.step)
    }

    /// The state of the run with these checkpoints; `None` if there is no last one.
    ///
    /// # Errors
    /// The state cannot be read; weights that the run has saved are missing or cut short, so that it is neither done nor can
    /// go on.
    pub fn of_run(last: &Path, best: &Path) -> Result<Option<State>> {
        recover(best)?;
        recover(last)?;
        if !last.exists() {
            return Ok(None);
        }
        let state = State::load(last)?;
        state.check_weights(last, best)?;
        Ok(Some(state))
    }

    /// Reads the state in a checkpoint.
    ///
    /// # Errors
    /// It has none, it is damaged, or a newer version wrote it.
    pub fn load(checkpoint: &Path) -> Result<State> {
        let path = checkpoint.join(FOLDER).join(STATE_FILE);
        let text = files::read_text(&path, SETTINGS_LIMIT)?;
        let bad = |e: serde_json::Error| Error::line(&path, e.line(), format!("not the state of a run: {e}"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(bad)?;
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        let only_text = value["settings"]["tasks"].as_object().is_some_and(serde_json::Map::is_empty);
        if format == Some(FORMAT.into()) || format == Some(FORMAT_BEFORE.into()) && only_text {
            return Ok(State { format: FORMAT, ..serde_json::from_value(value).map_err(bad)? });
        }
        let what = match format {
            Some(format) if format == u64::from(FORMAT_BEFORE) => {
                "an older program began this run, and drew the examples of tasks in another order: finish it with that program, \
                 or train on from its weights, with --model and this folder"
                    .to_owned()
            }
            format => {
                let found = format.map_or("none".into(), |f| f.to_string());
                format!("the state's format is {found}, this program reads {FORMAT}: use the one that wrote it")
            }
        };
        Err(Error::file(&path, what))
    }

    /// Whether a run can go on from this state, which somebody may have changed.
    ///
    /// # Errors
    /// The settings cannot be used.
    pub fn check(&self, checkpoint: &Path) -> Result<()> {
        let path = checkpoint.join(FOLDER).join(STATE_FILE);
        self.settings.check().map_err(|e| Error::file(path, e.to_string()))
    }

    /// Whether the weights that the run has saved are there, as far as their headers tell.
    ///
    /// # Errors
    /// A file is missing or cut short.
    fn check_weights(&self, last: &Path, best: &Path) -> Result<()> {
        Weights::open(last)?;
        let Some(Best { metric, value, step, .. }) = &self.best else { return Ok(()) };
        if best.exists() {
            return Weights::open(best).map(drop);
        }
        let what = format!(
            "the run's best checkpoint ({metric} {value:.4} at step {step}) is missing: put it back, or begin another run with \
             the last one (--model \"{}\")",
            last.display()
        );
        Err(Error::file(best, what))
    }

    /// Writes state, moments and weights that are averaged into a checkpoint that is being filled.
    pub fn save(&self, checkpoint: &Path, engine: &Engine) -> Result<()> {
        let folder = checkpoint.join(FOLDER);
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        let path = folder.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(self).map_err(|e| Error::file(&path, e.to_string()))?;
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        let (gpu, moments) = (&engine.model.gpu, engine.state());
        let shapes: Vec<_> =
            moments.iter().map(|(name, _, bytes)| (name.clone(), vec![(bytes / 4) as usize])).collect();
        write_model(folder.join(MOMENTS_FILE), &shapes, |wanted| {
            // `shapes` has the names of `moments`.
            let found = moments.iter().find(|(name, ..)| name == wanted);
            found.map_or(Ok(Vec::new()), |(_, buffer, bytes)| pollster::block_on(gpu.read(buffer, 0..*bytes)))
        })
    }

    /// Puts the moments of a checkpoint back, and weights that are averaged, bit for bit.
    ///
    /// # Errors
    /// The file is damaged, or was written where parameters lay otherwise: by another optimiser, or on an adapter with
    /// another limit on the size of a binding.
    pub fn load_moments(checkpoint: &Path, engine: &Engine) -> Result<()> {
        let path = checkpoint.join(FOLDER).join(MOMENTS_FILE);
        let file = Weights::open_file(&path)?;
        for (name, buffer, bytes) in engine.state() {
            let len = (bytes / 4) as usize;
            if file.shape(&name) != Some(&[len]) {
                let found = file.shape(&name).map_or("nothing".into(), |shape| format!("{shape:?} numbers"));
                let what = format!(
                    "{found} under {name}, [{len}] are needed: the moments belong to another optimizer, or to an adapter \
                     that lays parameters out otherwise (resume on the one that the run began on)"
                );
                return Err(Error::file(&path, what));
            }
            engine.model.gpu.write(&buffer, 0, &file.read_f32(&name, &[len])?);
        }
        Ok(())
    }
}
