//! The results of a run, as plain data.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::ceilings::Ceilings;
use super::spread::Spread;
use super::subject::Subject;
use super::{BenchOptions, Section};
use crate::gpu::{Caps, Gpu, StepTime, StepWork, Work};
use crate::model::Model;

/// The version of the saved form; a reader refuses others.
pub const SCHEMA: u32 = 2;

/// Everything that a run measured, and the circumstances.
#[derive(Clone, Debug, Serialize)]
pub struct BenchReport {
    pub schema: u32,
    pub version: &'static str,
    /// Of the sources that the program was built from.
    pub commit: Option<&'static str>,
    /// UTC, as `2026-01-31T12:00:00Z`.
    pub date: String,
    pub adapter: Caps,
    /// Whether shaders were compiled with bounds checks.
    pub checked: bool,
    pub quick: bool,
    /// Measuring time of each figure.
    pub seconds: f64,
    pub model: Option<ModelFacts>,
    pub ceilings: Ceilings,
    pub figures: Vec<Figure>,
    pub profiles: Vec<Profile>,
}

/// What was timed as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct ModelFacts {
    pub name: String,
    pub parameters: usize,
}

/// One number, with the quartiles of its samples.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub section: String,
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub low: f64,
    pub high: f64,
    /// 0: the number is counted, not measured.
    pub samples: usize,
    /// Work of one run, where it is known.
    pub flops: Option<f64>,
    pub bytes: Option<f64>,
    /// The time that the ceilings would allow, divided by the time taken.
    pub ceiling_share: Option<f64>,
    pub dispatches: Option<usize>,
    /// Which values are good ones.
    #[serde(default)]
    pub better: Better,
}

/// Which values of a figure are good ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Times and sizes.
    #[default]
    Lower,
    /// Rates, and shares of what is possible.
    Higher,
}

/// Where the device's time of one step goes.
#[derive(Clone, Debug, Serialize)]
pub struct Profile {
    pub section: String,
    pub name: String,
    /// The most expensive first.
    pub kernels: Vec<KernelShare>,
}

/// All dispatches of one kernel in a step.
#[derive(Clone, Debug, Serialize)]
pub struct KernelShare {
    pub kernel: &'static str,
    pub dispatches: usize,
    pub seconds: f64,
    /// Of the step.
    pub share: f64,
    #[serde(flatten)]
    pub work: Work,
    pub ceiling_share: f64,
}

impl BenchReport {
    pub(super) fn new(gpu: &Gpu, options: &BenchOptions) -> BenchReport {
        BenchReport {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("T5_COMMIT"),
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            adapter: gpu.caps().clone(),
            checked: gpu.checked(),
            quick: options.quick,
            seconds: options.seconds,
            model: None,
            ceilings: Ceilings::default(),
            figures: Vec::new(),
            profiles: Vec::new(),
        }
    }

    pub(super) fn set_model(&mut self, subject: &Subject, model: &Model) {
        self.model = Some(ModelFacts { name: subject.to_string(), parameters: model.layout.n_params() });
    }

    /// One line a figure, under a line of column names.
    pub fn csv(&self) -> String {
        let mut bytes = Vec::new();
        let mut out = csv::Writer::from_writer(&mut bytes);
        // Memory takes everything.
        let _written = self.figures.iter().try_for_each(|figure| out.serialize(figure));
        drop(out);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Adds up a profiled step by kernel.
    pub(super) fn add_profile(&mut self, section: Section, name: &str, steps: &[StepTime]) -> Profile {
        let mut kernels: BTreeMap<&'static str, (usize, f64, Work)> = BTreeMap::new();
        for step in steps {
            let (count, seconds, work) = kernels.entry(step.kernel).or_default();
            (*count, *seconds, *work) = (*count + 1, *seconds + step.seconds, *work + step.work);
        }
        let total: f64 = kernels.values().map(|(_, seconds, _)| seconds).sum();
        let share = |(kernel, (dispatches, seconds, work)): (&'static str, (usize, f64, Work))| KernelShare {
            kernel,
            dispatches,
            seconds,
            share: seconds / total.max(f64::MIN_POSITIVE),
            work,
            ceiling_share: self.ceilings.share(work, seconds.max(f64::MIN_POSITIVE)),
        };
        let mut kernels: Vec<_> = kernels.into_iter().map(share).collect();
        kernels.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let profile = Profile { section: section.name().into(), name: name.into(), kernels };
        self.profiles.push(profile.clone());
        profile
    }
}

impl Profile {
    /// Seconds and work of the matrix products, the copies that pack their operands included.
    pub fn products(&self) -> (f64, Work) {
        let products = self.kernels.iter().filter(|k| k.kernel.starts_with("matmul") || k.kernel == "pack");
        products.fold((0.0, Work::default()), |(seconds, work), k| (seconds + k.seconds, work + k.work))
    }

    /// Seconds of all kernels.
    pub fn seconds(&self) -> f64 {
        self.kernels.iter().map(|k| k.seconds).sum()
    }
}

impl Figure {
    pub fn new(section: Section, name: &str, unit: &str, spread: Spread) -> Figure {
        let Spread { median, low, high, samples } = spread;
        let better = if unit.ends_with("/s") { Better::Higher } else { Better::Lower };
        let (section, name, unit) = (section.name().to_owned(), name.to_owned(), unit.to_owned());
        Figure { section, name, unit, better, value: median, low, high, samples, ..Figure::default() }
    }

    /// Whose high values are the good ones, although the unit is no rate.
    pub fn higher_is_better(self) -> Figure {
        Figure { better: Better::Higher, ..self }
    }

    /// A number that is counted, not measured.
    pub fn exact(section: Section, name: &str, unit: &str, value: f64) -> Figure {
        Figure::new(section, name, unit, Spread { median: value, low: value, high: value, samples: 0 })
    }

    /// A number from a single measurement, of whose spread nothing is known.
    pub fn once(section: Section, name: &str, unit: &str, value: f64) -> Figure {
        Figure { samples: 1, ..Figure::exact(section, name, unit, value) }
    }

    /// With the work of a run that took `seconds`.
    pub fn with_work(self, steps: &[StepWork], seconds: f64, ceilings: &Ceilings) -> Figure {
        let work: Work = steps.iter().map(|step| step.work).sum();
        Figure {
            flops: Some(work.flops),
            bytes: Some(work.bytes),
            ceiling_share: Some(ceilings.share(work, seconds)),
            dispatches: Some(steps.len()),
            ..self
        }
    }
}
