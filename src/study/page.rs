//! A study as a page: intervals, tables, curves with bands.

use std::fmt::Write;

use super::run::{SampleState, StudyRun};
use super::table::{StudyTable, cells_of, direction, legend};
use crate::error::{Error, Result};
use crate::report::{Bars, Group, Interval, Report, escape, groups_page};

/// The page about a study's runs that are done.
///
/// # Errors
/// None is done; a run cannot be read.
pub fn report(run: &StudyRun) -> Result<Report> {
    let samples = run.samples()?;
    let table = StudyTable::new(&run.study, &samples);
    let cells = run.study.cells();
    let folders = |name: &str| {
        let done =
            samples.iter().filter(|sample| sample.cell.name == name && matches!(sample.state, SampleState::Done(_)));
        done.map(|sample| sample.folder.clone()).collect()
    };
    let groups: Vec<Group> =
        cells.iter().map(|cell| Group { name: cell.name.clone(), folders: folders(&cell.name) }).collect();
    if table.done == 0 {
        return Err(Error::file(&run.out, "no run of this study is done yet: `t5 study` goes on with it"));
    }
    let bars: Vec<Bars> = table
        .results
        .iter()
        .map(|result| Bars {
            title: result.name.clone(),
            about: format!("{}; mean, standard deviation, each seed", direction(result.better)),
            intervals: result
                .rows
                .iter()
                .enumerate()
                .filter_map(|(group, row)| {
                    Some(Interval {
                        group,
                        name: row.levels.join(", "),
                        mean: row.mean?,
                        deviation: row.deviation.unwrap_or(0.0),
                        values: row.values.values().copied().collect(),
                        is_baseline: row.is_baseline,
                    })
                })
                .collect(),
        })
        .collect();
    let mut remarks = Vec::new();
    let about = run.study.about.as_deref().unwrap_or_default().trim();
    let html = groups_page((&table.study, about), &groups, &bars, &tables(&table), &mut remarks)?;
    Ok(Report { html, remarks })
}

fn tables(table: &StudyTable) -> String {
    let mut html = String::new();
    for result in &table.results {
        let (head, rows) = cells_of(table, result);
        let class = |column: usize| if column < table.factors.len() { "" } else { " class=\"n\"" };
        let _ = write!(
            html,
            "<h3>{} <span class=\"dim\">{}</span></h3><div class=\"wide\"><table><thead><tr>",
            escape(&result.name),
            direction(result.better)
        );
        for (column, name) in head.iter().enumerate() {
            let _ = write!(html, "<th{}>{}</th>", class(column), escape(name));
        }
        html.push_str("</tr></thead><tbody>");
        for row in &rows {
            html.push_str("<tr>");
            for (column, cell) in row.iter().enumerate() {
                let tag = if column == 0 { "th" } else { "td" };
                let shown = if column < table.factors.len() { cell.clone() } else { cell.replace('-', "−") };
                let _ = write!(html, "<{tag}{}>{}</{tag}>", class(column), escape(&shown));
            }
            html.push_str("</tr>");
        }
        html.push_str("</tbody></table></div>");
    }
    format!("{html}<p class=\"dim\">{} of {} runs are done. {}</p>", table.done, table.runs, escape(&legend(table)))
}
