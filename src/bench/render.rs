//! Reports as text for people.

use std::fmt::Write as _;

use super::Section;
use super::compare::{Comparison, Verdict};
use super::predict::{Basis, CardForecasts, Forecast};
use super::report::{BenchReport, Figure, Profile};
use super::result::{SuiteResult, WorkloadResult};
use crate::gpu::Workgroup;

/// The whole report as tables.
pub fn render(report: &BenchReport) -> String {
    let mut text = String::new();
    let commit = report.commit.map(|c| format!(" ({c})")).unwrap_or_default();
    let checked = if report.checked { ", shaders with bounds checks" } else { "" };
    let _ = writeln!(text, "t5 {}{commit} on {}{checked}, {}", report.version, report.adapter, report.date);
    if let Some(model) = &report.model {
        let millions = model.parameters as f64 / 1e6;
        let _ = writeln!(text, "model: {}, {millions:.1} million parameters", model.name);
    }
    let _ = writeln!(
        text,
        "of ceiling: the time that the rates under \"ceilings\" would allow, divided by the time taken; over 100 % (!) where \
         operands\nstay in a cache. GF/s: matrix products and attention; GB/s: each operand of each dispatch moved once."
    );
    if report.quick {
        let _ = writeln!(text, "a quick run: an impression, no measurement");
    }
    for section in Section::ALL {
        let figures: Vec<_> = report.figures.iter().filter(|f| f.section == section.name()).collect();
        if figures.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n{}", section.name());
        let rows = figures.iter().map(|figure| row(figure)).collect();
        let header = ["", "median", "quartiles", "samples", "dispatches", "GF/s", "GB/s", "of ceiling"];
        text += &table(&header, rows);
        if section == Section::Ceilings {
            let _ = writeln!(
                text,
                "  ceilings: {} GF/s by {}; {} GB/s",
                number(report.ceilings.flops / 1e9),
                report.ceilings.matmul,
                number(report.ceilings.bytes / 1e9)
            );
        }
        for profile in report.profiles.iter().filter(|p| p.section == section.name()) {
            text += &render_profile(profile);
        }
    }
    text
}

/// A table of new over old.
pub fn render_comparison(comparisons: &[Comparison]) -> String {
    let row = |c: &Comparison| {
        let mark = match c.verdict {
            Verdict::Better => "better",
            Verdict::Worse => "WORSE",
            Verdict::Same => "",
            Verdict::Unknown => "?",
        };
        vec![
            format!("{} {}", c.old.section, c.old.name),
            number(c.old.value),
            number(c.new.value),
            c.new.unit.clone(),
            format!("{:.3}", c.ratio),
            format!("{:.2}-{:.2}", c.low, c.high),
            mark.to_owned(),
        ]
    };
    let header = ["", "old", "new", "unit", "new/old", "spread", ""];
    let count = |verdict| comparisons.iter().filter(|c| c.verdict == verdict).count();
    let summary = format!(
        "{} better, {} worse, {} within the noise (quartiles overlap, or less than 2 %), {} measured only once (?)\n",
        count(Verdict::Better),
        count(Verdict::Worse),
        count(Verdict::Same),
        count(Verdict::Unknown)
    );
    table(&header, comparisons.iter().map(row).collect()) + &summary
}

/// The result of a suite: every workload with its gate, its start, and what was left out.
pub fn render_suite(result: &SuiteResult) -> String {
    let mut text = String::new();
    let SuiteResult { machine, ceilings, settings, .. } = result;
    let commit = result.commit.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
    let checked = if settings.checked { ", shaders with bounds checks" } else { "" };
    let adapter = &machine.adapter;
    let _ = writeln!(
        text,
        "t5 {}{commit} on {} ({}, {}, {} {}){checked}, {}",
        result.version, adapter.name, adapter.kind, adapter.backend, adapter.driver, adapter.driver_info, result.date
    );
    let memory = machine.memory_bytes.map(|bytes| format!("{} GiB", number(bytes as f64 / f64::from(1 << 30))));
    let known = [machine.os_version.clone(), machine.cpu.clone(), Some(format!("{} threads", machine.threads)), memory];
    let known: Vec<String> = known.into_iter().flatten().chain(machine.power.clone()).collect();
    let _ = writeln!(text, "{} ({}): {}", machine.os, machine.arch, known.join(", "));
    let _ = writeln!(
        text,
        "ceilings: {} GF/s by {}; {} GB/s; {} us a dispatch\nopening the adapter: {} s; kernels chosen with tune {}, {} otherwise \
         than by rule\n",
        number(ceilings.flops / 1e9),
        ceilings.product,
        number(ceilings.bytes / 1e9),
        number(1e6 * ceilings.dispatch_seconds),
        number(result.adapter_seconds),
        settings.tune,
        settings.choices.iter().filter(|choice| choice.variant != choice.rule).count(),
    );
    let measured = result.workloads.iter().filter(|w| w.left_out.is_none());
    let header = ["", "median", "quartiles", "samples", "of ceiling", "gate", "weights", "compiling", "first run"];
    text += &table(&header, measured.flat_map(suite_rows).collect());
    for workload in &result.workloads {
        if let Some(failure) = workload.gate.as_ref().and_then(|gate| gate.failure()) {
            let _ = writeln!(text, "  FAILED {}: {failure}. Its figures do not count.", workload.name);
        }
    }
    for (workload, why) in result.workloads.iter().filter_map(|w| Some((w, w.left_out.as_ref()?))) {
        let _ = writeln!(text, "  left out {}: {why}", workload.name);
    }
    for (workload, lasted) in result.workloads.iter().filter_map(|w| Some((w, w.sustained?))) {
        let _ = writeln!(
            text,
            "\n  {} for {} s on end, {} runs: {} ms a run at first, {} ms at last: {:.1} % {}",
            workload.name,
            number(lasted.seconds),
            lasted.runs,
            number(1e3 * lasted.first),
            number(1e3 * lasted.last),
            100.0 * lasted.drop.abs(),
            if lasted.drop > 0.0 { "slower" } else { "faster" }
        );
    }
    text
}

