//! `t5 verify`: proves the kernels and the model on an adapter.

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use t5_wgpu::verify::{Row, cases, check_golden, check_gradients, check_kernels};

use super::GpuArgs;

/// Prove every kernel and gradient on this adapter
///
/// Runs each op at awkward sizes and compares it with a naive float64 computation, each gradient rule with finite
/// differences, and, with --golden, whole models with results made by PyTorch: hidden states, logits, loss, every
/// gradient, ten optimiser steps, greedy decoding. Exits with 1 if anything is off.
///
/// The repository's own reference models are in tests/golden:
///   t5 verify --golden tests/golden/flan
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Args {
    /// Check a model folder with reference results instead of the ops; may be given several times
    #[arg(long, value_name = "DIR")]
    golden: Vec<PathBuf>,
    /// Show every comparison, not only the worst of each kind
    #[arg(long)]
    all: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gpu: GpuArgs,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let gpu = args.gpu.open(args.json)?;
    let mut rows = Vec::new();
    if args.golden.is_empty() {
        let cases = cases();
        let bar = ProgressBar::with_draw_target(Some(cases.len() as u64), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}  {eta} left")?);
        for case in &cases {
            bar.set_message(case.name.clone());
            rows.extend(check_kernels(&gpu, case)?);
            rows.extend(check_gradients(case));
            bar.inc(1);
        }
        bar.finish_and_clear();
    }
    for dir in &args.golden {
        for row in pollster::block_on(check_golden(&gpu, dir))? {
            rows.push(Row {
                what: format!("{}: {}", dir.display(), row.what),
                ..row
            });
        }
    }
    let failed = rows.iter().filter(|r| !r.passed()).count();
    if args.json {
        let report = serde_json::json!({
            "adapter": gpu.caps(), "checked": gpu.checked(), "comparisons": rows.len(), "failed": failed, "rows": rows,
        });
        println!("{report:#}");
    } else {
        print_table(&rows, args.all);
        println!("{} comparisons, {failed} failed", rows.len());
    }
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The worst row of each kind: relative to its tolerance, the one closest to failing or beyond.
fn print_table(rows: &[Row], all: bool) {
    let mut kinds: Vec<(String, usize, &Row)> = Vec::new();
    for row in rows {
        let kind = if all { row.what.clone() } else { kind(&row.what) };
        match kinds.iter_mut().find(|(k, ..)| *k == kind) {
            None => kinds.push((kind, 1, row)),
            Some((_, count, worst)) => {
                *count += 1;
                let margin = |r: &Row| r.error / r.tolerance;
                if margin(row) > margin(worst) || row.error.is_nan() {
                    *worst = row;
                }
            }
        }
    }
    let width = kinds.iter().map(|(kind, ..)| kind.len()).max().unwrap_or(0).max(5);
    println!("{:width$}  compared  worst error  allowed", "what");
    for (kind, count, worst) in kinds {
        let verdict = if worst.passed() { "" } else { "  FAILED" };
        println!(
            "{kind:width$}  {count:8}  {:11.1e}  {:7.1e}{verdict}",
            worst.error, worst.tolerance
        );
        if !worst.passed() {
            println!("{:width$}    worst: {}", "", worst.what);
        }
    }
}

/// Groups `matmul Nn Tile [1 1 1] forward c` as `matmul kernels`, `.. d/d x ..` as `matmul gradient rule`, and
/// `DIR: grad/encoder..` as `DIR: grad`.
fn kind(what: &str) -> String {
    if let Some((dir, rest)) = what.split_once(": ") {
        return format!("{dir}: {}", rest.split('/').next().unwrap_or(rest));
    }
    let op = what.split(' ').next().unwrap_or(what);
    let part = if what.contains(" d/d ") {
        "rule against finite differences"
    } else if what.contains(" gradient ") {
        "backward kernels"
    } else {
        "kernels"
    };
    format!("{op} {part}")
}
