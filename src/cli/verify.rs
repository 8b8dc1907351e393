//! `t5 verify`: proves the kernels and the model on an adapter.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use t5_wgpu::Error;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::verify::{Case, Row, cases, check_golden, check_gradients, check_kernels, large_cases};

use super::GpuArgs;

const EXAMPLES: &str = "\
Examples:
  This adapter, once with and once without run-time checks in the shaders:
    t5 verify && T5_CHECKED=1 t5 verify
  The checks of one op, or one check that failed:
    t5 verify --only attention_decode
    t5 verify --only 'matmul Nn Tile [1 1 1]' --all
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
    /// Run only the checks that have this text in their name; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// List the names of the checks and run none
    #[arg(long)]
    list: bool,
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

/// What has a name for `--only` and is run as a whole.
enum Check {
    /// An op's kernels and its gradient rule.
    Case(Case),
    /// An op's kernels alone: finite differences would take hours.
    Large(Case),
    /// A model of this program.
    BuiltIn(&'static str, &'static [File]),
    Folder(PathBuf),
}

impl Check {
    fn name(&self) -> String {
        match self {
            Check::Case(case) | Check::Large(case) => case.name.clone(),
            Check::BuiltIn(name, _) => (*name).to_owned(),
            Check::Folder(dir) => dir.display().to_string(),
        }
    }

    fn run(&self, gpu: &Gpu) -> anyhow::Result<Vec<Row>> {
        match self {
            Check::Case(case) => Ok([check_kernels(gpu, case)?, check_gradients(case)].concat()),
            Check::Large(case) => Ok(check_kernels(gpu, case)?),
            Check::BuiltIn(name, files) => {
                let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
                for (file, bytes) in *files {
                    let path = folder.path().join(file);
                    std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
                }
                check_folder(gpu, name, folder.path())
            }
            Check::Folder(dir) => check_folder(gpu, &self.name(), dir),
        }
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let checks = selected(args)?;
    if args.list {
        let names: String = checks.iter().map(|check| check.name() + "\n").collect();
        std::io::stdout().write_all(names.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    let gpu = args.gpu.open(args.json)?;
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    let bar = ProgressBar::with_draw_target(Some(checks.len() as u64), ProgressDrawTarget::stderr());
    bar.set_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}  {eta} left")?);
    for check in &checks {
        bar.set_message(check.name());
        match check.run(&gpu) {
            Ok(found) => rows.extend(found),
            // One kernel that a driver refuses says nothing about the others.
            Err(error) if matches!(error.downcast_ref(), Some(Error::Shader(_))) => {
                refused.push((check.name(), format!("{error:#}")));
            }
            Err(error) if args.golden.is_empty() => return Err(error.context(format!("check `{}`", check.name()))),
            Err(error) => return Err(error),
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    let failed = rows.iter().filter(|r| !r.passed()).count();
    if args.json {
        let refused: Vec<_> =
            refused.iter().map(|(check, error)| serde_json::json!({ "check": check, "error": error })).collect();
        let report = serde_json::json!({
            "adapter": gpu.caps(), "checked": gpu.checked(), "comparisons": rows.len(), "failed": failed,
            "refused": refused, "rows": rows,
        });
        println!("{report:#}");
    } else {
        print_table(&rows, args.all);
        for (check, error) in &refused {
            println!("\n{check}: the driver refused a kernel: {error}\n");
        }
        println!("{} comparisons, {failed} failed; {} checks refused", rows.len(), refused.len());
    }
    Ok(if failed == 0 && refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that `--golden` and `--only` ask for.
fn selected(args: &Args) -> anyhow::Result<Vec<Check>> {
    let mut checks: Vec<Check> = args.golden.iter().cloned().map(Check::Folder).collect();
    if checks.is_empty() {
        checks.extend(cases().into_iter().map(Check::Case));
        checks.extend(large_cases().into_iter().map(Check::Large));
        checks.extend(BUILT_IN.iter().map(|(name, files)| Check::BuiltIn(name, files)));
    }
    if let Some(text) = args.only.iter().find(|&text| !checks.iter().any(|check| check.name().contains(text))) {
        bail!("no check has `{text}` in its name: `t5 verify --list` shows them all");
    }
    checks.retain(|check| args.only.is_empty() || args.only.iter().any(|text| check.name().contains(text)));
    Ok(checks)
}

fn check_folder(gpu: &Gpu, name: &str, dir: &Path) -> anyhow::Result<Vec<Row>> {
    let found = pollster::block_on(check_golden(gpu, dir))?;
    Ok(found.into_iter().map(|row| Row { what: format!("{name}: {}", row.what), ..row }).collect())
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
        println!("{kind:width$}  {count:8}  {:11.1e}  {:7.1e}{verdict}", worst.error, worst.tolerance);
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
