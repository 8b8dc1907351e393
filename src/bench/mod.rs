//! How fast the engine is on the adapter at hand, and how far from the limits of the adapter itself.
//!
//! Everything is timed against ceilings that are measured first, on the same adapter, by the same clock. Things that are
//! to be compared are timed in turn, round after round, so that a change of the machine's speed meets all of them.

mod ceilings;
mod compare;
mod data;
mod decode;
mod efficiency;
mod encoder;
mod gate;
mod gpus;
mod machine;
mod ops;
mod predict;
mod render;
mod report;
mod result;
mod run;
mod spread;
mod subject;
mod suite;
mod table;
mod trace;
mod train;
mod workload;

use std::path::PathBuf;
use std::str::FromStr;

pub use ceilings::{Ceilings, kernels};
pub use compare::{Comparison, Saved, Verdict};
pub use efficiency::{Accuracy, Efficiencies};
pub use gate::{ExpectedResult, Gate, WorkloadOutcome, recorded_results, sampled_places};
pub use gpus::{GPUS, NamedGpu};
pub use machine::{AdapterFacts, MachineFacts, vendor_name};
pub use predict::{Basis, CardForecasts, CountedWorkload, Forecast, Occupancy, SMALL_DISPATCH, predict, seconds_on};
pub use render::{render, render_comparison, render_prediction, render_suite};
pub use report::{BenchReport, Better, Figure, KernelShare, Profile, SCHEMA};
pub use result::{
    BadResult, ColdStart, KernelChoice, KernelWork, ResultsFolder, SUITE_FORMAT, SUITE_SCHEMA, SuiteCeilings,
    SuiteResult, SuiteSettings, Sustained, WorkloadResult, read_results, submission_path,
};
pub use spread::{Arm, Spread, in_turn};
pub use subject::Subject;
pub use suite::{SuiteOptions, SuiteProgress, run_suite};
pub use table::{table_html, table_text};
pub use trace::{Trace, chrome_trace};
pub use workload::{FrozenWorkload, Workload, WorkloadKind};

use crate::error::{Error, Result};
use crate::gpu::{Caps, Gpu};
use spread::Budget;

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What the adapter can do; always measured, since the others are held against it.
    Ceilings,
    /// Each op at T5's shapes.
    Ops,
    Encoder,
    Decode,
    Train,
}

impl Section {
    pub const ALL: [Section; 5] = [Section::Ceilings, Section::Ops, Section::Encoder, Section::Decode, Section::Train];

    pub fn name(self) -> &'static str {
        match self {
            Section::Ceilings => "ceilings",
            Section::Ops => "ops",
            Section::Encoder => "encoder",
            Section::Decode => "decode",
            Section::Train => "train",
        }
    }

    fn needs_model(self) -> bool {
        matches!(self, Section::Encoder | Section::Decode | Section::Train)
    }
}

impl FromStr for Section {
    type Err = Error;

    fn from_str(text: &str) -> Result<Section> {
        let found = Section::ALL.into_iter().find(|section| section.name() == text);
        found.ok_or_else(|| {
            let names = Section::ALL.map(Section::name).join(", ");
            Error::Input(format!("the benchmark has no section `{text}`; there are {names} and all"))
        })
    }
}

/// What is to be measured, and how long.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// None: all.
    pub sections: Vec<Section>,
    pub subject: Subject,
    /// Sequences; `None`: 8 on a graphics card and 1 on a software adapter, and in decoding 1 and 16.
    pub batch: Option<usize>,
    /// Source tokens; `None`: 512, and in decoding 64.
    pub source_len: Option<usize>,
    /// Target tokens; `None`: 114 in training (what span corruption makes of 512), 64 in decoding (32 on a
    /// software adapter).
    pub target_len: Option<usize>,
    /// Measuring time of each figure, in seconds; warm-up not counted.
    pub seconds: f64,
    /// Smaller products and fewer rounds: an impression, no measurement.
    pub quick: bool,
    /// Collect the time of every dispatch of a step.
    pub trace: bool,
    /// Files of text whose first MiB the data's rate is measured on; none: words that are made up.
    pub text: Vec<PathBuf>,
    /// What that text is cut by, as for [`Tokenizer::open`](crate::tokenizer::Tokenizer::open); `None`: the tokenizer of the
    /// model's folder, or else bytes.
    pub tokenizer: Option<String>,
}

impl BenchOptions {
    fn has(&self, section: Section) -> bool {
        self.sections.is_empty() || self.sections.contains(&section)
    }

    fn budget(&self) -> Budget {
        let least = if self.quick { 2 } else { 5 };
        Budget { seconds: self.seconds, least, most: 50 }
    }

