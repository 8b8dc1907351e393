//! Which curves are drawn: per stage, one figure a quantity, with all runs in it.

use std::collections::{BTreeMap, BTreeSet};

use super::read::{Evaluation, Run, Stage, Step};
use crate::data::metrics::Direction;

/// More points than this on a curve are not told apart.
const MAX_POINTS: usize = 320;

/// A quantity over the course of training.
pub(super) struct Figure {
    pub title: String,
    /// What is measured, and in what.
    pub about: &'static str,
    pub better: Option<Direction>,
    pub curves: Vec<Curve>,
}

/// One run's values.
pub(super) struct Curve {
    /// Index among the runs, which gives the colour.
    pub run: usize,
    pub kind: Kind,
    pub points: Vec<Point>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As logged, behind a smoothed line.
    Raw,
    Line,
    /// A line with a dot at each value: evaluations are few.
    Dots,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Point {
    pub at: Place,
    pub y: f64,
    /// Of a mean, the standard deviation of what it is the mean of.
    pub spread: f64,
}

/// How far training was, in three measures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Place {
    pub step: f64,
    pub tokens: f64,
    /// Seconds.
    pub elapsed: f64,
}

/// The figures of the stage of this name, of those runs that have it.
pub(super) fn of_stage(runs: &[Run], name: &str) -> Vec<Figure> {
    let stages: Vec<(usize, &Stage)> = runs
        .iter()
        .enumerate()
        .filter_map(|(i, run)| Some((i, run.stages.iter().find(|stage| stage.name == name)?)))
        .collect();
    let mut figures = vec![Figure {
        better: Some(Direction::Lower),
        ..noisy(&stages, "Training loss", "nats per token, smoothed", |step| step.loss)
    }];
    let tasks: BTreeSet<&String> =
        stages.iter().flat_map(|(_, s)| s.evaluations.iter().flat_map(|e| e.tasks.keys())).collect();
    for task in tasks {
        figures.extend(task_figures(&stages, task));
    }
    figures.push(Figure {
        title: "Learning rate".into(),
        about: "",
        better: None,
        curves: curves(&stages, Kind::Line, |stage| thin(&logged(stage, |step| step.lr))),
    });
    figures.push(noisy(&stages, "Gradient norm", "before clipping, smoothed", |step| step.grad_norm));
    figures.push(noisy(&stages, "Speed", "tokens per second, smoothed", |step| step.tokens_per_second));
    figures.retain(|figure| !figure.curves.is_empty());
    figures
}

/// The values as logged, and a smoothed line over them.
fn noisy(stages: &[(usize, &Stage)], title: &str, about: &'static str, value: fn(&Step) -> Option<f64>) -> Figure {
    let raw = curves(stages, Kind::Raw, |stage| thin(&logged(stage, value)));
    let smooth = curves(stages, Kind::Line, |stage| thin(&smoothed(&logged(stage, value))));
    Figure { title: title.into(), about, better: None, curves: raw.into_iter().chain(smooth).collect() }
}

fn task_figures(stages: &[(usize, &Stage)], task: &str) -> Vec<Figure> {
    let evaluated = |title: String, about, better, value: &dyn Fn(&Evaluation) -> Option<f64>| Figure {
        title,
        about,
        better: Some(better),
        curves: curves(stages, Kind::Dots, |stage| {
            let point = |e: &Evaluation| Some(Point { at: place(&stage.steps, e.step), y: value(e)?, spread: 0.0 });
            stage.evaluations.iter().filter_map(point).collect()
        }),
    };
    let metrics: BTreeMap<&str, Direction> = stages
        .iter()
        .flat_map(|(_, s)| s.evaluations.iter().filter_map(|e| e.tasks.get(task)))
        .flat_map(|figures| figures.named().into_iter().map(|(name, _, better)| (name, better)))
        .collect();
    let mut figures: Vec<Figure> = metrics
        .into_iter()
        .map(|(metric, better)| {
            let value = |e: &Evaluation| {
                e.tasks.get(task)?.named().into_iter().find(|(name, ..)| *name == metric).map(|(_, value, _)| value)
            };
            evaluated(format!("{task} · {metric}"), "held out", better, &value)
        })
        .collect();
    let loss = |e: &Evaluation| e.tasks.get(task)?.loss;
    figures.push(evaluated(format!("{task} · loss"), "held out, nats per token", Direction::Lower, &loss));
    figures
}

