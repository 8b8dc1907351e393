//! What follows from the results of a study: means, spreads, differences from the baseline, and whether their signs are a paper's.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use super::run::{Sample, SampleState};
use super::{Cell, Study};
use crate::data::metrics::Direction;
use crate::report::{Cost, Finding, aligned, duration, number};

/// Standard errors below which a difference says nothing.
pub const NOISE: f64 = 2.0;

/// A study's results.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StudyTable {
    pub study: String,
    pub about: Option<String>,
    pub factors: Vec<String>,
    pub seeds: Vec<u64>,
    /// Runs that are done, and that there are in all.
    pub done: usize,
    pub runs: usize,
    /// Where the paper's figures are from.
    pub paper: Option<String>,
    pub results: Vec<ResultTable>,
}

/// What the cells reached in one result.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultTable {
    /// STAGE/TASK/METRIC.
    pub name: String,
    pub better: Direction,
    pub rows: Vec<Row>,
}

/// What one cell reached.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    pub cell: String,
    /// The names of its levels, in the order of the factors.
    pub levels: Vec<String>,
    pub is_baseline: bool,
    /// By seed, of the runs that are done.
    pub values: BTreeMap<u64, f64>,
    pub mean: Option<f64>,
    /// Over seeds (n - 1); `None` for fewer than two.
    pub deviation: Option<f64>,
    pub difference: Option<Difference>,
    /// Means over the runs that are done, of the training that the result rests on.
    pub tokens: Option<f64>,
    pub flops: Option<f64>,
    pub seconds: Option<f64>,
    pub paper: Vec<PaperComparison>,
}

/// From the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Difference {
    pub mean: f64,
    /// In standard errors of itself: `mean / (s sqrt(1/n + 1/m))` with n and m seeds, where s^2 is the mean of the variances over seeds
    /// of all cells that are compared with the same baseline, each weighted by its seeds less one. `None` where that is not known or 0.
    pub sigma: Option<f64>,
    /// Of s.
    pub degrees_of_freedom: usize,
}

/// One of the paper's figures for a row.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PaperComparison {
    pub figure: String,
    pub value: f64,
    /// From the paper's figure for the baseline.
    pub difference: Option<f64>,
    /// In the paper's standard deviations over seeds.
    pub sigma: Option<f64>,
    pub sign: Option<Sign>,
}

/// Whether a difference here goes the way of the paper's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Sign {
    Agrees,
    Disagrees,
    /// Here it is within the noise.
    OpenHere,
    /// In the paper it is within the noise.
    OpenInPaper,
}

impl Sign {
    /// `here` and `there`: how much better than the baseline, in sigma.
    fn of(here: f64, there: f64) -> Sign {
        match (here.abs() < NOISE, there.abs() < NOISE) {
            (_, true) => Sign::OpenInPaper,
            (true, false) => Sign::OpenHere,
            _ if (here > 0.0) == (there > 0.0) => Sign::Agrees,
            _ => Sign::Disagrees,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Sign::Agrees => "agrees",
            Sign::Disagrees => "disagrees",
            Sign::OpenHere => "open here",
            Sign::OpenInPaper => "open there",
        }
    }
}

/// Mean and standard deviation (n - 1).
fn moments(values: &BTreeMap<u64, f64>) -> (Option<f64>, Option<f64>) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (None, None);
    }
    let mean = values.values().sum::<f64>() / n;
    let squares = values.values().map(|value| (value - mean).powi(2)).sum::<f64>();
    (Some(mean), (values.len() > 1).then(|| (squares / (n - 1.0)).sqrt()))
}

