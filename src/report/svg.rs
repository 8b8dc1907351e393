//! A figure as SVG. Colours and letters come from the page's style sheet by class, so that light and dark need no script.

use std::fmt::Write;

use super::figures::{Curve, Figure, Kind, Place, Point};
use super::page::escape;
use super::scale::Scale;

/// What curves are drawn against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Against {
    Steps,
    Tokens,
    Time,
}

impl Against {
    pub(super) const ALL: [Against; 3] = [Against::Steps, Against::Tokens, Against::Time];

    pub(super) fn name(self) -> &'static str {
        match self {
            Against::Steps => "steps",
            Against::Tokens => "tokens",
            Against::Time => "time",
        }
    }

    fn of(self, place: Place, unit: f64) -> f64 {
        match self {
            Against::Steps => place.step,
            Against::Tokens => place.tokens,
            Against::Time => place.elapsed / unit,
        }
    }
}

const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 236.0;
const LEFT: f64 = 50.0;
const RIGHT: f64 = 20.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 38.0;

/// Colours of the style sheet; runs beyond share them with dashes.
pub(super) const COLOURS: usize = 7;

/// The class that gives a run its colour and, beyond the colours there are, its dashes.
pub(super) fn class_of(run: usize) -> String {
    let dashes = if run >= COLOURS { " dashed" } else { "" };
    format!("c{}{dashes}", run % COLOURS)
}

/// The drawing; its `data-` attributes let the page's script turn places back into values.
pub(super) fn draw(figure: &Figure, against: Against) -> String {
    let longest = figure.curves.iter().flat_map(|c| &c.points).map(|p| p.at.elapsed).fold(0.0, f64::max);
    let (unit, label) = axis(against, longest);
    let x_of = |place: Place| against.of(place, unit);
    let places = figure.curves.iter().flat_map(|curve| curve.points.iter().map(|p| x_of(p.at)));
    let x = Scale::over(places.chain([0.0]), 5, false);
    let y = Scale::over(heights(figure), 5, true);
    let px = |v: f64| LEFT + x.share(v) * (WIDTH - LEFT - RIGHT);
    let py = |v: f64| HEIGHT - BOTTOM - y.share(v) * (HEIGHT - TOP - BOTTOM);

    let mut svg = format!(
        "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} against {label}\" data-box=\"{LEFT},{TOP},{},{}\" \
         data-x=\"{},{}\" data-y=\"{},{}\" data-unit=\"{label}\">",
        escape(&figure.title),
        WIDTH - RIGHT,
        HEIGHT - BOTTOM,
        x.low,
        x.high,
        y.low,
        y.high
    );
    for (tick, label) in y.ticks.iter().zip(y.labels()) {
        let at = py(*tick);
        line(&mut svg, "grid", (LEFT, at), (WIDTH - RIGHT, at));
        text(&mut svg, "end", (LEFT - 7.0, at + 4.0), &label);
    }
    line(&mut svg, "axis", (LEFT, HEIGHT - BOTTOM), (WIDTH - RIGHT, HEIGHT - BOTTOM));
    for (tick, label) in x.ticks.iter().zip(x.labels()) {
        let at = px(*tick);
        line(&mut svg, "axis", (at, HEIGHT - BOTTOM), (at, HEIGHT - BOTTOM + 4.0));
        text(&mut svg, "middle", (at, HEIGHT - BOTTOM + 17.0), &label);
    }
    text(&mut svg, "middle", ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 4.0), label);
    // A drawing within the drawing cuts off what leaves the range; dots on its edge must stay whole.
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let overflow = if is_noisy(figure) { "hidden" } else { "visible" };
    let _ = write!(
        svg,
        "<svg x=\"{LEFT}\" y=\"{TOP}\" width=\"{width}\" height=\"{height}\" viewBox=\"{LEFT} {TOP} {width} {height}\" \
         overflow=\"{overflow}\">"
    );
    for curve in &figure.curves {
        draw_curve(&mut svg, curve, |place| px(x_of(place)), py);
    }
    svg.push_str("</svg></svg>");
    svg
}

/// The values that the y axis covers. Zero is among them where it is near. Losses fall from a height that no later point comes
/// near, and norms have outliers: the highest 2 % may leave the figure, and so may the lowest of what is not smoothed.
fn heights(figure: &Figure) -> impl Iterator<Item = f64> {
    let sorted = |kept: fn(Kind) -> bool| {
        let curves = figure.curves.iter().filter(|curve| kept(curve.kind));
        let reach =
            |p: &Point| [p.y, p.y + p.spread, p.y - p.spread].into_iter().take(if p.spread > 0.0 { 3 } else { 1 });
        let mut values: Vec<f64> = curves.flat_map(|curve| curve.points.iter().flat_map(reach)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let (mut values, raw) = (sorted(|kind| kind != Kind::Raw), sorted(|kind| kind == Kind::Raw));
    if is_noisy(figure) {
        values.truncate((values.len() as f64 * 0.98).ceil() as usize);
        let margin = raw.len() / 50;
        values.extend(&raw[margin..raw.len() - margin]);
    }
    let low = values.iter().copied().fold(f64::INFINITY, f64::min);
    let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let zero = (low > 0.0 && low < high * 0.4).then_some(0.0);
    values.into_iter().chain(zero)
}

fn is_noisy(figure: &Figure) -> bool {
    figure.curves.iter().any(|curve| curve.kind == Kind::Raw)
}

/// (seconds in the axis' unit, its name)
fn axis(against: Against, longest: f64) -> (f64, &'static str) {
    match against {
        Against::Steps => (1.0, "steps"),
        Against::Tokens => (1.0, "tokens"),
        Against::Time if longest > 7200.0 => (3600.0, "hours"),
        Against::Time if longest > 120.0 => (60.0, "minutes"),
        Against::Time => (1.0, "seconds"),
    }
}

fn draw_curve(svg: &mut String, curve: &Curve, px: impl Fn(Place) -> f64, py: impl Fn(f64) -> f64) {
    let class = class_of(curve.run);
    let kind = match curve.kind {
        Kind::Raw => "raw",
        Kind::Line => "line",
        Kind::Dots => "line dots",
    };
    let mut path = String::new();
    for (i, point) in curve.points.iter().enumerate() {
        let _ = write!(path, "{}{:.1},{:.1}", if i == 0 { 'M' } else { 'L' }, px(point.at), py(point.y));
    }
    let run = curve.run;
    if curve.points.iter().any(|point| point.spread > 0.0) {
        let edge = |point: &Point, side: f64| format!("{:.1},{:.1}", px(point.at), py(point.y + side * point.spread));
        let above = curve.points.iter().map(|point| edge(point, 1.0));
        let below = curve.points.iter().rev().map(|point| edge(point, -1.0));
        let around = above.chain(below).collect::<Vec<_>>().join("L");
        let _ = write!(svg, "<path class=\"band {class}\" data-run=\"{run}\" d=\"M{around}Z\"/>");
    }
    let _ = write!(svg, "<path class=\"{kind} {class}\" data-run=\"{run}\" d=\"{path}\"/>");
    if curve.kind == Kind::Dots {
        for point in &curve.points {
            let (x, y) = (px(point.at), py(point.y));
            let _ = write!(svg, "<circle class=\"{class}\" data-run=\"{run}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>");
        }
    }
}

pub(super) fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let ((x1, y1), (x2, y2)) = (from, to);
    let _ = write!(svg, "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>");
}

pub(super) fn text(svg: &mut String, anchor: &str, at: (f64, f64), text: &str) {
    let (x, y) = at;
    let _ = write!(svg, "<text class=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(text));
}
