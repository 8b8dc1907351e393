//! A stage: training on some texts and tasks, or an evaluation. What it leaves open takes the defaults of [`Settings`].

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::source::{SECTIONS, set};
use super::{NOT_A_NAME, Recipe, Wrong, is_name};
use crate::data::Split;
use crate::data::task::TaskConfig;
use crate::error::{Error, Result};
use crate::generate::Decoding;
use crate::train::parameters::hyper_parameters;
use crate::train::settings::{Settings, TextConfig, with_weight_decay};

/// Which weights of the stage before a stage begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Begin {
    /// Those of its last step.
    Last,
    /// Those of its best evaluation.
    Best,
}

/// How long a training is that is not given as a number of steps, which follows then: minutes are measured, tokens and
/// floating-point operations are counted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Budget {
    Minutes(f64),
    /// Of sources and targets, padding not counted.
    Tokens(f64),
    /// Of matrix products and attention, forward and backward.
    Flops(f64),
}

/// As good as for ever, and no sum of times overflows.
const MOST_MINUTES: f64 = 1e6;

/// Nobody has trained on more, and as many steps still are a number.
const MOST_TOKENS: f64 = 1e15;
const MOST_FLOPS: f64 = 1e30;

impl Budget {
    /// What recipes call it.
    pub fn key(self) -> &'static str {
        match self {
            Budget::Minutes(_) => "minutes",
            Budget::Tokens(_) => "tokens",
            Budget::Flops(_) => "flops",
        }
    }

    pub fn amount(self) -> f64 {
        match self {
            Budget::Minutes(amount) | Budget::Tokens(amount) | Budget::Flops(amount) => amount,
        }
    }

    /// The time, if it is limited.
    pub fn time(self) -> Option<Duration> {
        match self {
            Budget::Minutes(minutes) => Some(Duration::from_secs_f64(60.0 * minutes)),
            _ => None,
        }
    }

    fn check(self) -> Result<()> {
        let (most, what) = match self {
            Budget::Minutes(_) => (MOST_MINUTES, "the time must be a positive number of minutes, a million at most"),
            Budget::Tokens(_) => (MOST_TOKENS, "tokens are a positive number, 1e15 at most"),
            Budget::Flops(_) => (MOST_FLOPS, "operations are a positive number, 1e30 at most"),
        };
        match self.amount() > 0.0 && self.amount() <= most {
            true => Ok(()),
            false => Err(Error::setting(self.key(), what)),
        }
    }
}

/// What [`Stage::from`] calls the recipe's model.
pub const FROM_MODEL: &str = "model";