impl StudyTable {
    pub fn new(study: &Study, samples: &[Sample]) -> StudyTable {
        let done: Vec<(&Sample, &[Finding])> = samples
            .iter()
            .filter_map(|sample| match &sample.state {
                SampleState::Done(found) => Some((sample, &found[..])),
                _ => None,
            })
            .collect();
        let mut names: Vec<(String, Direction)> = Vec::new();
        for result in done.iter().flat_map(|(_, found)| *found) {
            let is_asked = match study.results.is_empty() {
                true => result.is_last_word,
                false => study.results.contains(&result.name),
            };
            if is_asked && !names.iter().any(|(name, _)| *name == result.name) {
                names.push((result.name.clone(), result.better));
            }
        }
        let position = |name: &String| study.results.iter().position(|wanted| wanted == name);
        names.sort_by_key(|(name, _)| position(name));
        let results = names.into_iter().map(|(name, better)| result_table(study, &done, name, better)).collect();
        StudyTable {
            study: study.title().to_owned(),
            about: study.about.clone(),
            factors: study.factors.iter().map(|factor| factor.name.clone()).collect(),
            seeds: study.seeds.clone(),
            done: done.len(),
            runs: samples.len(),
            paper: study.paper.as_ref().map(|paper| paper.source.clone()),
            results,
        }
    }
}

fn result_table(study: &Study, done: &[(&Sample, &[Finding])], name: String, better: Direction) -> ResultTable {
    let cells = study.cells();
    let of_cell = |cell: &Cell| -> Vec<(u64, &Finding)> {
        let samples = done.iter().filter(|(sample, _)| sample.cell == *cell);
        samples.filter_map(|(s, found)| Some((s.seed, found.iter().find(|finding| finding.name == name)?))).collect()
    };
    let values_of = |cell: &Cell| -> BTreeMap<u64, f64> {
        of_cell(cell).into_iter().map(|(seed, finding)| (seed, finding.value)).collect()
    };
    let rows = cells
        .iter()
        .map(|cell| {
            let values = values_of(cell);
            let (mean, deviation) = moments(&values);
            let baseline = study.baseline_of(cell);
            let is_baseline = baseline == *cell;
            let difference = if is_baseline {
                None
            } else {
                let compared: Vec<BTreeMap<u64, f64>> =
                    cells.iter().filter(|other| study.baseline_of(other) == baseline).map(values_of).collect();
                difference(&values, &values_of(&baseline), &compared)
            };
            let mean_of = |of: fn(&Cost) -> f64| {
                let all: Vec<f64> = of_cell(cell).iter().map(|(_, finding)| of(&finding.cost)).collect();
                let mean = all.iter().sum::<f64>() / all.len() as f64;
                mean.is_finite().then_some(mean)
            };
            let levels = cell.levels.iter().zip(&study.factors).map(|(&i, factor)| factor.levels[i].name.clone());
            Row {
                cell: cell.name.clone(),
                levels: levels.collect(),
                is_baseline,
                paper: paper(study, cell, &baseline, difference, better),
                values,
                mean,
                deviation,
                difference,
                tokens: mean_of(|cost| cost.tokens),
                flops: mean_of(|cost| cost.flops),
                seconds: mean_of(|cost| cost.seconds),
            }
        })
        .collect();
    ResultTable { name, better, rows }
}

/// `compared`: the values of all cells with this baseline, which together say how far seeds lie apart.
fn difference(
    values: &BTreeMap<u64, f64>,
    baseline: &BTreeMap<u64, f64>,
    compared: &[BTreeMap<u64, f64>],
) -> Option<Difference> {
    let (mean, other) = (moments(values).0?, moments(baseline).0?);
    let (mut squares, mut degrees_of_freedom) = (0.0, 0);
    for cell in compared {
        if let (_, Some(deviation)) = moments(cell) {
            squares += deviation.powi(2) * (cell.len() - 1) as f64;
            degrees_of_freedom += cell.len() - 1;
        }
    }
    let variance = squares / degrees_of_freedom as f64;
    let error = (variance * (1.0 / values.len() as f64 + 1.0 / baseline.len() as f64)).sqrt();
    let sigma = (error > 0.0).then(|| (mean - other) / error);
    Some(Difference { mean: mean - other, sigma, degrees_of_freedom })
}