/// The figures of a workload that people compare; struck out where the gate failed.
fn suite_rows(workload: &WorkloadResult) -> Vec<Vec<String>> {
    let passed = workload.gate.as_ref().is_some_and(|gate| gate.passed);
    let seconds = |seconds: f64| format!("{} s", number(seconds));
    let rates = workload.figures.iter().take(2).filter(|figure| figure.samples > 1).enumerate();
    let row = |(at, figure): (usize, &Figure)| {
        let value = format!("{} {}", number(figure.value), figure.unit);
        let value = if passed { value } else { format!("~~{value}~~") };
        let mut cells = vec![
            if at == 0 {
                workload.name.clone()
            } else {
                format!("  {}", figure.name.rsplit(", ").next().unwrap_or(""))
            },
            value,
            format!("{}-{}", number(figure.low), number(figure.high)),
            figure.samples.to_string(),
            figure.ceiling_share.map(share_of_ceiling).unwrap_or_default(),
        ];
        let start = workload.cold.filter(|_| at == 0);
        cells.push(
            if at > 0 {
                ""
            } else if passed {
                "PASS"
            } else {
                "FAILED"
            }
            .into(),
        );
        cells.extend(
            [start.map(|s| s.weights), start.map(|s| s.compile), start.map(|s| s.first_run)]
                .map(|s| s.map(seconds).unwrap_or_default()),
        );
        cells
    };
    rates.map(row).collect()
}

/// A table of cards and what they should need.
pub fn render_prediction(model: &str, prediction: &CardForecasts) -> String {
    let CardForecasts { workloads, forecasts, learned_from, accuracy } = prediction;
    let mut text = format!("PREDICTED for {model}, not measured: work counted from the plans' dispatches, f32.\n");
    text += &match learned_from.as_slice() {
        [] => "A GUESS: no result of a graphics card is at hand. Rates are from vendors' sheets, of which 35 % of the peak (20 % \
               below 64\nrows) and 75 % of the bandwidth are taken to be reached; launches are estimated. `t5 bench suite --submit` \
               on a card teaches more.\n\n"
            .into(),
        cards => format!(
            "What each kernel reaches of an adapter's ceilings was learned from {}: {}. Ceilings are those\nthat were measured on a \
             card of the name (*), or the share of the vendor's sheet that such cards reach.\n\n",
            cards.len(),
            cards.join("; ")
        ),
    };
    let work = workloads.iter().map(|w| {
        vec![
            w.name.clone(),
            w.dispatches.to_string(),
            number(w.work.flops / 1e9),
            number(w.work.bytes / f64::from(1 << 20)),
        ]
    });
    text += &table(&["a run of", "dispatches", "GFLOP", "MiB moved"], work.collect());
    let _ = writeln!(
        text,
        "\nHow much of a card each kernel can keep busy: of its smallest dispatch (but for those under 64 KiB), the workgroups, \
         and the\ninvocations for each lane of a card of 20, 60 and 130 units of 128 lanes. Below 1, some have nothing to do.\n"
    );
    let kernels = workloads.iter().flat_map(|w| w.kernels.iter().map(move |kernel| (w, kernel)));
    let busy = kernels.map(|(w, k)| {
        let of = |units: u64| number(k.invocations() as f64 / (units * 128) as f64);
        let Workgroup { invocations, shared_bytes } = k.workgroup;
        let cells = [k.dispatches.to_string(), number(k.work.bytes / f64::from(1 << 20)), k.workgroups.to_string()];
        let size = [invocations.to_string(), number(f64::from(shared_bytes) / 1024.0)];
        let names = [w.name.clone(), k.kernel.to_owned()];
        names.into_iter().chain(cells).chain(size).chain([20, 60, 130].map(of)).collect()
    });
    let header = ["a run of", "kernel", "dispatches", "MiB", "workgroups", "of", "KiB shared", "20", "60", "130"];
    text += &table(&header, busy.collect());
    text.push('\n');
    let mut header = vec!["card"];
    let titles: Vec<[String; 2]> =
        workloads.iter().map(|w| [format!("{}: ms", w.name), "tokens/s".to_owned()]).collect();
    header.extend(titles.iter().flatten().map(String::as_str));
    let row = |f: &Forecast| {
        let cells = f.seconds.iter().zip(workloads);
        let cells = cells.flat_map(|(s, w)| [number(1e3 * s), number(w.tokens as f64 / s)]);
        let mark = if f.basis == Basis::Measured { " *" } else { "" };
        [format!("{}{mark}", f.gpu.name)].into_iter().chain(cells).collect()
    };
    text += &table(&header, forecasts.iter().map(row).collect());
    if !accuracy.is_empty() {
        let _ = writeln!(
            text,
            "\nHow far off this is where results are known: efficiencies of the kernels learned from the other results of the kind \
             (cards, or\nsoftware adapters), or where there is none from the adapter's own, with the adapter's own ceilings.\n"
        );
        let rows = accuracy.iter().flat_map(|adapter| {
            adapter.workloads.iter().map(|run| {
                vec![
                    format!("{}, {}", adapter.adapter, run.name),
                    number(1e3 * run.measured),
                    number(1e3 * run.predicted),
                    format!("{:.2}x", run.factor()),
                    if adapter.from_others { "others" } else { "itself" }.into(),
                ]
            })
        });
        text += &table(&["", "measured, ms", "predicted, ms", "off by", "learned from"], rows.collect());
    }
    text
}

