//! How a run looks: a bar on a terminal, plain lines elsewhere, JSON lines for programs.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use t5_wgpu::train::{Event, StepLog, Trainer};
use t5_wgpu::tune::{Decision, Source};

pub struct Renderer {
    style: Style,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Human,
    Json,
    Quiet,
}

impl Renderer {
    pub fn new(quiet: bool, json: bool) -> Renderer {
        let style = match (quiet, json) {
            (true, _) => Style::Quiet,
            (false, true) => Style::Json,
            (false, false) => Style::Human,
        };
        Renderer { style, bar: None }
    }

    pub fn remark(&self, text: &str) {
        if self.style == Style::Human {
            eprintln!("{text}");
        }
    }

    /// Says what is about to be trained and puts up the bar.
    pub fn begin(&mut self, trainer: &Trainer) {
        let (engine, settings) = (trainer.engine(), trainer.settings());
        let [params, grads, moments, activations] = engine.memory().map(|bytes| bytes as f64 / f64::from(1 << 20));
        self.remark(&format!(
            "{:.2} million parameters; MiB on the device: {params:.0} parameters, {grads:.0} gradients, {moments:.0} \
             moments, {activations:.0} activations{}",
            engine.model.layout.n_params() as f64 / 1e6,
            if settings.recompute { " (computed again for the gradients)" } else { "" }
        ));
        match trainer.step() {
            0 => self.remark(&format!(
                "{} steps of {} x {} examples",
                settings.steps, settings.batch_size, settings.accumulate
            )),
            step => self.remark(&format!("continuing after step {step} of {}", settings.steps)),
        }
        if self.style == Style::Human && io::stderr().is_terminal() {
            let bar = ProgressBar::with_draw_target(Some(settings.steps), ProgressDrawTarget::stderr());
            // The template is a constant that parses.
            if let Ok(style) = ProgressStyle::with_template("{bar:24} {pos}/{len} {msg}") {
                bar.set_style(style);
            }
            bar.set_position(trainer.step());
            self.bar = Some(bar);
        }
    }

    pub fn show(&self, event: &Event) {
        match (self.style, event) {
            (Style::Json, _) => print_json(event),
            (_, Event::Warning { step, what }) => self.line(&format!("warning: step {step}: {what}")),
            (Style::Quiet, _) => {}
            (Style::Human, Event::Step(log)) => self.step(log),
            (Style::Human, Event::Evaluation { step, evaluation, best }) => {
                let scores = evaluation.scores.map_or(String::new(), |scores| format!(", {scores}"));
                let mark = if *best { " (best so far)" } else { "" };
                let (loss, accuracy) = (evaluation.loss, 100.0 * evaluation.accuracy);
                self.line(&format!("step {step}: held-out loss {loss:.4}, accuracy {accuracy:.2} %{scores}{mark}"));
            }
            (Style::Human, Event::Kernels { seconds, choices, .. }) => self.kernels(*seconds, choices),
            (Style::Human, Event::Saved { .. }) => {}
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    pub fn finished(&self, trainer: &Trainer, out: &Path) {
        let best = trainer.best().map_or(String::new(), |best| {
            format!("; best {} {:.4} at step {} in {}", best.metric, best.value, best.step, out.join("best").display())
        });
        self.remark(&format!("finished after step {} in {}{best}", trainer.step(), out.join("last").display()));
    }

    fn kernels(&self, seconds: f64, choices: &[Decision]) {
        let of = |source| choices.iter().filter(|c| c.source == source).count();
        let other = choices.iter().filter(|c| c.variant != c.rule).count();
        self.line(&format!(
            "kernels for {} classes of shapes: {} measured ({seconds:.1} s), {} known, {} by rule; {other} other than the rule's",
            choices.len(),
            of(Source::Measured),
            of(Source::Cache),
            of(Source::Rule)
        ));
    }

    fn step(&self, log: &StepLog) {
        let left = HumanDuration(Duration::from_secs_f64(log.time_left.clamp(0.0, 1e9)));
        let text = format!(
            "loss {:.4}  accuracy {:.1} %  lr {:.2e}  norm {:.2}  {:.0} tokens/s  {left:#} left",
            log.loss,
            100.0 * log.accuracy,
            log.lr,
            log.grad_norm,
            log.tokens_per_second
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(log.step);
                bar.set_message(text);
            }
            None => eprintln!("step {}/{}  {text}", log.step, log.steps),
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

/// A reader that stopped listening does not stop the training.
fn print_json(event: &Event) {
    if let Ok(line) = serde_json::to_string(event) {
        let _ = writeln!(io::stdout(), "{line}");
    }
}
