//! The picture on the screen: a pure function of the events so far.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Chart, Dataset, Gauge, GraphType, Paragraph, Wrap};
use serde_json::Value;
use t5_wgpu::train::Event;

use crate::cli::console::duration;

/// The most points of a curve; a longer one has its neighbours merged.
const MAX_POINTS: usize = 2048;

/// Evaluations and warnings that are kept.
const MAX_LINES: usize = 32;

/// A narrower screen has the figures below the curve instead of beside it.
const WIDE: u16 = 80;

#[derive(Default)]
pub struct View {
    title: String,
    /// The last line of figures, as in `log.jsonl`.
    figures: Value,
    losses: Vec<(f64, f64)>,
    held_out: Vec<(f64, f64)>,
    /// Newest first.
    evaluations: VecDeque<String>,
    warnings: VecDeque<String>,
}

impl View {
    pub fn new(title: &str) -> View {
        View { title: title.to_owned(), ..View::default() }
    }

    /// Reads an event by the names that it has in `log.jsonl`.
    pub fn take(&mut self, event: &Event) {
        if let Ok(record) = serde_json::to_value(event) {
            self.record(record);
        }
    }

    pub fn draw(&self, frame: &mut Frame, stopping: bool) {
        let below = if frame.area().height >= 24 { 7 } else { 4 };
        let [top, middle, bottom] =
            Layout::vertical([Constraint::Length(3), Constraint::Min(6), Constraint::Length(below)])
                .areas(frame.area());
        self.draw_progress(frame, top, stopping);
        let (curve, figures) = if frame.area().width >= WIDE {
            let [curve, figures] = Layout::horizontal([Constraint::Min(40), Constraint::Length(28)]).areas(middle);
            (curve, figures)
        } else {
            let [curve, figures] = Layout::vertical([Constraint::Min(6), Constraint::Length(6)]).areas(middle);
            (curve, figures)
        };
        self.draw_curve(frame, curve);
        self.draw_figures(frame, figures);
        let [left, right] = Layout::horizontal([Constraint::Percentage(60), Constraint::Percentage(40)]).areas(bottom);
        draw_lines(frame, left, "evaluations", &self.evaluations, Color::Reset);
        draw_lines(frame, right, "warnings", &self.warnings, Color::Yellow);
    }

    fn record(&mut self, record: Value) {
        let step = record["step"].as_f64().unwrap_or(0.0);
        match record["event"].as_str() {
            Some("step") => {
                if let Some(loss) = record["loss"].as_f64() {
                    push(&mut self.losses, (step, loss));
                }
                self.figures = record;
            }
            Some("evaluation") => {
                let (loss, line) = evaluation(step, &record);
                if let Some(loss) = loss {
                    push(&mut self.held_out, (step, loss));
                }
                remember(&mut self.evaluations, line);
            }
            Some("warning") => {
                remember(&mut self.warnings, format!("step {step}: {}", record["what"].as_str().unwrap_or_default()));
            }
            _ => {}
        }
    }

    fn draw_progress(&self, frame: &mut Frame, area: Rect, stopping: bool) {
        let (step, steps) = (self.figure("step").unwrap_or(0.0), self.figure("steps").unwrap_or(0.0));
        let share = if steps > 0.0 { (step / steps).clamp(0.0, 1.0) } else { 0.0 };
        let left = self.figure("time_left").map_or(String::new(), |left| format!("   {} left", duration(left)));
        let label = match (stopping, steps > 0.0) {
            (true, _) => "stopping after this step (once more: at once)".to_owned(),
            (false, true) => format!("step {step} of {steps}   {:.1} %{left}", 100.0 * share),
            (false, false) => "starting".to_owned(),
        };
        let hint = Line::from(" q: stop ").right_aligned();
        let block = Block::bordered().title(format!(" {} ", self.title).bold()).title(hint);
        let style = Style::new().fg(if stopping { Color::Yellow } else { Color::Cyan });
        frame.render_widget(Gauge::default().block(block).gauge_style(style).ratio(share).label(label), area);
    }