macro_rules! stage {
    (
        stage { $($(#[doc = $sdoc:literal])+ $skey:ident: $stype:ty, $swords:expr, $sflag:expr;)* }
        plain { $($(#[doc = $doc:literal])+ $key:ident: $type:ty = $default:expr, $words:expr, $flag:expr;)* }
        open { $($(#[doc = $odoc:literal])+ $okey:ident: $otype:ty, $owords:expr, $oflag:expr;)* }
    ) => {
        /// A stage as it is written.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Stage {
            /// Also its folder's name.
            pub name: String,
            /// Texts and tasks to train on; none: the stage only evaluates.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            pub train: Vec<String>,
            /// Texts and tasks to evaluate on. Default: those of `train` that have something for it.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub evaluate: Option<Vec<String>>,
            /// The stage whose weights this one begins with, or "model": those of the recipe's model, random ones by this stage's
            /// seed. Default: the last stage before it that trains.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub from: Option<String>,
            /// Which weights of that stage. Default: the last to train on, the best to evaluate.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub begin: Option<Begin>,
            $($(#[doc = $sdoc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $skey: Option<$stype>,)*
            $($(#[doc = $doc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $key: Option<$type>,)*
            $($(#[doc = $odoc])+ #[serde(skip_serializing_if = "Option::is_none")] pub $okey: Option<$otype>,)*
            /// Of an evaluation: validation (default) or test.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub split: Option<Split>,
            /// Of an evaluation: most tokens of an answer. Default: somewhat more than the longest target has.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub max_new_tokens: Option<usize>,
            /// Of an evaluation: draws answers at this temperature; 0 (default) takes the likeliest token.
            #[serde(skip_serializing_if = "Option::is_none")]
            pub temperature: Option<f32>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub top_k: Option<usize>,
            #[serde(skip_serializing_if = "Option::is_none")]
            pub top_p: Option<f32>,
        }

        impl Stage {
            /// Writes the settings that the stage gives over others.
            ///
            /// # Errors
            /// `Setting` if the optimiser has an unknown name.
            pub fn apply(&self, settings: &mut Settings) -> Result<()> {
                if let Some(name) = &self.optimizer {
                    let named = name.parse().map_err(|e: Error| Error::setting("optimizer", e.to_string()))?;
                    settings.optimizer = with_weight_decay(named, settings.optimizer.weight_decay());
                }
                if let Some(decay) = self.weight_decay {
                    settings.optimizer = with_weight_decay(settings.optimizer.clone(), decay);
                }
                $(if let Some(value) = &self.$key {
                    settings.$key.clone_from(value);
                })*
                $(if self.$okey.is_some() {
                    settings.$okey.clone_from(&self.$okey);
                })*
                Ok(())
            }

            /// The stage with what the settings say.
            fn with(&self, settings: Settings) -> Stage {
                Stage { $($key: Some(settings.$key),)* $($okey: settings.$okey,)* ..self.clone() }
            }

            /// The hyper-parameters that the stage gives.
            fn given(&self) -> impl Iterator<Item = &'static str> {
                let all = [
                    $((stringify!($skey), self.$skey.is_some()),)*
                    $((stringify!($key), self.$key.is_some()),)*
                    $((stringify!($okey), self.$okey.is_some()),)*
                ];
                all.into_iter().filter(|(_, is_given)| *is_given).map(|(key, _)| key)
            }
        }
    };
}

hyper_parameters!(stage);

impl Stage {
    pub fn trains(&self) -> bool {
        !self.train.is_empty()
    }

    fn budgets(&self) -> [Option<Budget>; 3] {
        [self.minutes.map(Budget::Minutes), self.tokens.map(Budget::Tokens), self.flops.map(Budget::Flops)]
    }

    /// How long it trains, if that is no number of steps.
    pub fn budget(&self) -> Option<Budget> {
        self.budgets().into_iter().flatten().next()
    }

    /// Trains as long as another one.
    pub(super) fn take_budget(&mut self, other: &Stage) {
        (self.minutes, self.tokens, self.flops) = (other.minutes, other.tokens, other.flops);
    }

    /// The split that an evaluation is on.
    pub fn split(&self) -> Split {
        self.split.unwrap_or(Split::Validation)
    }

    /// What is wrong with the settings of an evaluation, and under which key.
    ///
    /// # Errors
    /// The key and what is wrong with it.
    pub fn check_decoding(&self) -> Result<(), (&'static str, &'static str)> {
        let draws = self.temperature.is_some_and(|temperature| temperature > 0.0);
        let wrong = [
            ("eval_examples", self.eval_examples == Some(0), "an evaluation needs at least 1 example"),
            ("eval_batch_size", self.eval_batch_size == Some(0), "an evaluation needs rows for at least 1 example"),
            (
                "max_new_tokens",
                self.max_new_tokens.is_some_and(|most| !(1..=Decoding::MOST_NEW_TOKENS).contains(&most)),
                "answers have at least 1 token and at most a million",
            ),
            (
                "temperature",
                self.temperature.is_some_and(|temperature| !(temperature >= 0.0 && temperature.is_finite())),
                "a temperature is 0 or a positive number",
            ),
            ("top_k", self.top_k.is_some() && !draws, "nothing is drawn without a temperature above 0"),
            ("top_p", self.top_p.is_some() && !draws, "nothing is drawn without a temperature above 0"),
            (
                "top_p",
                self.top_p.is_some_and(|share| !(share > 0.0 && share <= 1.0)),
                "a probability lies above 0 and at most at 1",
            ),
        ];
        wrong.into_iter().find(|(_, wrong, _)| *wrong).map_or(Ok(()), |(key, _, what)| Err((key, what)))
    }

    /// How the answers of an evaluation are decoded; without a most number of tokens, as [`crate::train::evaluate`] says.
    pub fn decoding(&self, seed: u64) -> Decoding {
        Decoding {
            max_new_tokens: self.max_new_tokens,
            temperature: self.temperature.unwrap_or(0.0),
            top_k: self.top_k.unwrap_or(0),
            top_p: self.top_p.unwrap_or(1.0),
            seed: self.seed.unwrap_or(seed),
            ..Decoding::greedy()
        }
    }

    /// The settings of training: those that the stage gives over the defaults. A model that was trained before takes a
    /// tenth of the learning rate.
    ///
    /// # Errors
    /// `Setting`: the first one that cannot be used.
    pub fn settings(
        &self,
        texts: &BTreeMap<String, TextConfig>,
        tasks: &BTreeMap<String, TaskConfig>,
        seed: u64,
        fine_tuning: bool,
        dropout: Option<f32>,
    ) -> Result<Settings> {
        let mut settings = Settings { seed, dropout: dropout.unwrap_or(0.0), ..Settings::new() };
        // Of those whose steps are relative to the parameters.
        let is_relative = self.optimizer.as_deref().is_some_and(|name| name != "adamw");
        settings.lr = if is_relative { 1e-2 } else { 1e-3 } * if fine_tuning { 0.1 } else { 1.0 };
        if let Some(budget) = self.budget() {
            budget.check()?;
            // Until it is measured or counted how many these are.
            settings.steps = u64::from(u32::MAX);
        }
        self.apply(&mut settings)?;
        settings.train.clone_from(&self.train);
        let has = |name: &&String| {
            texts.get(*name).is_some_and(TextConfig::has_validation)
                || tasks.get(*name).is_some_and(|task| task.has(Split::Validation))
        };
        let default = || self.train.iter().filter(has).cloned().collect();
        settings.evaluate = self.evaluate.clone().unwrap_or_else(default);
        let used = |name: &str| self.train.iter().chain(&settings.evaluate).any(|used| used == name);
        let pick = |(name, _): &(&String, _)| used(name);
        settings.texts = texts.iter().filter(|(name, _)| used(name)).map(|(n, t)| (n.clone(), t.clone())).collect();
        settings.tasks = tasks.iter().filter(pick).map(|(n, t)| (n.clone(), t.clone())).collect();
        if self.trains() {
            settings.check()?;
        }
        Ok(settings)
    }

    /// Gives a key a value as `--set` reads it.
    ///
    /// # Errors
    /// `Setting`: no such key, or no value for it.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        set(self, key, value)
    }

    /// The same with everything said that the settings made of it say. Intervals follow from the number of steps that the
    /// stage `began` with, if it has; where that is still to be measured they stay open.
    pub(super) fn spelled_out(&self, settings: &Settings, began: Option<u64>) -> Stage {
        let mut settings = settings.clone();
        if self.budget().is_none() {
            let steps = settings.steps;
            settings.steps = began.unwrap_or(steps);
            settings.settle();
            settings.steps = steps;
        }
        if !self.trains() {
            let draws = self.temperature.is_some_and(|temperature| temperature > 0.0);
            return Stage {
                begin: Some(self.begin.unwrap_or(Begin::Best)),
                split: Some(self.split()),
                seed: Some(settings.seed),
                eval_batch_size: Some(settings.eval_batch_size),
                temperature: Some(self.temperature.unwrap_or(0.0)),
                top_k: draws.then_some(self.top_k.unwrap_or(0)),
                top_p: draws.then_some(self.top_p.unwrap_or(1.0)),
                ..self.clone()
            };
        }
        Stage {
            evaluate: Some(settings.evaluate.clone()),
            begin: Some(self.begin.unwrap_or(Begin::Last)),
            steps: self.budget().is_none().then_some(settings.steps),
            optimizer: Some(self.optimizer.clone().unwrap_or_else(|| "adamw".into())),
            weight_decay: Some(settings.optimizer.weight_decay()),
            ..self.with(settings)
        }
    }

    pub(super) fn check(&self, recipe: &Recipe) -> Result<(), Wrong> {
        let key = |name: &str| format!("stage.{}.{name}", self.name);
        if !is_name(&self.name) {
            return Err(Wrong::new(key("name"), NOT_A_NAME));
        }
        for (list, names) in [("train", Some(&self.train)), ("evaluate", self.evaluate.as_ref())] {
            for name in names.into_iter().flatten() {
                let known = recipe.texts.contains_key(name) || recipe.tasks.contains_key(name);
                if !known {
                    return Err(Wrong::new(key(list), recipe.no_such_task(name)));
                }
            }
        }
        if SECTIONS.contains(&self.name.as_str()) || self.name == "stage" {
            let what = format!("`{}` is a section of recipes: choose another name", self.name);
            return Err(Wrong::new(key("name"), what));
        }
        let earlier =
            || recipe.stages.iter().take_while(|other| other.name != self.name).filter(|other| other.trains());
        if let Some(from) = self.from.as_ref().filter(|from| *from != FROM_MODEL)
            && !earlier().any(|other| other.name == *from)
        {
            let names: Vec<&str> = earlier().map(|other| other.name.as_str()).chain([FROM_MODEL]).collect();
            let what = format!("no stage `{from}` trains before this one; choose among: {}", names.join(", "));
            return Err(Wrong::new(key("from"), what));
        }
        if self.begin.is_some() && recipe.starting_stage(self).is_none() {
            let what = "the stage begins with the recipe's model, which has no last and best: leave this out";
            return Err(Wrong::new(key("begin"), what));
        }
        for name in &self.train {
            if recipe.tasks.get(name).is_some_and(|task| !task.has(Split::Train)) {
                return Err(Wrong::new(
                    key("train"),
                    format!("{name} has no files to train on: set tasks.{name}.train"),
                ));
            }
        }
        let budgets = self.budgets().into_iter().flatten().map(Budget::key);
        let lengths: Vec<&str> = self.steps.map(|_| "steps").into_iter().chain(budgets).collect();
        if let [one, other, ..] = lengths[..] {
            return Err(Wrong::new(key(other), format!("train for {one} or for {other}, not both")));
        }
        if self.trains() { self.check_training(recipe, &key) } else { self.check_evaluation(recipe, &key) }
    }

    fn check_training(&self, recipe: &Recipe, key: &dyn Fn(&str) -> String) -> Result<(), Wrong> {
        let of_evaluations = [
            ("split", self.split.is_some()),
            ("max_new_tokens", self.max_new_tokens.is_some()),
            ("temperature", self.temperature.is_some()),
            ("top_k", self.top_k.is_some()),
            ("top_p", self.top_p.is_some()),
        ];
        if let Some((name, _)) = of_evaluations.iter().find(|(_, set)| *set) {
            return Err(Wrong::new(key(name), "this is for a stage that only evaluates: add one without `train`"));
        }
        let table = format!("stage.{}", self.name);
        let settings = recipe.settings(self).map_err(|e| Wrong::within(&table, e, &table))?;
        let rates = [
            ("lr", self.lr.is_some()),
            ("schedule", self.schedule.is_some()),
            ("warmup", self.warmup.is_some()),
            ("cooldown", self.cooldown.is_some()),
        ];
        if let Some((name, _)) = rates.iter().find(|(_, set)| *set && settings.optimizer.sets_own_rate()) {
            return Err(Wrong::new(key(name), "adafactor-hf sets its own rate: leave this out, or use adafactor"));
        }
        for name in &settings.evaluate {
            let text = recipe.texts.get(name).is_some_and(TextConfig::has_validation);
            if !text && recipe.tasks.get(name).is_none_or(|task| !task.has(Split::Validation)) {
                return Err(Wrong::new(
                    key("evaluate"),
                    format!("{name} has nothing to evaluate on: set `validation`"),
                ));
            }
        }
        Ok(())
    }

    fn check_evaluation(&self, recipe: &Recipe, key: &dyn Fn(&str) -> String) -> Result<(), Wrong> {
        let names = self.evaluate.as_deref().unwrap_or_default();
        if names.is_empty() {
            return Err(Wrong::new(key("name"), "the stage does nothing: say what to `train` on, or to `evaluate` on"));
        }
        let of_both = ["seed", "eval_examples", "eval_batch_size"];
        if let Some(name) = self.given().find(|key| !of_both.contains(key)) {
            return Err(Wrong::new(key(name), "this is for a stage that trains: say on what with `train`"));
        }
        self.check_decoding().map_err(|(name, what)| Wrong::new(key(name), what))?;
        for name in names {
            let split = self.split();
            let has = match (recipe.texts.get(name), recipe.tasks.get(name)) {
                (Some(text), _) => split == Split::Validation && text.has_validation(),
                (None, task) => task.is_some_and(|task| task.has(split)),
            };
            if !has {
                return Err(Wrong::new(key("evaluate"), format!("{name} has no files for {split}")));
            }
        }
        Ok(())
    }
}
