//! Studies: one recipe at several settings, several seeds each, and what follows from the results.
//!
//! A study is a TOML file: a base recipe, factors with levels, seeds. [`Study::read`] refuses what cannot work before anything runs.
//! Each cell (a level of every factor) is, for each seed, a run of the recipe in a folder of its own, so that a study goes on after any
//! stop and several processes can share it ([`run`]). [`table`] makes the statistics.

pub mod page;
pub mod run;
pub mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use crate::error::{Error, Result};
use crate::recipe::Recipe;
use crate::recipe::source::{Source, Wrong};
use crate::run_folder::is_plain_name;

/// The study as it is carried out, in its folder.
pub const STUDY: &str = "study.toml";

/// More runs than anybody waits for.
const MOST_RUNS: usize = 10_000;

/// A study as it is written.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Default: the file's name.
    pub name: Option<String>,
    /// What is asked, and what is known about the answer.
    pub about: Option<String>,
    /// The study's folder. Default: `runs/NAME` where the program is started.
    pub out: Option<PathBuf>,
    /// The recipe that every run carries out.
    pub recipe: PathBuf,
    /// Of each cell, one run for each.
    pub seeds: Vec<u64>,
    /// "KEY=VALUE" for every run, as `t5 run --set` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
    #[serde(default)]
    pub design: Design,
    /// What is compared: "STAGE/TASK/METRIC". Default: all that stages which only evaluate find, or else all stages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub results: Vec<String>,
    /// The level of each factor named here with which a cell is compared; the levels of other factors stay. Default: the first level of
    /// every factor.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub baseline: BTreeMap<String, String>,
    #[serde(rename = "factor")]
    pub factors: Vec<Factor>,
    pub paper: Option<Paper>,
}

/// Which combinations of levels are run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Design {
    /// All of them.
    #[default]
    Grid,
    /// The first level of every factor, and each other level of one factor with the first levels of all others.
    Each,
}

/// What is varied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Factor {
    pub name: String,
    pub levels: Vec<Level>,
}

/// One value of a factor: what is set in the recipe.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Level {
    /// Folders are called after it.
    pub name: String,
    /// "KEY=VALUE", as `t5 run --set` takes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set: Vec<String>,
}

/// What a paper found for the same comparison.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paper {
    /// Such as "Raffel et al. 2020, table 4".
    pub source: String,
    /// The standard deviation over seeds of each of its figures, of which more is better.
    pub sigma: BTreeMap<String, f64>,
    #[serde(rename = "row")]
    pub rows: Vec<PaperRow>,
}

/// A row of the paper's table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PaperRow {
    /// The cells that it stands for: a level for each factor that it distinguishes.
    pub cell: BTreeMap<String, String>,
    pub values: BTreeMap<String, f64>,
}

/// A combination of levels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Index of each factor's level.
    pub levels: Vec<usize>,
    /// Its folder: the names of its levels with dots between them.
    pub name: String,
}

impl Study {
    /// Reads and checks a study and the recipe of each of its cells. Relative paths are taken from the file's folder.
    ///
    /// # Errors
    /// The file cannot be read or is no TOML; an unknown key, a name that cannot be a folder's, a level without which there is no
    /// comparison; what [`Recipe::read`] refuses, with the cell in which it does.
    pub fn read(path: &Path) -> Result<Study> {
        let source = Source::read(path, &[])?;
        let mut study: Study = source.parse()?;
        let absolute = std::path::absolute(path).map_err(Error::io("find", path))?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        study.name.get_or_insert_with(|| path.file_stem().map_or("study".into(), |s| s.to_string_lossy().into_owned()));
        study.recipe = base.join(&study.recipe);
        study.out = study.out.map(|out| base.join(out));
        study.check().map_err(|wrong| source.error(&wrong))?;
        for cell in study.cells() {
            let recipe = study.recipe_of(&cell, study.seeds[0]).map_err(|e| {
                let what = format!("{}: {e}", study.described(&cell));
                source.error(&Wrong::new("factor", what))
            })?;
            study.check_recipe(&recipe).map_err(|wrong| source.error(&wrong))?;
        }
        Ok(study)
    }

    fn check(&self) -> Result<(), Wrong> {
        let wrong = |key: &str, what: &str| Err(Wrong::new(key, what));
        if self.seeds.is_empty() {
            return wrong(
                "seeds",
                "name at least one seed, better three: without several there is no spread to compare with",
            );
        }
        if self.seeds.iter().collect::<BTreeSet<_>>().len() < self.seeds.len() {
            return wrong("seeds", "a seed stands here twice");
        }
        if self.factors.is_empty() {
            return wrong("factor", "there is nothing to compare: add [[factor]] with a name and levels");
        }
        for (i, factor) in self.factors.iter().enumerate() {
            let key = format!("factor.{}", factor.name);
            if !is_level(&factor.name) || self.factors[..i].iter().any(|other| other.name == factor.name) {
                return Err(Wrong::new(key, NAMES));
            }
            if factor.levels.is_empty() {
                return Err(Wrong::new(key, "it has no level"));
            }
            for (j, level) in factor.levels.iter().enumerate() {
                if !is_level(&level.name) || factor.levels[..j].iter().any(|other| other.name == level.name) {
                    return Err(Wrong::new(key, format!("the level {:?}: {NAMES}", level.name)));
                }
            }
        }
        let runs = self.factors.iter().map(|factor| factor.levels.len()).try_fold(self.seeds.len(), usize::checked_mul);
        if self.design == Design::Grid && runs.is_none_or(|runs| runs > MOST_RUNS) {
            return wrong(
                "factor",
                "these are more than ten thousand runs; design = \"each\" varies one factor at a time",
            );
        }
        self.check_levels("baseline", &self.baseline)?;
        for row in self.paper.iter().flat_map(|paper| &paper.rows) {
            self.check_levels("paper", &row.cell)?;
        }
        let Some(paper) = &self.paper else { return Ok(()) };
        let known = |name: &String| paper.sigma.get(name).is_some_and(|sigma| *sigma > 0.0);
        match paper.rows.iter().flat_map(|row| row.values.keys()).find(|name| !known(name)) {
            Some(name) => Err(Wrong::new("paper.sigma", format!("say the standard deviation of {name} over seeds"))),
            None => Ok(()),
        }
    }