fn paper(
    study: &Study,
    cell: &Cell,
    baseline: &Cell,
    difference: Option<Difference>,
    better: Direction,
) -> Vec<PaperComparison> {
    let (Some(paper), Some(values)) = (&study.paper, study.paper_values(cell)) else { return Vec::new() };
    let base = study.paper_values(baseline).filter(|_| baseline != cell);
    let here = difference.and_then(|difference| difference.sigma).map(|sigma| match better {
        Direction::Higher => sigma,
        Direction::Lower => -sigma,
    });
    let comparison = |(figure, &value): (&String, &f64)| {
        let difference = base.and_then(|base| Some(value - base.get(figure)?));
        let sigma = difference.and_then(|difference| Some(difference / paper.sigma.get(figure)?));
        let sign = here.zip(sigma).map(|(here, there)| Sign::of(here, there));
        PaperComparison { figure: figure.clone(), value, difference, sigma, sign }
    };
    values.iter().map(comparison).collect()
}

/// The columns of a table of results, and its rows as text.
pub(super) fn cells_of(table: &StudyTable, result: &ResultTable) -> (Vec<String>, Vec<Vec<String>>) {
    let mut head: Vec<String> = table.factors.clone();
    head.extend(["mean", "deviation", "seeds", "difference", "sigma", "tokens", "FLOPs", "time"].map(str::to_owned));
    let figures: Vec<&String> = match result.rows.iter().find(|row| !row.paper.is_empty()) {
        Some(row) => row.paper.iter().map(|paper| &paper.figure).collect(),
        None => Vec::new(),
    };
    head.extend(figures.iter().map(|figure| format!("paper: {figure}")));
    let some = |value: Option<String>| value.unwrap_or_else(|| "-".into());
    let signed = |value: f64| if value > 0.0 { format!("+{value:.2}") } else { format!("{value:.2}") };
    let row = |row: &Row| {
        let mut cells = row.levels.clone();
        cells.push(some(row.mean.map(|mean| precise(mean, row.deviation))));
        cells.push(some(row.deviation.map(|deviation| precise(deviation, Some(deviation)))));
        cells.push(row.values.len().to_string());
        cells.push(match (row.is_baseline, row.difference) {
            (true, _) => "baseline".into(),
            (false, difference) => some(difference.map(|d| {
                let text = precise(d.mean, row.deviation);
                if d.mean > 0.0 { format!("+{text}") } else { text }
            })),
        });
        cells.push(some(row.difference.and_then(|difference| difference.sigma).map(|sigma| format!("{sigma:+.1}"))));
        cells.push(some(row.tokens.map(number)));
        cells.push(some(row.flops.map(|flops| format!("{flops:.2e}"))));
        cells.push(some(row.seconds.map(duration)));
        for figure in &figures {
            let found = row.paper.iter().find(|paper| paper.figure == **figure);
            cells.push(some(found.map(|paper| match (paper.difference, paper.sigma) {
                (Some(difference), Some(sigma)) => {
                    let sign = paper.sign.map_or(String::new(), |sign| format!(" {}", sign.words()));
                    format!("{} ({sigma:+.0}){sign}", signed(difference))
                }
                _ => format!("{:.2}", paper.value),
            })));
        }
        cells
    };
    (head, result.rows.iter().map(row).collect())
}

