//! A page about groups of runs that differ in their seed alone: curves as means with bands, results as means with intervals.

use std::fmt::Write;
use std::path::PathBuf;

use super::figures::{self, Curve, Figure, Kind, Place, Point};
use super::page::{Page, document, escape, section};
use super::read::Run;
use super::scale::Scale;
use super::svg::{class_of, line, text};
use crate::error::Result;

/// Runs of the same settings.
pub(crate) struct Group {
    pub name: String,
    pub folders: Vec<PathBuf>,
}

/// One result of all groups.
pub(crate) struct Bars {
    pub title: String,
    pub about: String,
    pub intervals: Vec<Interval>,
}

/// A mean, its standard deviation to both sides, and what it is the mean of.
pub(crate) struct Interval {
    pub group: usize,
    pub name: String,
    pub mean: f64,
    pub deviation: f64,
    pub values: Vec<f64>,
    /// Whether the others are compared with it.
    pub is_baseline: bool,
}

/// Points of a mean curve.
const MOST_POINTS: usize = 160;

/// The page: what is asked, results, curves, tables.
///
/// # Errors
/// A run cannot be read.
pub(crate) fn groups_page(
    (title, about): (&str, &str),
    groups: &[Group],
    bars: &[Bars],
    tables: &str,
    remarks: &mut Vec<String>,
) -> Result<String> {
    let (mut runs, mut group_of) = (Vec::new(), Vec::new());
    for (index, group) in groups.iter().enumerate() {
        for folder in &group.folders {
            runs.push(Run::read(folder, remarks)?);
            group_of.push(index);
        }
    }
    let mut html = Page::bar(groups.iter().map(|group| (group.name.as_str(), String::new())));
    if !about.is_empty() {
        let _ = write!(html, "<p>{}</p>", escape(about));
    }
    let drawn: String = bars.iter().map(draw).collect();
    let boxed = if drawn.is_empty() { drawn } else { format!("<div class=\"figures\">{drawn}</div>") };
    section(&mut html, "Results", &format!("{boxed}{tables}"));
    for stage in Page::stage_names(&runs) {
        let figures = figures::of_stage(&runs, &stage).into_iter().map(|figure| averaged(figure, &group_of));
        let figures: String =
            figures.filter(|figure| !figure.curves.is_empty()).map(|f| super::page::card(&f)).collect();
        if !figures.is_empty() {
            let title = format!("Stage {}: mean and standard deviation over seeds", escape(&stage));
            section(&mut html, &title, &format!("<div class=\"figures\">{figures}</div>"));
        }
    }
    Ok(document(title, "t5 report", &html, &Page::script()))
}

/// The figure with one curve for each group instead of one for each run.
fn averaged(figure: Figure, group_of: &[usize]) -> Figure {
    let mut curves: Vec<Curve> = Vec::new();
    for kind in [Kind::Line, Kind::Dots] {
        for group in 0..=group_of.iter().copied().max().unwrap_or(0) {
            let of_group = figure.curves.iter().filter(|curve| curve.kind == kind && group_of[curve.run] == group);
            let points = mean_curve(&of_group.map(|curve| curve.points.as_slice()).collect::<Vec<_>>());
            // A line of one point cannot be seen.
            if points.len() >= if kind == Kind::Dots { 1 } else { 2 } {
                curves.push(Curve { run: group, kind, points });
            }
        }
    }
    Figure { curves, ..figure }
}

/// The mean of curves at the steps of the first one that all of them reach.
fn mean_curve(curves: &[&[Point]]) -> Vec<Point> {
    let Some(first) = curves.first() else { return Vec::new() };
    let from = curves.iter().filter_map(|curve| curve.first()).map(|p| p.at.step).fold(0.0, f64::max);
    let to = curves.iter().filter_map(|curve| curve.last()).map(|p| p.at.step).fold(f64::INFINITY, f64::min);
    if curves.iter().any(|curve| curve.is_empty()) {
        return Vec::new();
    }
    let every = first.len().div_ceil(MOST_POINTS).max(1);
    let steps = first.rchunks(every).rev().filter_map(|stretch| stretch.last()).map(|point| point.at.step);
    steps
        .filter(|step| (from..=to).contains(step))
        .map(|step| {
            let points: Vec<Point> = curves.iter().map(|curve| at_step(curve, step)).collect();
            let n = points.len() as f64;
            let mean = |of: fn(&Point) -> f64| points.iter().map(of).sum::<f64>() / n;
            let y = mean(|point| point.y);
            let squares = points.iter().map(|point| (point.y - y).powi(2)).sum::<f64>();
            let spread = if points.len() > 1 { (squares / (n - 1.0)).sqrt() } else { 0.0 };
            let at = Place { step, tokens: mean(|point| point.at.tokens), elapsed: mean(|point| point.at.elapsed) };
            Point { at, y, spread }
        })
        .collect()
}

