//! The comparison of results: chips in rows, workloads in columns, as text and as a page.

use std::fmt::Write as _;

use super::render::{number, table};
use super::report::{Better, Figure};
use super::result::{SuiteResult, WorkloadResult};
use super::workload::WorkloadKind;
use crate::report::{document, escape, section};

/// A figure that is compared: the workload's name, and which of its figures.
#[derive(Clone, Debug, PartialEq)]
struct Column {
    workload: String,
    /// Behind the workload's own figures stands the time to the first token of decoding.
    place: usize,
    unit: &'static str,
}

/// What stands where a chip and a column meet.
enum Cell<'a> {
    Counts(&'a Figure),
    /// With the reason.
    StruckOut(&'a Figure, String),
    /// With the reason, if one is known.
    Missing(Option<&'a str>),
}

impl Column {
    /// Every column that one of the results has a figure or a reason for, model by model.
    fn of_all(results: &[SuiteResult]) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for workload in results.iter().flat_map(|result| &result.workloads) {
            let places: &[(usize, &'static str)] = match workload.kind {
                WorkloadKind::Decode => &[(0, "ms/token"), (1, "ms to the first token")],
                WorkloadKind::Encoder | WorkloadKind::Train => &[(0, "tokens/s")],
            };
            for &(place, unit) in places {
                let column = Column { workload: workload.name.clone(), place, unit };
                if !columns.contains(&column) {
                    columns.push(column);
                }
            }
        }
        columns
    }

    fn workload<'a>(&self, result: &'a SuiteResult) -> Option<&'a WorkloadResult> {
        result.workloads.iter().find(|workload| workload.name == self.workload)
    }

    fn cell<'a>(&self, result: &'a SuiteResult) -> Cell<'a> {
        let Some(workload) = self.workload(result) else { return Cell::Missing(None) };
        match (workload.figures.get(self.place), &workload.gate) {
            (Some(figure), Some(gate)) => match gate.failure() {
                None => Cell::Counts(figure),
                Some(failure) => Cell::StruckOut(figure, failure),
            },
            _ => Cell::Missing(workload.left_out.as_deref()),
        }
    }

    /// The best value that counts.
    fn best(&self, results: &[SuiteResult]) -> Option<f64> {
        let counted = results.iter().filter_map(|result| match self.cell(result) {
            Cell::Counts(figure) => Some(figure),
            _ => None,
        });
        counted.map(speed).reduce(f64::max)
    }
}

/// More is better.
fn speed(figure: &Figure) -> f64 {
    if figure.better == Better::Higher { figure.value } else { 1.0 / figure.value }
}

/// The models in the order of the columns.
fn models(columns: &[Column]) -> Vec<&str> {
    let mut models: Vec<&str> = columns.iter().map(|column| model_of(column).0).collect();
    models.dedup();
    models
}

/// A column's model, and its workload without it.
fn model_of(column: &Column) -> (&str, &str) {
    column.workload.split_once('/').unwrap_or(("", &column.workload))
}

/// Driver, backend and version of this program.
fn circumstances(result: &SuiteResult) -> String {
    let adapter = &result.machine.adapter;
    format!("{} {}, {}, t5 {}", adapter.driver, adapter.driver_info, adapter.backend, result.version)
}

/// One table for each model. `~~1234~~`: the gate failed. `-`: left out.
pub fn table_text(results: &[SuiteResult]) -> String {
    let columns = Column::of_all(results);
    let mut text = String::new();
    for model in models(&columns) {
        let own: Vec<&Column> = columns.iter().filter(|column| model_of(column).0 == model).collect();
        let titles: Vec<String> = own.iter().map(|c| format!("{}: {}", model_of(c).1, c.unit)).collect();
        let header: Vec<&str> = ["", "driver"].into_iter().chain(titles.iter().map(String::as_str)).collect();
        let row = |result: &SuiteResult| {
            let cells = own.iter().map(|column| match column.cell(result) {
                Cell::Counts(figure) => number(figure.value),
                Cell::StruckOut(figure, _) => format!("~~{}~~", number(figure.value)),
                Cell::Missing(_) => "-".into(),
            });
            [result.machine.chip(), circumstances(result)].into_iter().chain(cells).collect()
        };
        let measured = results.iter().filter(|result| own.iter().any(|c| c.workload(result).is_some()));
        let _ = write!(text, "{model}\n{}\n", table(&header, measured.map(row).collect()));
    }
    for result in results {
        for workload in &result.workloads {
            if let Some(failure) = workload.gate.as_ref().and_then(|gate| gate.failure()) {
                let _ = writeln!(text, "~~ {}, {}: {failure}", result.machine.chip(), workload.name);
            }
        }
    }
    text
}

/// One page that needs no network: a bar for each figure, beside the best; what it was measured on.
pub fn table_html(results: &[SuiteResult]) -> String {
    let columns = Column::of_all(results);
    let mut html = String::from(
        "<p class=\"dim\">Longer bars are faster. A figure counts where the results that the workload computed agree with those that were \
         recorded in float64; others are struck out. The pointer tells quartiles and reasons.</p>",
    );
    for model in models(&columns) {
        let of_model = columns.iter().filter(|column| model_of(column).0 == model);
        let figures: String = of_model.map(|column| bars(column, results)).collect();
        section(&mut html, &escape(model), &format!("<div class=\"figures\">{figures}</div>"));
    }
    section(&mut html, "Adapters", &adapters(results));
    section(&mut html, "Speed that lasts", &sustained(results));
    document("T5 on every card", "t5 bench table", &html, "")
}