fn row(f: &Figure) -> Vec<String> {
    let seconds = match f.unit.as_str() {
        "ms" | "ms/token" => Some(f.value / 1e3),
        _ => None,
    };
    let rate = |work: Option<f64>| match (work, seconds) {
        (Some(work), Some(seconds)) if work > 0.0 => number(work / seconds / 1e9),
        _ => String::new(),
    };
    let spread = if f.samples > 1 { format!("{}-{}", number(f.low), number(f.high)) } else { String::new() };
    vec![
        f.name.clone(),
        format!("{} {}{}", number(f.value), f.unit, if f.unit == "%" && f.value > 100.0 { "!" } else { "" }),
        spread,
        if f.samples > 1 { f.samples.to_string() } else { String::new() },
        f.dispatches.map(|d| d.to_string()).unwrap_or_default(),
        rate(f.flops),
        rate(f.bytes),
        f.ceiling_share.map(share_of_ceiling).unwrap_or_default(),
    ]
}

fn render_profile(profile: &Profile) -> String {
    let rows = profile.kernels.iter().map(|k| {
        vec![
            k.kernel.to_owned(),
            format!("{:.1} %", 100.0 * k.share),
            format!("{} ms", number(1e3 * k.seconds)),
            k.dispatches.to_string(),
            number(k.work.flops / k.seconds.max(1e-12) / 1e9),
            number(k.work.bytes / k.seconds.max(1e-12) / 1e9),
            share_of_ceiling(k.ceiling_share),
        ]
    });
    let header = ["kernel", "of the time", "time", "dispatches", "GF/s", "GB/s", "of ceiling"];
    format!("  where the device's time goes: {}\n{}", profile.name, table(&header, rows.collect()))
}

/// What is over the ceiling is marked: no measurement of the ceiling stands behind it.
fn share_of_ceiling(share: f64) -> String {
    format!("{:.0} %{}", 100.0 * share, if share > 1.0 { "!" } else { "" })
}

/// Four digits, without an exponent where that is readable.
pub(super) fn number(x: f64) -> String {
    let digits = match x.abs() {
        a if a >= 1000.0 || a == 0.0 => 0,
        a if a >= 100.0 => 1,
        a if a >= 10.0 => 2,
        _ => 3,
    };
    format!("{x:.digits$}")
}

/// Columns as wide as their widest cell, the first to the left, the others to the right.
pub(super) fn table(header: &[&str], rows: Vec<Vec<String>>) -> String {
    let widest = |i: usize| {
        let cells = rows.iter().map(|row| row[i].chars().count());
        cells.chain([header[i].chars().count()]).max().unwrap_or(0)
    };
    let empty = |i: usize| rows.iter().all(|row| row[i].is_empty());
    let columns: Vec<(usize, usize)> = (0..header.len()).filter(|&i| !empty(i)).map(|i| (i, widest(i))).collect();
    let line = |cells: &dyn Fn(usize) -> String| {
        let cell = |&(i, width): &(usize, usize)| {
            if i == 0 { format!("{:width$}", cells(i)) } else { format!("{:>width$}", cells(i)) }
        };
        let text = columns.iter().map(cell).collect::<Vec<_>>().join("  ");
        format!("  {}\n", text.trim_end())
    };
    let mut text = line(&|i| header[i].to_owned());
    for row in &rows {
        text += &line(&|i| row[i].clone());
    }
    text
}