/// A curve's value at a step within it, between its points in proportion.
fn at_step(curve: &[Point], step: f64) -> Point {
    let behind = curve.partition_point(|point| point.at.step < step).min(curve.len() - 1);
    let (a, b) = (curve[behind.saturating_sub(1)], curve[behind]);
    let share =
        if b.at.step > a.at.step { ((step - a.at.step) / (b.at.step - a.at.step)).clamp(0.0, 1.0) } else { 1.0 };
    let between = |a: f64, b: f64| a + share * (b - a);
    let at = Place { step, tokens: between(a.at.tokens, b.at.tokens), elapsed: between(a.at.elapsed, b.at.elapsed) };
    Point { at, y: between(a.y, b.y), spread: 0.0 }
}

const WIDTH: f64 = 440.0;
const ROW: f64 = 26.0;
const LEFT: f64 = 150.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 8.0;
const BOTTOM: f64 = 26.0;

/// Letters of a name for which there is room.
const MOST_LETTERS: usize = 22;

/// A line for each group: the mean as a bar's end, the deviation as whiskers, each seed as a dot. The axis begins at 0 where the values
/// are not far from it; elsewhere it does not, and there are no bars.
fn draw(bars: &Bars) -> String {
    let reach = |interval: &Interval| {
        let ends = [interval.mean - interval.deviation, interval.mean + interval.deviation];
        interval.values.iter().copied().chain(ends).collect::<Vec<f64>>()
    };
    let all: Vec<f64> = bars.intervals.iter().flat_map(reach).collect();
    let (low, high) = all.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let from_zero = low >= 0.0 && low < 0.5 * high;
    let x = Scale::over(all.into_iter().chain(from_zero.then_some(0.0)), 5, true);
    let px = |value: f64| LEFT + x.share(value) * (WIDTH - LEFT - RIGHT);
    let height = TOP + ROW * bars.intervals.len() as f64 + BOTTOM;
    let bottom = height - BOTTOM;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">", escape(&bars.title));
    for (tick, label) in x.ticks.iter().zip(x.labels()) {
        line(&mut svg, "grid", (px(*tick), TOP), (px(*tick), bottom));
        text(&mut svg, "middle", (px(*tick), bottom + 16.0), &label);
    }
    if let Some(baseline) = bars.intervals.iter().find(|interval| interval.is_baseline) {
        line(&mut svg, "hair", (px(baseline.mean), TOP), (px(baseline.mean), bottom));
    }
    for (row, interval) in bars.intervals.iter().enumerate() {
        let (y, class, group) = (TOP + ROW * (row as f64 + 0.5), class_of(interval.group), interval.group);
        let name = match interval.name.char_indices().nth(MOST_LETTERS) {
            Some((end, _)) => format!("{}…", &interval.name[..end]),
            None => interval.name.clone(),
        };
        text(&mut svg, "end", (LEFT - 8.0, y + 4.0), &name);
        let _ = write!(
            svg,
            "<g data-run=\"{group}\" class=\"{class}\"><title>{}: {} ± {}</title>",
            escape(&interval.name),
            super::scale::number(interval.mean),
            super::scale::number(interval.deviation)
        );
        if from_zero {
            let (start, width) = (px(0.0), px(interval.mean) - px(0.0));
            let _ = write!(
                svg,
                "<rect class=\"bar\" x=\"{start:.1}\" y=\"{:.1}\" width=\"{width:.1}\" height=\"14\"/>",
                y - 7.0
            );
        }
        let (a, b) = (px(interval.mean - interval.deviation), px(interval.mean + interval.deviation));
        let _ = write!(
            svg,
            "<path class=\"whisker\" d=\"M{a:.1},{y:.1}L{b:.1},{y:.1}M{a:.1},{0:.1}L{a:.1},{1:.1}M{b:.1},{0:.1}L{b:.1},{1:.1}\"/>",
            y - 5.0,
            y + 5.0
        );
        for value in &interval.values {
            let _ = write!(svg, "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"2.2\" class=\"seed\"/>", px(*value));
        }
        let _ = write!(
            svg,
            "<path class=\"mean\" d=\"M{0:.1},{1:.1}L{0:.1},{2:.1}\"/></g>",
            px(interval.mean),
            y - 8.0,
            y + 8.0
        );
    }
    svg.push_str("</svg>");
    format!(
        "<figure><figcaption><b>{}</b> <span class=\"dim\">{}</span></figcaption>{svg}</figure>",
        escape(&bars.title),
        escape(&bars.about)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn curves_of_seeds_become_a_mean_with_its_spread() {
        let point =
            |step: f64, y: f64| Point { at: Place { step, tokens: 10.0 * step, elapsed: step }, y, spread: 0.0 };
        let (a, b) = ([point(10.0, 1.0), point(20.0, 3.0)], [point(5.0, 2.0), point(15.0, 4.0), point(25.0, 8.0)]);
        let mean = mean_curve(&[&a, &b]);
        // At step 10 the second is 3, at step 20 it is 6.
        assert_eq!(
            mean.iter().map(|p| (p.at.step, p.at.tokens, p.y)).collect::<Vec<_>>(),
            [(10.0, 100.0, 2.0), (20.0, 200.0, 4.5)]
        );
        assert!((mean[0].spread - 2.0f64.sqrt()).abs() < 1e-12);
        assert_eq!(mean_curve(&[&a])[1], a[1]);
        assert!(mean_curve(&[&a, &[]]).is_empty() && mean_curve(&[]).is_empty());
    }
}
