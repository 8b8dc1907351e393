//! Shows training and evaluation: a bar on a terminal, plain lines elsewhere, JSON lines for programs.

use std::io::{self, ErrorKind};
use std::time::Duration;

use t5_wgpu::gpu::{Compiling, Gpu};
use t5_wgpu::recipe::conductor::Watch;
use t5_wgpu::train::tensorboard::{self, TensorBoard, scalars_of};
use t5_wgpu::train::{Evaluation, Event, Outcome, StepLog, Trainer};
use t5_wgpu::tune::{Decision, DecisionSource, Mode, TuneBudget, Tuner};

use super::console::{can_draw, doing, duration, end_progress, note, print, show_progress, waiting_for};
use super::screen::Screen;
use super::{TuneArgs, signals};

/// Passes over the device from which on a run measures kernels unless told otherwise.
const LEAST_PASSES: u64 = 200;

/// Largest share of a limited time that goes into measuring.
const SHARE_OF_TIME: f64 = 0.05;

/// What chooses the kernels of a run of so many passes. Measuring takes seconds; a short run would not earn them back.
pub fn tuner(args: &TuneArgs, gpu: &Gpu, passes: u64, limit: Option<Duration>) -> Tuner {
    let default = if passes < LEAST_PASSES { Mode::Cache } else { Mode::On };
    let mut budget = TuneBudget::for_run();
    if let Some(limit) = limit {
        budget.total = budget.total.min(limit.mul_f64(SHARE_OF_TIME));
    }
    args.open(gpu, default, budget)
}

/// Said in a long silence: the last line stands.
const STILL: &str = "...";

/// Lets long silences tell how far compiling has come.
pub fn show_compiling(gpu: &Gpu) {
    gpu.on_compile(|Compiling { done, total, .. }| {
        waiting_for((done < total).then(|| format!("compiling kernels {done}/{total}")));
    });
}

/// How a run is shown.
#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub struct LookArgs {
    /// Print nothing but warnings and errors
    #[arg(long, short, help_heading = "Output", conflicts_with_all = ["json", "screen"])]
    pub quiet: bool,
    /// Print events as JSON, one a line, as in log.jsonl
    #[arg(long, help_heading = "Output", conflicts_with = "screen")]
    pub json: bool,
    /// Show the training in full screen, with its loss curve
    #[arg(long, help_heading = "Output")]
    pub screen: bool,
    /// Also write events for TensorBoard, into the folder `tensorboard` beside log.jsonl
    #[arg(long, help_heading = "Output")]
    pub tensorboard: bool,
}

impl LookArgs {
    /// Whether a person reads along.
    pub fn is_human(&self) -> bool {
        !self.quiet && !self.json
    }
}

pub struct Renderer {
    style: Style,
    look: LookArgs,
    /// Whether a line below all others shows the progress.
    has_bar: bool,
    screen: Option<Screen>,
    board: Option<TensorBoard>,
    /// Why events could not be printed.
    unprinted: Option<io::Error>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Human,
    Json,
    Quiet,
}

