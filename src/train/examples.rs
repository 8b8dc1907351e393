//! The data of a run: the stream of batches that it trains on, and the examples that it is evaluated on.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::settings::{Settings, TextConfig};
use crate::batch::Example;
use crate::data::mixture::{Member, MemberPosition, Mixture, Shuffled, Weighted};
use crate::data::stream::{BatchPosition, Batches, StreamOptions};
use crate::data::task::spread;
use crate::data::text::{TextOptions, TextPosition, TextStream};
use crate::data::{Split, TaskConfig, TaskExample, TaskSet};
use crate::error::{Error, Result};
use crate::files;
use crate::model::T5Config;
use crate::rng::fnv1a;
use crate::tokenizer::Tokenizer;

/// The sources of a run: texts to be streamed, and the examples of tasks in memory.
pub struct Sources {
    settings: Settings,
    tokenizer: Arc<Tokenizer>,
    /// Training examples of each task.
    sets: BTreeMap<String, Arc<Vec<Example>>>,
    /// Files of each text.
    files: BTreeMap<String, Vec<PathBuf>>,
    /// Worth telling the user: what is read, and what is left out or cut.
    pub remarks: Vec<String>,
    /// Changes with the contents of the files.
    pub fingerprint: String,
}

/// What a task is evaluated on.
pub struct Evaluated {
    pub name: String,
    /// For the loss.
    pub examples: Vec<Example>,
    /// For answers: the declaration and the texts of `examples`; `None` for unlabelled text.
    pub task: Option<(TaskConfig, Vec<TaskExample>)>,
}

impl Sources {
    /// Reads the tasks that the settings train on and looks at the files of texts.
    ///
    /// # Errors
    /// What reading them gives: each error names the file, and the line where there is one.
    pub fn open(settings: &Settings, tokenizer: &Arc<Tokenizer>) -> Result<Sources> {
        let mut sources = Sources {
            settings: settings.clone(),
            tokenizer: tokenizer.clone(),
            sets: BTreeMap::new(),
            files: BTreeMap::new(),
            remarks: Vec::new(),
            fingerprint: String::new(),
        };
        let mut all = Vec::new();
        for name in &settings.train {
            if let Some(text) = settings.texts.get(name) {
                let files = text.files.paths(Path::new(""))?;
                let paths =
                    if files.len() == 1 { files[0].display().to_string() } else { format!("{} files", files.len()) };
                sources.remarks.push(format!("training on {name}: text of {paths}"));
                all.extend(files.iter().cloned());
                sources.files.insert(name.clone(), files);
            } else if let Some(task) = settings.tasks.get(name) {
                let set = open_task(name, task, Split::Train, tokenizer, &mut sources.remarks)?;
                let n = set.n_examples();
                sources.remarks.push(format!("training on {name}: {n} examples"));
                if settings.train.len() == 1 && !settings.batching.is_packed() && n < settings.batch_size {
                    sources.remarks.push(format!(
                        "{name}: a batch of {} examples has some of these {n} several times; a batch size of {n} has each once",
                        settings.batch_size
                    ));
                }
                all.extend(task.files(Path::new(""), Split::Train)?);
                sources.sets.insert(name.clone(), Arc::new(set.into_parts().0));
            }
        }
        sources.fingerprint = fingerprint(&all)?;
        Ok(sources)
    }

    /// The batches from a position on.
    ///
    /// # Errors
    /// What opening the texts gives; a mixture that is none.
    pub fn stream(&self, config: &T5Config, position: &BatchPosition) -> Result<Batches> {
        let settings = &self.settings;
        let mut members = Vec::with_capacity(settings.train.len());
        for (index, name) in settings.train.iter().enumerate() {
            let at = position.source.members.get(index);
            let scale = settings.scale.get(name).copied().unwrap_or(1.0);
            let (member, size) = if let Some(text) = settings.texts.get(name) {
                let at = match at {
                    Some(MemberPosition::Text(at)) => at.clone(),
                    _ => TextPosition::default(),
                };
                let stream = self.open_text(text, &self.files[name], false, at)?;
                // `Settings::check` asks for the number where it counts.
                (Member::Text(Box::new(stream)), text.examples.map_or(1.0, |examples| examples as f64))
            } else {
                let drawn = match at {
                    Some(MemberPosition::Examples(drawn)) => *drawn,
                    _ => 0,
                };
                let examples = self.sets[name].clone();
                let size = examples.len() as f64;
                (Member::Examples(Shuffled::new(examples, settings.seed.wrapping_add(index as u64), drawn)?), size)
            };
            members.push(Weighted { name: name.clone(), member, size, scale });
        }
        let mixture = Mixture::new(members, &settings.mixture, settings.seed, position.source.drawn)?;
        let options = StreamOptions {
            batch_size: settings.batch_size,
            batching: settings.batching,
            seed: settings.seed,
            pad: config.pad_token_id,
            decoder_start: config.decoder_start_token_id,
        };
        Batches::new(mixture, options, position)
    }