    fn draw_curve(&self, frame: &mut Frame, area: Rect) {
        let values = || self.losses.iter().chain(&self.held_out);
        let low = values().map(|p| p.1).fold(f64::INFINITY, f64::min);
        let high = values().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
        let block = Block::bordered().title(" loss ");
        if low > high {
            frame.render_widget(Paragraph::new("no step yet").block(block), area);
            return;
        }
        let (bottom, top, unit) = nice(low, high);
        let (first, last) = values().map(|p| p.0).fold((f64::INFINITY, 0.0f64), |(a, b), x| (a.min(x), b.max(x)));
        let last = last.max(first + 1.0);
        let smooth = smoothed(&self.losses);
        let curve = |name: &'static str, data, color, kind| {
            Dataset::default().name(name).marker(Marker::Braille).graph_type(kind).style(color).data(data)
        };
        let curves = vec![
            curve("training, each", &self.losses, Color::DarkGray, GraphType::Scatter),
            curve("training, smooth", &smooth, Color::Cyan, GraphType::Line),
            curve("held out", &self.held_out, Color::Yellow, GraphType::Line),
        ];
        let digits = (-unit.log10().floor()).max(0.0) as usize;
        let labels = [bottom, (bottom + top) / 2.0, top].map(|y| format!("{y:.*}", digits + 1));
        let steps = [first, ((first + last) / 2.0).round(), last].map(|x| format!("{x}"));
        let chart = Chart::new(curves)
            .block(block)
            .hidden_legend_constraints((Constraint::Percentage(60), Constraint::Percentage(60)))
            .x_axis(Axis::default().bounds([first, last]).labels(steps))
            .y_axis(Axis::default().bounds([bottom, top]).labels(labels));
        frame.render_widget(chart, area);
    }

    fn draw_figures(&self, frame: &mut Frame, area: Rect) {
        let rows = [
            ("loss", self.figure("loss").map(|x| format!("{x:.4}"))),
            ("accuracy", self.figure("accuracy").map(|x| format!("{:.2} %", 100.0 * x))),
            ("learning rate", self.figure("lr").map(|x| format!("{x:.2e}"))),
            ("gradient norm", self.figure("grad_norm").map(|x| format!("{x:.3}"))),
            ("tokens/s", self.figure("tokens_per_second").map(|x| format!("{x:.0}"))),
            ("tokens", self.figure("tokens").map(|x| format!("{x}"))),
            ("padding", self.figure("padding").map(|x| format!("{:.1} %", 100.0 * x))),
            ("epoch", self.figure("epoch").map(|x| format!("{x:.2}"))),
            ("left out", self.figure("skipped").filter(|x| *x > 0.0).map(|x| format!("{x} steps"))),
            ("time", self.figure("elapsed").map(duration)),
        ];
        let known = rows.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let cells =
            known.map(|(name, value)| Line::from(vec![Span::from(format!("{name:<14}")).dim(), Span::from(value)]));
        let columns = usize::from(area.width / 28).max(1);
        let lines: Vec<Line> = cells.collect();
        let height = lines.len().div_ceil(columns).max(1);
        let block = Block::bordered().title(" figures ");
        let inner = block.inner(area);
        frame.render_widget(block, area);
        let places = Layout::horizontal(vec![Constraint::Fill(1); columns]).split(inner);
        for (lines, place) in lines.chunks(height).zip(places.iter()) {
            frame.render_widget(Paragraph::new(lines.to_vec()), *place);
        }
    }

    fn figure(&self, name: &str) -> Option<f64> {
        self.figures[name].as_f64()
    }
}

/// The held-out loss (of all tasks, by their tokens) and a line about it.
fn evaluation(step: f64, record: &Value) -> (Option<f64>, String) {
    let mark = if record["best"] == true { "  best so far" } else { "" };
    let one = |what: &Value| what["loss"].as_f64().map_or(String::new(), |loss| format!("loss {loss:.4}"));
    let Some(tasks) = record["tasks"].as_object() else {
        return (record["loss"].as_f64(), format!("step {step}: {}{mark}", one(record)));
    };
    let (mut sum, mut tokens) = (0.0, 0.0);
    let mut parts = Vec::new();
    for (name, task) in tasks {
        if let (Some(loss), Some(n)) = (task["loss"].as_f64(), task["tokens"].as_f64()) {
            sum += loss * n;
            tokens += n;
        }
        let metrics = task["metrics"].as_object().into_iter().flatten();
        let metrics = metrics.filter_map(|(name, value)| Some(format!("{name} {:.2}", value.as_f64()?)));
        parts.push([format!("{name} {}", one(task))].into_iter().chain(metrics).collect::<Vec<_>>().join(", "));
    }
    ((tokens > 0.0).then(|| sum / tokens), format!("step {step}: {}{mark}", parts.join("; ")))
}

fn remember(lines: &mut VecDeque<String>, line: String) {
    lines.push_front(line);
    lines.truncate(MAX_LINES);
}

/// Adds a point; a curve that is full keeps the mean of each two neighbours.
fn push(curve: &mut Vec<(f64, f64)>, point: (f64, f64)) {
    if curve.len() == MAX_POINTS {
        *curve = curve
            .chunks(2)
            .map(|pair| (pair[pair.len() - 1].0, pair.iter().map(|p| p.1).sum::<f64>() / pair.len() as f64))
            .collect();
    }
    curve.push(point);
}

/// The mean of what came before, weighted by e^(-age / (a fiftieth of the curve)).
fn smoothed(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = (-1.0 / (curve.len() as f64 / 50.0).max(1.0)).exp();
    let (mut sum, mut weight) = (0.0, 0.0);
    let mean = |&(x, y): &(f64, f64)| {
        sum = keep * sum + y;
        weight = keep * weight + 1.0;
        (x, sum / weight)
    };
    curve.iter().map(mean).collect()
}