impl Renderer {
    pub fn new(look: LookArgs) -> Renderer {
        let style = match (look.quiet, look.json) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Json,
            (false, false) => Style::Human,
        };
        Renderer { style, look, has_bar: false, screen: None, board: None, unprinted: None }
    }

    /// Takes the bar away.
    pub fn end(&mut self) {
        self.has_bar = false;
        end_progress();
        if let Some(mut screen) = self.screen.take() {
            screen.end();
        }
        self.board = None;
    }

    /// The error if events could not be printed, now that the work is done. A reader that has had enough is none.
    pub fn printed(self) -> anyhow::Result<()> {
        match self.unprinted {
            Some(e) if e.kind() != ErrorKind::BrokenPipe => {
                Err(anyhow::Error::new(e).context("the work is done, but not all of its events were printed"))
            }
            _ => Ok(()),
        }
    }

    /// Prints a line of JSON. Training goes on where that fails, and the command fails when it has ended.
    fn print_json(&mut self, event: &impl serde::Serialize) {
        let line = serde_json::to_string(event).map_err(io::Error::from);
        if let Err(e) = line.and_then(|line| print(&format!("{line}\n"))) {
            if self.unprinted.is_none() && e.kind() != ErrorKind::BrokenPipe {
                note!("warning: events are lost: {e}");
            }
            self.unprinted.get_or_insert(e);
        }
    }

    /// Says so whenever nothing else has been said for long, unless a bar or screen moves.
    fn doing(&self, what: &str) {
        doing(if self.has_bar || self.screen.is_some() { "" } else { what });
    }

    fn say(&self, text: &str) {
        if self.style == Style::Human {
            note!("{text}");
        }
    }

    /// Says what is about to be trained and puts up the bar.
    fn begin(&mut self, trainer: &Trainer) {
        let (engine, settings) = (trainer.engine(), trainer.settings());
        let [params, grads, moments, activations] = engine.memory().map(|bytes| bytes as f64 / f64::from(1 << 20));
        self.say(&format!(
            "{:.2} million parameters; MiB on the device: {params:.0} parameters, {grads:.0} gradients, {moments:.0} \
             moments, {activations:.0} activations{}",
            engine.model.layout.n_params() as f64 / 1e6,
            if settings.recompute { " (computed again for the gradients)" } else { "" }
        ));
        match trainer.step() {
            0 => self.say(&format!(
                "{} steps of {} x {} {}",
                settings.steps,
                settings.batch_size,
                settings.accumulate,
                if settings.batching.is_packed() { "rows of examples" } else { "examples" }
            )),
            step => self.say(&format!("continuing after step {step} of {}", settings.steps)),
        }
        self.has_bar = self.style == Style::Human && !self.look.screen && can_draw(&io::stderr());
        if self.has_bar {
            show_progress(trainer.step(), settings.steps, "");
        }
    }

    fn show(&mut self, event: &Event) {
        match (self.style, event) {
            (Style::Json, _) => self.print_json(event),
            (_, Event::Warning { step, what }) => note!("warning: step {step}: {what}"),
            (Style::Quiet, _) => {}
            (Style::Human, Event::Step(log)) => self.step(log),
            (Style::Human, Event::Evaluation { step, evaluation, metric, value, best }) => {
                let mark = if *best { " (best so far)" } else { "" };
                note!("step {step}: {metric} {value:.4}{mark}");
                self.results(evaluation);
            }
            (Style::Human, Event::EndsEarly { step, evaluations }) => {
                note!("step {step}: ending early, no better for {evaluations} evaluations");
            }
            (Style::Human, Event::Kernels { seconds, choices, .. }) => self.kernels(*seconds, choices),
            (Style::Human, Event::Saved { .. } | Event::Norms { .. }) => {}
        }
    }

    fn results(&self, evaluation: &Evaluation) {
        for (name, task) in &evaluation.tasks {
            let metrics: String =
                task.scores.iter().map(|score| format!(", {} {:.2}", score.name, score.value)).collect();
            let bits = task.bits_per_byte.map_or(String::new(), |bits| format!(", {bits:.3} bits per byte"));
            note!(
                "  {name}: loss {:.4}, token accuracy {:.2} %{bits}{metrics} ({} examples)",
                task.loss,
                100.0 * task.accuracy,
                task.examples
            );
        }
    }

    fn kernels(&self, seconds: f64, choices: &[Decision]) {
        let of = |source| choices.iter().filter(|c| c.source == source).count();
        let other = choices.iter().filter(|c| c.variant != c.rule).count();
        note!(
            "kernels for {} classes of shapes: {} measured ({seconds:.1} s), {} known, {} by rule; {other} other than the rule's",
            choices.len(),
            of(DecisionSource::Measured),
            of(DecisionSource::Cache),
            of(DecisionSource::Rule)
        );
    }

    fn step(&self, log: &StepLog) {
        let text = format!(
            "loss {:.4}  accuracy {:.1} %  lr {:.2e}  norm {:.2}  {:.0} tokens/s",
            log.loss,
            100.0 * log.accuracy,
            log.lr,
            log.grad_norm,
            log.tokens_per_second
        );
        let left = duration(log.time_left);
        if self.has_bar {
            // First, since a narrow terminal cuts the end.
            show_progress(log.step, log.steps, &format!("{left} left  {text}"));
        } else {
            note!("step {}/{}  {text}  {left} left", log.step, log.steps);
            self.doing(STILL);
        }
    }
}

impl Watch for Renderer {
    fn remark(&mut self, text: &str) {
        self.say(text);
        self.doing(STILL);
    }

    fn training(&mut self, stage: &str, trainer: &Trainer) {
        signals::set_saves(true);
        self.begin(trainer);
        if self.look.tensorboard {
            match TensorBoard::open(&trainer.folder().join(tensorboard::FOLDER), trainer.step()) {
                Ok(board) => self.board = Some(board),
                Err(error) => note!("warning: no events for TensorBoard: {error}"),
            }
        }
        if self.look.screen {
            match Screen::open(stage, signals::interrupt) {
                Ok(screen) => self.screen = screen,
                Err(error) => note!("warning: no full-screen view: {error}"),
            }
        }
        self.doing(STILL);
    }

    fn event(&mut self, event: &Event) {
        match &mut self.screen {
            Some(screen) => screen.show(event),
            None => self.show(event),
        }
        if let Some(board) = &mut self.board
            && let Err(error) = record(board, event)
        {
            self.board = None;
            note!("warning: no more events for TensorBoard: {error}");
        }
    }

    fn evaluated(&mut self, stage: &str, evaluation: &Evaluation) {
        if self.style == Style::Json {
            self.print_json(&serde_json::json!({"event": "evaluated", "stage": stage, "tasks": evaluation.tasks}));
        } else if self.style == Style::Human {
            self.results(evaluation);
        }
    }

    fn trained(&mut self, trainer: &Trainer, outcome: Outcome) {
        signals::set_saves(false);
        let folder = trainer.folder();
        self.end();
        let best = trainer.best().map_or(String::new(), |best| {
            format!(
                "; best {} {:.4} at step {} in {}",
                best.metric,
                best.value,
                best.step,
                folder.join("best").display()
            )
        });
        let steps = trainer.settings().steps;
        match outcome {
            Outcome::Finished => {
                self.say(&format!("finished after step {steps} in {}{best}", folder.join("last").display()))
            }
            Outcome::EndedEarly { step } => {
                self.say(&format!("ended after step {step} of {steps} in {}{best}", folder.join("last").display()));
            }
            Outcome::Stopped { step } => {
                let why = if signals::interrupted() { "stopped" } else { "the time is up" };
                self.say(&format!("{why} after step {step} of {steps}{best}"));
            }
        }
    }
}

/// Writes the figures of an event for TensorBoard.
fn record(board: &mut TensorBoard, event: &Event) -> anyhow::Result<()> {
    let Some((step, scalars)) = scalars_of(&serde_json::to_value(event)?) else { return Ok(()) };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs_f64();
    let scalars: Vec<(&str, f64)> = scalars.iter().map(|(tag, value)| (tag.as_str(), *value)).collect();
    Ok(board.scalars(step, now, &scalars)?)
}
