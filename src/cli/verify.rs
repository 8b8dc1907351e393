//! `t5 verify`: proves the kernels and the model on an adapter.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use t5_wgpu::gpu::Gpu;
use t5_wgpu::verify::{Row, cases, check_golden, check_gradients, check_kernels, large_cases};

use super::GpuArgs;
use super::console::say;

const EXAMPLES: &str = "\
Examples:
  This adapter, once with and once without run-time checks in the shaders:
    t5 verify && T5_CHECKED=1 t5 verify
  A folder with reference results, laid out as tests/golden/README.md says:
    t5 verify --golden tests/golden/byt5";

/// Prove every kernel and gradient on this adapter
///
/// Runs each op at awkward and at large sizes and compares it with a naive float64 computation, each gradient rule with
/// finite differences, and two small models (a T5 v1.0 and a Flan-T5, built into this program) with results made by PyTorch:
/// hidden states, logits, loss, every gradient, ten optimiser steps, greedy decoding. Exits with 1 if anything is off.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Check this model folder with its reference results instead; may be given several times
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
        let (cases, large) = (cases(), large_cases());
        let bar = ProgressBar::with_draw_target(Some((cases.len() + large.len()) as u64), ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}  {eta} left")?);
        for case in &cases {
            bar.set_message(case.name.clone());
            rows.extend(check_kernels(&gpu, case)?);
            rows.extend(check_gradients(case));
            bar.inc(1);
        }
        for case in &large {
            bar.set_message(case.name.clone());
            rows.extend(check_kernels(&gpu, case)?);
            bar.inc(1);
        }
        bar.finish_and_clear();
        for (name, files) in BUILT_IN {
            let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
            for (file, bytes) in *files {
                let path = folder.path().join(file);
                std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
            }
            check_folder(&gpu, name, folder.path(), &mut rows)?;
        }
    }
    for dir in &args.golden {
        check_folder(&gpu, &dir.display().to_string(), dir, &mut rows)?;
    }
    let failed = rows.iter().filter(|r| !r.passed()).count();
    if args.json {
        let report = serde_json::json!({
            "adapter": gpu.caps(), "checked": gpu.checked(), "comparisons": rows.len(), "failed": failed, "rows": rows,
        });
        say!("{report:#}")?;
    } else {
        print_table(&rows, args.all)?;
        say!("{} comparisons, {failed} failed", rows.len())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn check_folder(gpu: &Gpu, name: &str, dir: &Path, rows: &mut Vec<Row>) -> anyhow::Result<()> {
    for row in pollster::block_on(check_golden(gpu, dir))? {
        let what = format!("{name}: {}", row.what);
        rows.push(Row { what, ..row });
    }
    Ok(())
}

/// A file's name and contents.
type File = (&'static str, &'static [u8]);

macro_rules! golden {
    ($folder:literal, $file:literal) => {
        ($file, include_bytes!(concat!("../../tests/golden/", $folder, "/", $file)).as_slice())
    };
}

const BUILT_IN: &[(&str, &[File])] = &[
    (
        "t5v10",
        &[
            golden!("t5v10", "config.json"),
            golden!("t5v10", "model.safetensors"),
            golden!("t5v10", "golden.safetensors"),
            golden!("t5v10", "golden.json"),
        ],
    ),
    (
        "flan",
        &[
            golden!("flan", "config.json"),
            golden!("flan", "model.safetensors"),
            golden!("flan", "golden.safetensors"),
            golden!("flan", "golden.json"),
        ],
    ),
];

/// The worst row of each kind: relative to its tolerance, the one closest to failing or beyond.
fn print_table(rows: &[Row], all: bool) -> std::io::Result<()> {
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
    say!("{:width$}  compared  worst error  allowed", "what")?;
    for (kind, count, worst) in kinds {
        let verdict = if worst.passed() { "" } else { "  FAILED" };
        say!("{kind:width$}  {count:8}  {:11.1e}  {:7.1e}{verdict}", worst.error, worst.tolerance)?;
        if !worst.passed() {
            say!("{:width$}    worst: {}", "", worst.what)?;
        }
    }
    Ok(())
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