/// (bottom, top, unit): the values' range, widened to even multiples of a unit of 1, 2 or 5 times a power of ten.
fn nice(low: f64, high: f64) -> (f64, f64, f64) {
    let span = (high - low).max(1e-6 * high.abs()).max(1e-9);
    let power = 10f64.powf((span / 4.0).log10().floor());
    let unit = [1.0, 2.0, 5.0].map(|m| m * power).into_iter().find(|unit| span / unit <= 5.0).unwrap_or(10.0 * power);
    let bottom = (low / unit).floor() * unit;
    (bottom, ((high / unit).ceil() * unit).max(bottom + unit), unit)
}

fn draw_lines(frame: &mut Frame, area: Rect, title: &str, lines: &VecDeque<String>, color: Color) {
    let text: Vec<Line> = lines.iter().map(|line| Line::from(line.as_str())).collect();
    let block = Block::bordered().title(format!(" {title} "));
    frame.render_widget(Paragraph::new(text).style(color).wrap(Wrap { trim: true }).block(block), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;
    use serde_json::json;

    fn picture(view: &View, width: u16, height: u16, stopping: bool) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| view.draw(frame, stopping)).unwrap();
        terminal.backend().to_string()
    }

    fn run() -> View {
        let mut view = View::new("runs/g2p");
        for i in 1..=40 {
            let loss = 0.5 + 4.0 * (-f64::from(i) / 12.0).exp();
            view.record(json!({"event": "step", "step": 5 * i, "steps": 400, "epoch": 0.5, "loss": loss, "accuracy": 0.4,
                "lr": 0.001, "grad_norm": 1.25, "clip": 1.0, "skipped": 0, "tokens": 12_345, "tokens_per_second": 2000.0,
                "elapsed": 65.0, "time_left": 4000.0, "padding": 0.125}));
        }
        view.record(json!({"event": "evaluation", "step": 100, "best": true, "tasks": {
            "a": {"tokens": 100, "loss": 1.0, "metrics": {"per": 10.1}}, "b": {"tokens": 300, "loss": 2.0, "metrics": {}}}}));
        view.record(json!({"event": "warning", "step": 3, "what": "a gradient was not finite"}));
        view.record(json!({"event": "another"}));
        view
    }

    #[test]
    fn the_screen_shows_all_of_a_run() {
        let view = run();
        assert_eq!(view.held_out, [(100.0, 1.75)]);
        let wide = picture(&view, 110, 30, false);
        for part in [
            "runs/g2p",
            "q: stop",
            "step 200 of 400   50.0 %   1 h 06 min left",
            "gradient norm 1.250",
            "padding       12.5 %",
            "tokens/s      2000",
            "time          1 min 05 s",
            "step 100: a loss 1.0000, per 10.10; b loss 2.0000",
            "best so far",
            "step 3: a gradient was not finite",
            "training, smooth",
            "200",
            "0.0",
            "5.0",
        ] {
            assert!(wide.contains(part), "`{part}` is not in\n{wide}");
        }
        assert!(wide.chars().any(|c| ('\u{2801}'..='\u{28ff}').contains(&c)), "{wide}");
        let narrow = picture(&view, 60, 24, true);
        assert!(narrow.contains("stopping after this step") && narrow.contains("gradient norm 1.250"), "{narrow}");
    }

    #[test]
    fn any_size_and_any_event_can_be_drawn() {
        for (width, height) in [(1, 1), (10, 4), (79, 12), (80, 12), (300, 100)] {
            picture(&View::new("x"), width, height, false);
            picture(&run(), width, height, true);
        }
        let mut view = View::new("x");
        view.record(json!({"event": "step", "step": 1, "loss": null}));
        view.record(json!({"event": "step", "step": 2, "steps": 4, "loss": 2.0}));
        view.record(json!({"event": "evaluation", "step": 2, "loss": 1.5, "best": false}));
        let picture = picture(&view, 100, 30, false);
        assert!(picture.contains("step 2: loss 1.5000"), "{picture}");
    }

    #[test]
    fn long_curves_are_thinned_and_ranges_are_nice() {
        let mut curve = Vec::new();
        (0..10 * MAX_POINTS).for_each(|i| push(&mut curve, (i as f64, 3.0)));
        assert!(curve.len() <= MAX_POINTS && curve.iter().all(|p| p.1 == 3.0));
        assert_eq!(nice(0.83, 4.4), (0.0, 5.0, 1.0));
        let (bottom, top, unit) = nice(2.0, 2.0);
        assert!(bottom <= 2.0 && top > 2.0 && top - bottom < 1e-5 && unit > 0.0);
    }
}
