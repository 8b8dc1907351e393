//! Carrying a study out: run after run, seed after seed, beside other processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Cell, STUDY, Study};
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::recipe::conductor::Conductor;
use crate::recipe::run::{Run, RunOutcome};
use crate::recipe::standing::{Standing, standings};
use crate::report::{Finding, findings};
use crate::run_folder::{MARKER, RunFolder};

/// How often a process that has nothing to do looks whether the others have ended.
const LOOK: Duration = Duration::from_millis(500);

/// A study and its folder.
pub struct StudyRun {
    pub study: Study,
    pub out: PathBuf,
    /// Folders of other studies, whose runs may have stages that would be made from the same here.
    pub reuse: Vec<PathBuf>,
}

/// One run of the study.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    pub cell: Cell,
    pub seed: u64,
    pub folder: PathBuf,
    pub state: SampleState,
}

/// How far a run is.
#[derive(Clone, Debug, PartialEq)]
pub enum SampleState {
    /// Nothing is there.
    New,
    /// Another process works at it, or one has been stopped.
    Begun,
    Done(Vec<Finding>),
    /// The run there would not go on.
    Refused(String),
}

/// How a study ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StudyOutcome {
    Finished,
    /// `should_stop` said so, or as many runs were made as were asked for.
    Stopped,
    /// All runs but these are done: why each failed.
    Failed(Vec<String>),
}

impl StudyRun {
    /// The study in its folder, which is not made yet. `out` goes before what the study says.
    ///
    /// # Errors
    /// The folder cannot be found.
    pub fn new(mut study: Study, out: Option<PathBuf>) -> Result<StudyRun> {
        let named = study.out.take();
        let out = out.or(named).unwrap_or_else(|| Path::new("runs").join(study.title()));
        let out = std::path::absolute(&out).map_err(Error::io("find", &out))?;
        Ok(StudyRun { study, out, reuse: Vec::new() })
    }

    /// The study that a folder holds.
    ///
    /// # Errors
    /// As [`Study::read`].
    pub fn open(out: &Path) -> Result<StudyRun> {
        let study = Study::read(&out.join(STUDY))?;
        Ok(StudyRun { study, out: out.to_path_buf(), reuse: Vec::new() })
    }

    /// All runs in the order in which they are made: a seed of every cell before the next seed, baselines first, so that early tables
    /// compare everything.
    ///
    /// # Errors
    /// What one of the runs holds cannot be read.
    pub fn samples(&self) -> Result<Vec<Sample>> {
        let mut cells = self.study.cells();
        cells.sort_by_key(|cell| self.study.baseline_of(cell) != *cell);
        let pairs = self.study.seeds.iter().flat_map(|&seed| cells.iter().map(move |cell| (cell.clone(), seed)));
        pairs.map(|(cell, seed)| self.sample(cell, seed)).collect()
    }

    fn sample(&self, cell: Cell, seed: u64) -> Result<Sample> {
        let folder = self.out.join(&cell.name).join(format!("seed-{seed}"));
        let recipe = self.study.recipe_of(&cell, seed)?;
        let parts = standings(recipe, Some(folder.clone()), false)?;
        let refused = parts.iter().find_map(|(_, standing)| match standing {
            Standing::Refused { why } => Some(why.clone()),
            _ => None,
        });
        let state = match refused {
            Some(why) => SampleState::Refused(why),
            None if parts.iter().all(|(_, standing)| *standing == Standing::Done) => {
                SampleState::Done(findings(&folder)?)
            }
            None if parts.iter().all(|(_, standing)| *standing == Standing::New) => SampleState::New,
            None => SampleState::Begun,
        };
        Ok(Sample { cell, seed, folder, state })
    }