    /// At most `most` examples of this split of everything that is evaluated on, evenly spread over a task's, the first ones of
    /// a text.
    ///
    /// # Errors
    /// What reading the files gives, or that there are no examples.
    pub fn evaluated(
        settings: &Settings,
        tokenizer: &Arc<Tokenizer>,
        split: Split,
        most: usize,
        remarks: &mut Vec<String>,
    ) -> Result<Vec<Evaluated>> {
        let mut all = Vec::with_capacity(settings.evaluate.len());
        for name in &settings.evaluate {
            let evaluated = match (settings.texts.get(name), settings.tasks.get(name)) {
                (Some(text), _) => {
                    let examples = held_out_text(settings, text, tokenizer, most)
                        .and_then(|examples| {
                            if !examples.is_empty() {
                                return Ok(examples);
                            }
                            let what = "no example to evaluate on: hold more out, or name a file of its own";
                            Err(Error::Input(what.into()))
                        })
                        .map_err(|e| Error::Input(format!("{name}: {e}")))?;
                    Evaluated { name: name.clone(), examples, task: None }
                }
                (None, Some(task)) => {
                    let (examples, texts) = open_task(name, task, split, tokenizer, remarks)?.into_parts();
                    if !texts.iter().all(TaskExample::is_labelled) {
                        remarks.push(format!("{name}: {split} examples have no labels: answers are not scored"));
                    }
                    let chosen = spread(examples.len(), most);
                    let texts = chosen.iter().map(|&index| texts[index].clone()).collect();
                    let examples = chosen.iter().map(|&index| examples[index].clone()).collect();
                    Evaluated { name: name.clone(), examples, task: Some((task.clone(), texts)) }
                }
                (None, None) => return Err(Error::Input(format!("there is no task `{name}` to evaluate on"))),
            };
            remarks.push(format!("evaluating on {name}: {} examples", evaluated.examples.len()));
            all.push(evaluated);
        }
        Ok(all)
    }

    fn open_text(&self, text: &TextConfig, files: &[PathBuf], held_out: bool, at: TextPosition) -> Result<TextStream> {
        TextStream::open(files, self.tokenizer.clone(), text_options(&self.settings, text, held_out)?, at)
    }
}

fn text_options(settings: &Settings, text: &TextConfig, held_out: bool) -> Result<TextOptions> {
    Ok(TextOptions {
        objective: text.objective.clone(),
        inputs_len: text.inputs_len,
        targets_len: text.targets_len,
        seed: settings.seed,
        documents: text.documents()?,
        held_out: text.held_out.map(|share| (share, held_out)),
    })
}

/// The first examples of a text's validation files, or of the lines held out; at most one pass.
fn held_out_text(
    settings: &Settings,
    text: &TextConfig,
    tokenizer: &Arc<Tokenizer>,
    most: usize,
) -> Result<Vec<Example>> {
    let (files, options) = match &text.validation {
        None => (&text.files, text_options(settings, text, true)?),
        Some(files) => {
            let options = text_options(settings, text, false)?;
            let documents = options.documents.of_split(Split::Validation);
            (files, TextOptions { held_out: None, documents, ..options })
        }
    };
    let files = files.paths(Path::new(""))?;
    let mut stream = TextStream::open(&files, tokenizer.clone(), options, TextPosition::default())?;
    let mut examples = Vec::new();
    while examples.len() < most && stream.position().epoch == 0 {
        examples.push(stream.next()?);
    }
    Ok(examples)
}

fn open_task(
    name: &str,
    task: &TaskConfig,
    split: Split,
    tokenizer: &Tokenizer,
    remarks: &mut Vec<String>,
) -> Result<TaskSet> {
    let set = TaskSet::open(task, Path::new(""), split, tokenizer)?;
    remarks.extend(set.findings(name, task, split, tokenizer)?);
    Ok(set)
}

/// Bytes at either end of a file that its fingerprint is made of.
const ENDS: u64 = 1 << 16;

/// Of the files' lengths and ends: tells whether a resumed run reads the same data without reading all of them.
pub fn fingerprint(files: &[PathBuf]) -> Result<String> {
    let prints = files.iter().map(|file| print_of(file)).collect::<Result<Vec<_>>>()?;
    Ok(format!("{:016x}", fnv1a(prints)))
}

/// Of a file's length and its ends.
fn print_of(path: &Path) -> Result<u64> {
    let mut file = files::open(path)?;
    let len = file.metadata().map_err(Error::io("read", path))?.len();
    let mut bytes = len.to_le_bytes().to_vec();
    (&mut file).take(ENDS).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::Start(len.saturating_sub(ENDS))).map_err(Error::io("read", path))?;
    file.take(ENDS).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    Ok(fnv1a(bytes))
}
