//! Finds the fastest kernel for a shape on this adapter: measured once, kept in a file, and fixed for a run.
//!
//! A [`Tuner`] answers what a graph's ops ask ([`crate::graph::questions`]). An answer comes from the run that is being
//! continued, else from the cache file, else from a measurement, else from the op's own rule. Once given it stays, so that
//! every plan of a process agrees.

pub mod cache;
mod measure;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use web_time::Instant;

use crate::error::Result;
use crate::gpu::Gpu;
use crate::graph::{Choices, Graph, Question, ValueId, questions};
use cache::{Cache, CacheEntry};

/// How kernels are chosen where there is a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// By the ops' own rules: the same on every run, nothing is read or measured.
    #[default]
    Off,
    /// As earlier measurements found; by rule where there are none.
    Cache,
    /// By earlier measurements; shapes without one are measured now, and the result is kept.
    On,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        match text {
            "off" => Ok(Mode::Off),
            "cache" => Ok(Mode::Cache),
            "on" => Ok(Mode::On),
            _ => Err("use off, cache or on".into()),
        }
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Mode::Off => "off",
            Mode::Cache => "cache",
            Mode::On => "on",
        })
    }
}

/// What measuring may cost.
#[derive(Clone, Copy, Debug)]
pub struct TuneBudget {
    /// In all, compilation of the kernels that are compared included. What is not measured by then goes by rule.
    pub total: Duration,
    /// Classes with a smaller share of a graph's floating-point operations go by rule.
    pub least_share: f64,
}

impl TuneBudget {
    /// For a training run: under ten seconds, spent where the work is.
    pub fn for_run() -> TuneBudget {
        TuneBudget { total: Duration::from_secs(8), least_share: 0.01 }
    }