    fn check_levels(&self, key: &str, levels: &BTreeMap<String, String>) -> Result<(), Wrong> {
        for (factor, level) in levels {
            let Some(known) = self.factors.iter().find(|known| known.name == *factor) else {
                let names: Vec<&str> = self.factors.iter().map(|factor| factor.name.as_str()).collect();
                return Err(Wrong::new(key, format!("there is no factor `{factor}`; there are: {}", names.join(", "))));
            };
            if !known.levels.iter().any(|known| known.name == *level) {
                let names: Vec<&str> = known.levels.iter().map(|level| level.name.as_str()).collect();
                return Err(Wrong::new(key, format!("{factor} has no level `{level}`; it has: {}", names.join(", "))));
            }
        }
        Ok(())
    }

    /// What only shows in a recipe.
    fn check_recipe(&self, recipe: &Recipe) -> Result<(), Wrong> {
        if let Some(stage) = recipe.stages.iter().find(|stage| stage.seed.is_some()) {
            let what = format!(
                "stage {} has a seed of its own, which the study's seeds do not reach: leave it out there",
                stage.name
            );
            return Err(Wrong::new("seeds", what));
        }
        for result in &self.results {
            let parts: Vec<&str> = result.split('/').collect();
            let stage = parts.first().and_then(|name| recipe.stages.iter().find(|stage| stage.name == **name));
            if parts.len() < 3 || stage.is_none() {
                let stages: Vec<&str> = recipe.stages.iter().map(|stage| stage.name.as_str()).collect();
                let what = format!("write {result:?} as STAGE/TASK/METRIC, where the stages are {}", stages.join(", "));
                return Err(Wrong::new("results", what));
            }
        }
        Ok(())
    }

    /// What it is called.
    pub fn title(&self) -> &str {
        self.name.as_deref().unwrap_or("study")
    }

    /// The combinations that are run, as tables show them: the last factor varies first.
    pub fn cells(&self) -> Vec<Cell> {
        let mut all: Vec<Vec<usize>> = vec![Vec::new()];
        for factor in &self.factors {
            let longer = |cell: Vec<usize>| {
                (0..factor.levels.len()).map(move |level| cell.iter().copied().chain([level]).collect::<Vec<usize>>())
            };
            all = all.into_iter().flat_map(longer).collect();
            if self.design == Design::Each {
                all.retain(|cell| cell.iter().filter(|level| **level > 0).count() <= 1);
            }
        }
        all.into_iter().map(|levels| self.cell(levels)).collect()
    }

    fn cell(&self, levels: Vec<usize>) -> Cell {
        let names: Vec<&str> = levels.iter().zip(&self.factors).map(|(&i, f)| f.levels[i].name.as_str()).collect();
        Cell { name: names.join("."), levels }
    }

    /// The cell with which this one is compared.
    pub fn baseline_of(&self, cell: &Cell) -> Cell {
        let level = |(&own, factor): (&usize, &Factor)| match self.baseline.get(&factor.name) {
            Some(name) => factor.levels.iter().position(|level| level.name == *name).unwrap_or(0),
            None if self.baseline.is_empty() => 0,
            None => own,
        };
        self.cell(cell.levels.iter().zip(&self.factors).map(level).collect())
    }

    /// "objective = deshuffle, size = small".
    pub fn described(&self, cell: &Cell) -> String {
        let one = |(&i, factor): (&usize, &Factor)| format!("{} = {}", factor.name, factor.levels[i].name);
        cell.levels.iter().zip(&self.factors).map(one).collect::<Vec<_>>().join(", ")
    }

    /// The recipe of a run.
    ///
    /// # Errors
    /// As [`Recipe::read`].
    pub fn recipe_of(&self, cell: &Cell, seed: u64) -> Result<Recipe> {
        let levels = cell.levels.iter().zip(&self.factors).flat_map(|(&i, factor)| &factor.levels[i].set);
        let seed_set = format!("seed={seed}");
        let overrides: Vec<String> = self.set.iter().chain(levels).chain([&seed_set]).cloned().collect();
        let mut recipe = Recipe::read(&self.recipe, &overrides)?;
        recipe.name = Some(format!("{}.{}.{seed}", self.title(), cell.name));
        recipe.out = None;
        Ok(recipe)
    }

    /// The paper's figures for a cell.
    pub fn paper_values(&self, cell: &Cell) -> Option<&BTreeMap<String, f64>> {
        let is = |(factor, level): (&String, &String)| {
            let found = self.factors.iter().zip(&cell.levels).find(|(known, _)| known.name == *factor);
            found.is_some_and(|(known, &i)| known.levels[i].name == *level)
        };
        self.paper.as_ref()?.rows.iter().find(|row| row.cell.iter().all(is)).map(|row| &row.values)
    }

    /// As TOML.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string(self).map_err(|e| Error::Input(format!("the study cannot be written: {e}")))
    }
}

const NAMES: &str =
    "names are distinct and made of letters, digits, hyphens and underscores, since folders are called after them";

/// A cell's folder has dots between its levels.
fn is_level(name: &str) -> bool {
    is_plain_name(name) && !name.contains('.')
}