    /// Makes the runs that are missing, at most `most` of them. `tell` hears of each before it begins: how many there are, how many are done, and which it is.
    /// Runs that another process works at are waited for, and made here if that process ends before. A run that would begin with what
    /// another process is making comes later, and has it from there.
    ///
    /// # Errors
    /// A run is refused, since the study has changed under what is there; the device or the disk fails. What is done stays.
    pub fn execute(
        &self,
        gpu: &Gpu,
        most: usize,
        conductor: &mut Conductor<'_>,
        tell: &mut dyn FnMut(&[Sample], &Sample),
    ) -> Result<StudyOutcome> {
        self.begin()?;
        let mut samples = self.samples()?;
        let elsewhere = self.reuse.iter().map(|study| runs_in(study)).collect::<Result<Vec<_>>>()?.concat();
        let mut failed: Vec<(PathBuf, String)> = Vec::new();
        let (mut says_that_it_waits, mut made_here) = (true, 0);
        loop {
            let mut waits = false;
            for index in 0..samples.len() {
                if matches!(samples[index].state, SampleState::Done(_))
                    || failed.iter().any(|(folder, _)| *folder == samples[index].folder)
                {
                    continue;
                }
                if (conductor.should_stop)() || made_here == most {
                    return Ok(StudyOutcome::Stopped);
                }
                // Another process may have made it.
                samples[index] = self.sample(samples[index].cell.clone(), samples[index].seed)?;
                let sample = &samples[index];
                match &sample.state {
                    SampleState::Done(_) => continue,
                    SampleState::Refused(why) => return Err(Error::file(&sample.folder, why.clone())),
                    SampleState::New | SampleState::Begun => {}
                }
                let recipe = self.study.recipe_of(&sample.cell, sample.seed)?;
                let opened = Run::open(recipe, Some(sample.folder.clone()), false);
                let made = opened.and_then(|mut run| {
                    let siblings = || samples.iter().filter(|s| s.seed == sample.seed && s.cell != sample.cell);
                    let folders = siblings().map(|other| &other.folder).chain(&elsewhere);
                    let adopted = run.adopt(folders.map(PathBuf::as_path))?;
                    let recipes = siblings()
                        .map(|other| Ok((self.study.recipe_of(&other.cell, other.seed)?, other.folder.clone())));
                    if run.awaits(recipes.collect::<Result<Vec<_>>>()?.into_iter())? {
                        return Err(Error::Busy { path: sample.folder.clone() });
                    }
                    tell(&samples, sample);
                    for (part, from) in adopted {
                        conductor.watch.remark(&format!("{part}: as in {}", from.display()));
                    }
                    run.execute(gpu, conductor)
                });
                match made {
                    Ok(RunOutcome::Finished) => {
                        samples[index] = self.sample(sample.cell.clone(), sample.seed)?;
                        made_here += 1;
                    }
                    Ok(RunOutcome::Stopped { .. }) => return Ok(StudyOutcome::Stopped),
                    Err(Error::Busy { .. }) => waits = true,
                    // It diverged: others may not.
                    Err(Error::Numeric(why)) => {
                        conductor.watch.remark(&format!("{}, seed {}: {why}", sample.cell.name, sample.seed));
                        failed.push((sample.folder.clone(), format!("{}: {why}", sample.folder.display())));
                    }
                    Err(other) => return Err(other),
                }
            }
            match waits {
                false if failed.is_empty() => return Ok(StudyOutcome::Finished),
                false => return Ok(StudyOutcome::Failed(failed.into_iter().map(|(_, why)| why).collect())),
                true => {
                    if std::mem::take(&mut says_that_it_waits) {
                        conductor.watch.remark("waiting for other processes, which make the last runs");
                    }
                    std::thread::sleep(LOOK);
                }
            }
        }
    }

    /// Makes the folder and writes the study into it.
    fn begin(&self) -> Result<()> {
        let cells = self.study.cells();
        let names: Vec<&str> = cells.iter().map(|cell| cell.name.as_str()).chain([STUDY]).collect();
        // Others that share the study hold this for a moment only.
        let folder = RunFolder::open(&self.out, &names)?;
        folder.write(STUDY, self.study.to_toml()?.as_bytes())
    }
}

/// The folders of a study's runs, as they lie there.
///
/// # Errors
/// There is no such folder, or no run in it.
fn runs_in(study: &Path) -> Result<Vec<PathBuf>> {
    let folders = |dir: &Path| -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(dir).map_err(Error::io("list", dir))?;
        let paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect();
        Ok(paths)
    };
    let runs = folders(study)?.iter().map(|cell| folders(cell)).collect::<Result<Vec<_>>>()?.concat();
    let mut runs: Vec<PathBuf> = runs.into_iter().filter(|run| run.join(MARKER).is_file()).collect();
    runs.sort();
    if runs.is_empty() {
        return Err(Error::file(study, "no study has made runs here, whose stages could be reused"));
    }
    Ok(runs)
}