    /// For `t5 tune`, whose user waits for it.
    pub fn thorough() -> TuneBudget {
        TuneBudget { total: Duration::from_secs(120), least_share: 0.0 }
    }
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DecisionSource {
    /// The run that is being continued.
    Run,
    Cache,
    Measured,
    /// The op's own rule: nothing was known, and measuring not allowed or not worth it.
    Rule,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Decision {
    pub class: String,
    pub variant: String,
    /// The first candidate, which the op's own rule chooses.
    pub rule: &'static str,
    pub source: DecisionSource,
    /// Milliseconds of a run of the trial, by candidate, if it was ever measured. A candidate that is not among them failed
    /// or gave another result.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub ms: BTreeMap<String, f64>,
    /// Floating-point operations of a run of the trial.
    #[serde(skip)]
    pub flops: f64,
}

/// See the module. Clones share their answers.
#[derive(Clone)]
pub struct Tuner {
    any_batch: bool,
    inner: Arc<Inner>,
}

struct Inner {
    mode: Mode,
    budget: TuneBudget,
    cache: Option<Cache>,
    known: BTreeMap<String, CacheEntry>,
    /// Variants by class, of the run that is being continued.
    run: BTreeMap<String, String>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    decided: BTreeMap<String, Decision>,
    /// Classes decided since someone last asked.
    new: Vec<String>,
    warnings: Vec<String>,
    spent: Duration,
}

impl Default for Tuner {
    fn default() -> Tuner {
        Tuner::off()
    }
}

impl Tuner {
    /// Every op goes by its own rules.
    pub fn off() -> Tuner {
        Tuner::new(Mode::Off, TuneBudget::for_run(), None)
    }

    /// `cache`: the file to read what is known from and to keep what is found in. Without one, [`Mode::On`] measures for this
    /// process alone.
    pub fn new(mode: Mode, budget: TuneBudget, cache: Option<Cache>) -> Tuner {
        let mut state = State::default();
        let mut known = BTreeMap::new();
        if mode != Mode::Off
            && let Some(cache) = &cache
        {
            let (entries, warning) = cache.load();
            known = entries;
            state.warnings.extend(warning);
        }
        let inner = Inner { mode, budget, cache, known, run: BTreeMap::new(), state: Mutex::new(state) };
        Tuner { any_batch: false, inner: Arc::new(inner) }
    }

    /// A tuner that ignores the entries of the cache, and replaces them.
    pub fn anew(budget: TuneBudget, cache: Option<Cache>) -> Tuner {
        let tuner = Tuner::new(Mode::On, budget, None);
        let inner = Inner { mode: Mode::On, budget, cache, ..tuner.inner.emptied() };
        Tuner { any_batch: false, inner: Arc::new(inner) }
    }

    /// This tuner with the variants of a run that is being continued, by class; they go before everything else. It has made no
    /// decision yet.
    pub fn continuing(&self, run: BTreeMap<String, String>) -> Tuner {
        let state = Mutex::new(State { warnings: self.warnings(), ..State::default() });
        Tuner { any_batch: self.any_batch, inner: Arc::new(Inner { run, state, ..self.inner.emptied() }) }
    }

    /// This tuner with one answer for batches of all sizes, for plans whose rows must not depend on each other.
    pub fn any_batch(&self) -> Tuner {
        Tuner { any_batch: true, inner: self.inner.clone() }
    }

    /// Whether answers may be other than the ops' rules.
    pub fn is_on(&self) -> bool {
        self.inner.mode != Mode::Off || !self.inner.run.is_empty()
    }

    /// Answers to all questions of this graph; measures where the mode allows it and nothing is known.
    ///
    /// # Errors
    /// The device fails.
    pub fn choices(&self, gpu: &Gpu, graph: &Graph, outputs: &[ValueId]) -> Result<Choices> {
        let mut choices = Choices { any_batch: self.any_batch, ..Choices::none() };
        if !self.is_on() {
            return Ok(choices);
        }
        graph.check_sizes()?;
        let mut asked = by_class(questions(gpu.caps(), graph, outputs, &choices));
        let total: f64 = asked.iter().map(|(_, flops)| flops).sum();
        // What takes the longest is worth the most.
        asked.sort_by(|a, b| b.1.total_cmp(&a.1));
        let mut state = self.state();
        let mut measured = BTreeMap::new();
        for (question, flops) in &asked {
            if !state.decided.contains_key(&question.class) {
                let decision = self.decide(gpu, &mut state, question, flops / total)?;
                if decision.source == DecisionSource::Measured {
                    measured.insert(question.class.clone(), CacheEntry::of(&decision, measure::sources(gpu, question)));
                }
                state.new.push(question.class.clone());
                state.decided.insert(question.class.clone(), decision);
            }
            choices.by_class.insert(question.class.clone(), state.decided[&question.class].variant.clone());
        }
        if let Some(cache) = &self.inner.cache
            && !measured.is_empty()
            && let Err(error) = cache.add(&measured)
        {
            state.warnings.push(format!("what was measured is not kept: {error}"));
        }
        Ok(choices)
    }

    fn decide(&self, gpu: &Gpu, state: &mut State, question: &Question, share: f64) -> Result<Decision> {
        let Inner { mode, budget, known, run, .. } = &*self.inner;
        let rule = question.candidates[0].name;
        let flops = question.candidates[0].trial.flops;
        let decision = |variant: &str, source, ms| {
            let (class, variant) = (question.class.clone(), variant.to_owned());
            Decision { class, variant, rule, source, ms, flops }
        };
        let is_candidate = |name: &str| question.candidates.iter().any(|c| c.name == name);
        if let Some(name) = run.get(&question.class).filter(|name| is_candidate(name)) {
            return Ok(decision(name, DecisionSource::Run, BTreeMap::new()));
        }
        if let Some(entry) = known.get(&question.class)
            && is_candidate(&entry.variant)
            && entry.sources == measure::sources(gpu, question)
        {
            return Ok(decision(&entry.variant, DecisionSource::Cache, entry.ms.clone()));
        }
        let left = budget.total.saturating_sub(state.spent);
        if *mode != Mode::On || left.is_zero() || share < budget.least_share {
            return Ok(decision(rule, DecisionSource::Rule, BTreeMap::new()));
        }
        let start = Instant::now();
        let found = measure::measure(gpu, question, start + left);
        state.spent += start.elapsed();
        let found = found?;
        Ok(match found.winner {
            Some(winner) => decision(question.candidates[winner].name, DecisionSource::Measured, found.ms),
            None => decision(rule, DecisionSource::Rule, found.ms),
        })
    }

    /// Every answer so far, by class.
    pub fn decisions(&self) -> Vec<Decision> {
        self.state().decided.values().cloned().collect()
    }

    /// The answers given since this was last called, those of a continued run left out.
    pub fn new_decisions(&self) -> Vec<Decision> {
        let mut state = self.state();
        let new = std::mem::take(&mut state.new);
        let decisions = new.iter().filter_map(|class| state.decided.get(class));
        decisions.filter(|decision| decision.source != DecisionSource::Run).cloned().collect()
    }

    /// What went wrong with the cache file since this was last called. Nothing depends on it but time.
    pub fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.state().warnings)
    }

    /// Time spent on measuring.
    pub fn spent(&self) -> Duration {
        self.state().spent
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    /// The same settings and knowledge, without decisions.
    fn emptied(&self) -> Inner {
        let Inner { mode, budget, cache, known, run, .. } = self;
        let (cache, known, run) = (cache.clone(), known.clone(), run.clone());
        Inner { mode: *mode, budget: *budget, cache, known, run, state: Mutex::default() }
    }
}

/// One question a class, with the floating-point operations of all that ask it.
fn by_class(questions: Vec<Question>) -> Vec<(Question, f64)> {
    let mut classes: BTreeMap<String, (Question, f64)> = BTreeMap::new();
    for question in questions {
        let flops = question.flops;
        classes.entry(question.class.clone()).or_insert((question, 0.0)).1 += flops;
    }
    classes.into_values().collect()
}