    /// The options of everything at the default sizes.
    pub fn new(subject: Subject) -> BenchOptions {
        BenchOptions {
            sections: Vec::new(),
            subject,
            batch: None,
            source_len: None,
            target_len: None,
            seconds: 1.0,
            quick: false,
            trace: false,
            text: Vec::new(),
            tokenizer: None,
        }
    }

    /// What is timed as a whole on such an adapter: the encoder, decoding at one or more batch sizes, training.
    fn workloads(&self, caps: &Caps) -> Vec<Workload> {
        let (is_cpu, quick) = (caps.is_cpu(), self.quick);
        let batch = self.batch.unwrap_or(if is_cpu || quick { 1 } else { 8 });
        let source_len = self.source_len.unwrap_or(512);
        let new_tokens = match (quick, is_cpu) {
            (true, _) => 8,
            (false, true) => 32,
            (false, false) => 64,
        };
        let new_tokens = self.target_len.unwrap_or(new_tokens).max(2);
        let rows = self.batch.map_or(if quick { vec![1, 4] } else { vec![1, 16] }, |batch| vec![batch]);
        let decode = |rows| Workload::decode(rows, self.source_len.unwrap_or(64), new_tokens);
        let train = Workload::train(batch, source_len, self.target_len.unwrap_or(114), DROPOUT);
        [vec![Workload::encoder(batch, source_len)], rows.into_iter().map(decode).collect(), vec![train]].concat()
    }

    fn check(&self) -> Result<()> {
        for (name, size) in [("batch", self.batch), ("source-len", self.source_len), ("target-len", self.target_len)] {
            if size == Some(0) {
                return Err(Error::Input(format!("{name} is 0: there would be nothing to measure")));
            }
        }
        if self.has(Section::Encoder) {
            self.subject.config()?.expect_encoder("name the sections that it can be measured by, decode and train")?;
        }
        if !(self.seconds > 0.0 && self.seconds.is_finite()) {
            return Err(Error::Input(format!("{} seconds a figure: give a positive number", self.seconds)));
        }
        Ok(())
    }
}

/// Of the training step that is timed.
const DROPOUT: f32 = 0.1;

/// Is called with the name of each measurement as it begins.
pub type Progress<'a> = dyn FnMut(&str) + 'a;

/// Runs the benchmark. Gives the report and, where they were asked for, the traces of a step.
///
/// # Errors
/// `Input` for impossible settings, `Adapter` if a trace is wanted of an adapter without timestamps, `OutOfMemory` with
/// what the model needs.
pub fn run(gpu: &Gpu, options: &BenchOptions, progress: &mut Progress<'_>) -> Result<(BenchReport, Vec<Trace>)> {
    options.check()?;
    if options.trace && !gpu.caps().timestamps {
        return Err(Error::Adapter(format!(
            "{} offers no timestamp queries, from which a trace is made; choose another adapter, or go without --trace",
            gpu.caps()
        )));
    }
    if options.trace && !(options.has(Section::Decode) || options.has(Section::Train)) {
        return Err(Error::Input("a trace is made of the sections decode and train: name one of them".into()));
    }
    let needs_model = Section::ALL.into_iter().any(|section| section.needs_model() && options.has(section));
    if needs_model {
        options.subject.check(gpu, options.has(Section::Train))?;
    }
    let mut bench = Bench { gpu, options, report: BenchReport::new(gpu, options), traces: Vec::new(), progress };
    bench.ceilings()?;
    if options.has(Section::Ops) {
        bench.ops()?;
    }
    if needs_model {
        (bench.progress)("making the model");
        let model = options.subject.open(gpu, options.has(Section::Train))?;
        bench.report.set_model(&options.subject, &model);
        let workloads = options.workloads(gpu.caps());
        let of = |kind| workloads.iter().filter(|w| w.kind == kind).copied().collect::<Vec<_>>();
        if options.has(Section::Encoder) {
            of(WorkloadKind::Encoder).iter().try_for_each(|workload| bench.encoder(&model, workload))?;
        }
        if options.has(Section::Decode) {
            bench.decode(&model, &of(WorkloadKind::Decode))?;
        }
        if options.has(Section::Train) {
            of(WorkloadKind::Train).iter().try_for_each(|workload| bench.train(&model, workload))?;
        }
    }
    Ok((bench.report, bench.traces))
}

/// A run under way.
struct Bench<'a, 'p> {
    gpu: &'a Gpu,
    options: &'a BenchOptions,
    report: BenchReport,
    traces: Vec<Trace>,
    progress: &'a mut Progress<'p>,
}

impl Bench<'_, '_> {
    /// Times the arms in turn.
    fn time(&mut self, arms: &mut [Arm<'_>]) -> Result<Vec<Spread>> {
        in_turn(arms, self.options.budget(), self.progress)
    }
}