/// With two digits of its deviation.
fn precise(value: f64, deviation: Option<f64>) -> String {
    let decimals = match deviation {
        Some(deviation) if deviation > 0.0 => (1.0 - deviation.log10().floor()).clamp(0.0, 6.0) as usize,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// "lower is better".
pub(super) fn direction(better: Direction) -> &'static str {
    match better {
        Direction::Higher => "higher is better",
        Direction::Lower => "lower is better",
    }
}

/// What the columns mean.
pub(super) fn legend(table: &StudyTable) -> String {
    let mut text = "deviation: standard deviation over seeds. difference: from the baseline; sigma: in standard errors of itself, by the \
                    spread over seeds of all that is compared with one baseline. tokens, FLOPs (matrix products and attention) and time: \
                    of the training that the result rests on, mean."
        .to_owned();
    if let Some(paper) = &table.paper {
        let _ = write!(
            text,
            " paper: {paper}: the difference from its baseline, in brackets in its standard deviations over seeds, and whether ours goes the \
             same way; open: below {NOISE} sigma, here or there."
        );
    }
    text
}

impl std::fmt::Display for StudyTable {
    /// As text for a terminal.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {} of {} runs are done", self.study, self.done, self.runs)?;
        for result in &self.results {
            let (head, rows) = cells_of(self, result);
            let names = self.factors.len();
            writeln!(f, "\n{} ({})", result.name, direction(result.better))?;
            let all: Vec<Vec<String>> = std::iter::once(head).chain(rows).collect();
            writeln!(f, "{}", aligned(&all, |column| column < names))?;
        }
        if !self.results.is_empty() {
            write!(f, "\n{}", legend(self))?;
        }
        Ok(())
    }
}

impl StudyTable {
    /// As Markdown tables.
    pub fn to_markdown(&self) -> String {
        let mut text = String::new();
        for result in &self.results {
            let (head, rows) = cells_of(self, result);
            let line = |cells: &[String]| format!("| {} |", cells.join(" | ")).replace(" - ", " – ") + "\n";
            let _ = write!(text, "**{}** ({})\n\n{}", result.name, direction(result.better), line(&head));
            let rule = |column: usize| if column < self.factors.len() { "---" } else { "---:" };
            let _ = writeln!(text, "|{}|", (0..head.len()).map(rule).collect::<Vec<_>>().join("|"));
            rows.iter().for_each(|row| text.push_str(&line(row)));
            text.push('\n');
        }
        text + &legend(self) + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of: &[f64]) -> BTreeMap<u64, f64> {
        of.iter().enumerate().map(|(seed, &value)| (seed as u64, value)).collect()
    }

    #[test]
    fn differences_are_counted_in_standard_errors() {
        // Variances 1 and 4, two degrees of freedom each: s^2 = 2.5, the error sqrt(2.5 * 2 / 3).
        let (a, b) = (values(&[9.0, 10.0, 11.0]), values(&[18.0, 20.0, 22.0]));
        let found = difference(&b, &a, &[a.clone(), b.clone()]).unwrap();
        assert_eq!((found.mean, found.degrees_of_freedom), (10.0, 4));
        assert!((found.sigma.unwrap() - 10.0 / (5.0f64 / 3.0).sqrt()).abs() < 1e-12);
        // One seed says nothing about the spread, but others do.
        let one = values(&[30.0]);
        let found = difference(&one, &a, &[a.clone(), one.clone()]).unwrap();
        assert!((found.sigma.unwrap() - 20.0 / (4.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(difference(&one, &one, std::slice::from_ref(&one)).unwrap().sigma, None);
        assert_eq!(difference(&one, &values(&[]), &[]), None);
    }

    #[test]
    fn signs_are_only_compared_where_both_are_known() {
        assert_eq!(Sign::of(3.0, 40.0), Sign::Agrees);
        assert_eq!(Sign::of(-3.0, 40.0), Sign::Disagrees);
        assert_eq!(Sign::of(1.9, 40.0), Sign::OpenHere);
        assert_eq!(Sign::of(9.0, -1.0), Sign::OpenInPaper);
    }

    #[test]
    fn numbers_have_the_digits_that_their_spread_leaves() {
        assert_eq!(precise(74.8123, Some(0.153)), "74.81");
        assert_eq!(precise(74.8123, Some(15.3)), "75");
        assert_eq!(precise(0.5, None), "0.500");
    }
}