fn curves(stages: &[(usize, &Stage)], kind: Kind, points: impl Fn(&Stage) -> Vec<Point>) -> Vec<Curve> {
    let curves = stages.iter().map(|(run, stage)| Curve { run: *run, kind, points: points(stage) });
    curves.filter(|curve| !curve.points.is_empty()).collect()
}

fn logged(stage: &Stage, value: fn(&Step) -> Option<f64>) -> Vec<Point> {
    stage.steps.iter().filter_map(|step| Some(Point { at: place_of(step), y: value(step)?, spread: 0.0 })).collect()
}

fn place_of(step: &Step) -> Place {
    Place { step: step.step as f64, tokens: step.tokens as f64, elapsed: step.elapsed.unwrap_or(0.0) }
}

/// Where training was at `step`, between the log's lines in proportion.
fn place(steps: &[Step], step: u64) -> Place {
    let behind = steps.partition_point(|line| line.step < step);
    let before = behind.checked_sub(1).map_or(Place::default(), |i| place_of(&steps[i]));
    let Some(after) = steps.get(behind).map(place_of) else { return Place { step: step as f64, ..before } };
    let share = (step as f64 - before.step) / (after.step - before.step).max(1.0);
    let between = |a: f64, b: f64| a + share * (b - a);
    Place {
        step: step as f64,
        tokens: between(before.tokens, after.tokens),
        elapsed: between(before.elapsed, after.elapsed),
    }
}

/// An exponential mean to both sides, which reaches over some twentieth of the curve and lags to neither.
fn smoothed(points: &[Point]) -> Vec<Point> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 40.0).max(1.0);
    let mut sums: Vec<(f64, f64)> = points.iter().map(|_| (0.0, 0.0)).collect();
    let mut sweep = |order: &mut dyn Iterator<Item = usize>| {
        let (mut sum, mut weight) = (0.0, 0.0);
        for i in order {
            sum = keep * sum + points[i].y;
            weight = keep * weight + 1.0;
            sums[i] = (sums[i].0 + sum, sums[i].1 + weight);
        }
    };
    sweep(&mut (0..points.len()));
    sweep(&mut (0..points.len()).rev());
    points.iter().zip(sums).map(|(point, (sum, weight))| Point { y: sum / weight, ..*point }).collect()
}

/// At most [`MAX_POINTS`], the last one among them; of the others the last in each stretch.
fn thin(points: &[Point]) -> Vec<Point> {
    let every = points.len().div_ceil(MAX_POINTS).max(1);
    points.rchunks(every).rev().filter_map(|stretch| stretch.last().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[f64]) -> Vec<Point> {
        let at = |i: usize| Place { step: i as f64, ..Place::default() };
        values.iter().enumerate().map(|(i, &y)| Point { at: at(i), y, spread: 0.0 }).collect()
    }

    #[test]
    fn smoothing_keeps_constants_and_short_curves() {
        assert!(smoothed(&points(&[2.0; 400])).iter().all(|p| (p.y - 2.0).abs() < 1e-12));
        assert_eq!(smoothed(&points(&[1.0, 5.0, 2.0])), points(&[1.0, 5.0, 2.0]));
    }

    #[test]
    fn thinning_keeps_the_end() {
        let many = points(&(0..1000).map(f64::from).collect::<Vec<_>>());
        let few = thin(&many);
        assert!(few.len() <= MAX_POINTS && few.len() > MAX_POINTS / 2);
        assert_eq!(few.last(), many.last());
    }

    #[test]
    fn evaluations_find_their_place() {
        let line = |step, tokens, elapsed| Step { step, tokens, elapsed: Some(elapsed), ..Step::default() };
        let steps = [line(10, 100, 1.0), line(20, 300, 3.0)];
        assert_eq!(place(&steps, 15), Place { step: 15.0, tokens: 200.0, elapsed: 2.0 });
        assert_eq!(place(&steps, 20), Place { step: 20.0, tokens: 300.0, elapsed: 3.0 });
        assert_eq!(place(&steps, 0), Place::default());
        assert_eq!(place(&steps, 25), Place { step: 25.0, tokens: 300.0, elapsed: 3.0 });
    }
}