/// A figure of horizontal bars, one for each result that has something to say.
fn bars(column: &Column, results: &[SuiteResult]) -> String {
    const WIDTH: f64 = 440.0;
    const LINE: f64 = 36.0;
    let best = column.best(results).unwrap_or(1.0);
    let (mut svg, mut y) = (String::new(), 0.0);
    for (place, result) in results.iter().enumerate() {
        let (share, value, struck, about) = match column.cell(result) {
            Cell::Counts(figure) => (
                speed(figure) / best,
                number(figure.value),
                false,
                format!("{} to {}, {} samples; gate passed", number(figure.low), number(figure.high), figure.samples),
            ),
            Cell::StruckOut(figure, why) => (0.0, number(figure.value), true, format!("gate failed: {why}")),
            Cell::Missing(Some(why)) => (0.0, "left out".into(), false, why.to_owned()),
            Cell::Missing(None) => continue,
        };
        let name = escape(&result.machine.chip());
        let class = if struck { "end struck" } else { "end" };
        let _ = write!(
            svg,
            "<g><title>{name}, {}: {}</title><text x=\"0\" y=\"{}\">{name}</text>\
             <text class=\"{class}\" x=\"{WIDTH}\" y=\"{}\">{value}</text>\
             <rect class=\"c{}\" x=\"0\" y=\"{}\" width=\"{:.1}\" height=\"8\" rx=\"2\"/></g>",
            escape(&circumstances(result)),
            escape(&about),
            y + 14.0,
            y + 14.0,
            place % 7,
            y + 20.0,
            (WIDTH * share).max(1.0),
        );
        y += LINE;
    }
    let (_, name) = model_of(column);
    format!(
        "<figure><figcaption><b>{}</b> <span class=\"dim\">{}</span></figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {y}\" role=\"img\" aria-label=\"{}, {}\">{svg}</svg></figure>",
        escape(name),
        column.unit,
        escape(&column.workload),
        column.unit
    )
}

fn adapters(results: &[SuiteResult]) -> String {
    let mut rows = String::new();
    for result in results {
        let (machine, ceilings) = (&result.machine, &result.ceilings);
        let gates: Vec<bool> =
            result.workloads.iter().filter_map(|w| w.gate.as_ref().map(|gate| gate.passed)).collect();
        let passed = gates.iter().filter(|passed| **passed).count();
        let cells = [
            machine.chip(),
            machine.adapter.name.clone(),
            circumstances(result),
            machine.adapter.compiler.clone(),
            machine.os_version.clone().unwrap_or_else(|| machine.os.clone()),
            format!("{} of {}", passed, gates.len()),
            number(ceilings.flops / 1e9),
            number(ceilings.bytes / 1e9),
            number(1e6 * ceilings.dispatch_seconds),
            result.date.chars().take(10).collect(),
        ];
        let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
        let _ = write!(rows, "<tr>{cells}</tr>");
    }
    let header =
        ["Chip", "Adapter", "Driver", "Compiler", "System", "Gates passed", "GF/s", "GB/s", "us a dispatch", "Date"];
    wide_table(&header, &rows)
}

fn sustained(results: &[SuiteResult]) -> String {
    let mut rows = String::new();
    for result in results {
        for workload in &result.workloads {
            if let Some(lasted) = workload.sustained {
                let cells = [
                    result.machine.chip(),
                    workload.name.clone(),
                    format!("{:.0} s", lasted.seconds),
                    format!("{:.1} %", 100.0 * lasted.drop),
                ];
                let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
                let _ = write!(rows, "<tr>{cells}</tr>");
            }
        }
    }
    if rows.is_empty() { rows } else { wide_table(&["Chip", "Workload", "On end", "Slower at last by"], &rows) }
}

fn wide_table(header: &[&str], rows: &str) -> String {
    let header: String = header.iter().map(|title| format!("<th>{title}</th>")).collect();
    format!("<div class=\"wide\"><table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table></div>")
}

#[cfg(test)]
mod tests {
    use super::super::efficiency::tests::made_up;
    use super::super::gate::Gate;
    use super::*;
    use crate::verify::Row;

    fn results() -> [SuiteResult; 3] {
        let mut results = ["Quick <b>", "Slow", "Wrong"].map(|name| made_up(name, 1e12, [0.5, 0.5]));
        for (result, value) in results.iter_mut().zip([2000.0, 500.0, 9000.0]) {
            result.workloads[0].figures[0].value = value;
        }
        let row = Row { what: "states of all rows".into(), error: 1.0, tolerance: 1e-5 };
        results[2].workloads[0].gate = Some(Gate { passed: false, checks: vec![row] });
        results
    }

    #[test]
    fn a_failed_gate_strikes_its_figure_out() {
        let text = table_text(&results());
        assert!(text.contains("~~9000~~") && !text.contains("~~2000~~"), "{text}");
        assert!(text.contains("~~ Wrong, t5-small/enc-10x10: states of all rows: off by 1"), "{text}");
        let html = table_html(&results());
        assert!(html.contains("class=\"end struck\" x=\"440\" y=\"86\">9000"), "{html}");
        // The best that counts has the whole width, the others their share.
        assert!(html.contains("width=\"440.0\"") && html.contains("width=\"110.0\""), "{html}");
        assert!(html.contains("Quick &lt;b&gt;") && !html.contains("Quick <b>"), "{html}");
    }

    #[test]
    fn what_was_left_out_says_why() {
        let mut results = results();
        let workload = &mut results[1].workloads[0];
        (workload.gate, workload.left_out) = (None, Some("no time".into()));
        workload.figures.clear();
        let text = table_text(&results);
        let line = text.lines().find(|line| line.contains("Slow")).unwrap();
        assert!(line.trim_end().ends_with('-'), "{line}");
        assert!(table_html(&results).contains("no time"));
    }
}
