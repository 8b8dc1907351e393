//! `t5 verify`: proves the kernels and the model on an adapter.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail};
use t5_wgpu::Error;
use t5_wgpu::gpu::Gpu;
use t5_wgpu::verify::{Case, Row, cases, check_golden, check_gradients, check_kernels, large_cases};

use super::GpuArgs;
use super::console::{duration, end_progress, print, say, show_progress};
use super::exit_code::ExitCode;

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

    fn run(&self, gpu: &Gpu) -> anyhow::Result<Vec<(String, Row)>> {
        let of = |kind: &str, rows: Vec<Row>| rows.into_iter().map(|row| (kind.to_owned(), row)).collect::<Vec<_>>();
        let op = |case: &Case| case.name.split(' ').next().unwrap_or(&case.name).to_owned();
        match self {
            Check::Case(case) => {
                let kernels = of(&op(case), check_kernels(gpu, case)?);
                Ok(kernels.into_iter().chain(of(RULES, check_gradients(case))).collect())
            }
            Check::Large(case) => Ok(of(&op(case), check_kernels(gpu, case)?)),
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
        print(&names)?;
        return Ok(ExitCode::SUCCESS);
    }
    let gpu = args.gpu.open(args.json)?;
    let (mut rows, mut refused) = (Vec::new(), Vec::new());
    let start = Instant::now();
    for (done, check) in checks.iter().enumerate() {
        let left = start.elapsed().as_secs_f64() / done.max(1) as f64 * (checks.len() - done) as f64;
        show_progress(done as u64, checks.len() as u64, &format!("{} left  {}", duration(left), check.name()));
        match check.run(&gpu) {
            Ok(found) => rows.extend(found),
            // One kernel that a driver refuses says nothing about the others.
            Err(error) if matches!(error.downcast_ref(), Some(Error::Shader(_))) => {
                refused.push((check.name(), format!("{error:#}")));
            }
            Err(error) if args.golden.is_empty() => return Err(error.context(format!("check `{}`", check.name()))),
            Err(error) => return Err(error),
        }
    }
    end_progress();
    let failed = rows.iter().filter(|(_, row)| !row.passed()).count();
    if args.json {
        let rows: Vec<&Row> = rows.iter().map(|(_, row)| row).collect();
        let refused: Vec<_> =
            refused.iter().map(|(check, error)| serde_json::json!({ "check": check, "error": error })).collect();
        let report = serde_json::json!({
            "adapter": gpu.caps(), "checked": gpu.checked(), "comparisons": rows.len(), "failed": failed,
            "refused": refused, "rows": rows,
        });
        say!("{report:#}")?;
    } else {
        print(&table(&rows, args.all))?;
        for (check, error) in &refused {
            say!("\n{check}: the driver refused a kernel: {error}\n")?;
        }
        say!("{} comparisons, {failed} failed; {} checks refused", rows.len(), refused.len())?;
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

fn check_folder(gpu: &Gpu, name: &str, dir: &Path) -> anyhow::Result<Vec<(String, Row)>> {
    let named = |row: Row| {
        let kind = format!("{name}: {}", row.what.split('/').next().unwrap_or(&row.what));
        (kind, Row { what: format!("{name}: {}", row.what), ..row })
    };
    Ok(pollster::block_on(check_golden(gpu, dir))?.into_iter().map(named).collect())
}

/// A file's name and contents.
type File = (&'static str, &'static [u8]);

macro_rules! golden {
    ($folder:literal: $($file:literal)*) => {
        ($folder, &[$(($file, include_bytes!(concat!("../../tests/golden/", $folder, "/", $file)))),*])
    };
}

const BUILT_IN: &[(&str, &[File])] = &[
    golden!("t5v10": "config.json" "model.safetensors" "golden.safetensors" "golden.json"),
    golden!("flan": "config.json" "model.safetensors" "golden.safetensors" "golden.json"),
];

/// The kind of all gradient rules together.
const RULES: &str = "gradient rules, by finite differences";

/// Columns that names may take, and how many rows that failed are named.
const WIDEST: usize = 70;
const MOST_NAMED: usize = 10;

/// The worst row of each kind (or each row): relative to its tolerance, the one closest to failing or beyond. Then the worst of
/// those that failed.
fn table(rows: &[(String, Row)], all: bool) -> String {
    let margin = |row: &Row| if row.error.is_nan() { f64::INFINITY } else { row.error / row.tolerance };
    let mut kinds: Vec<(&str, usize, &Row)> = Vec::new();
    for (kind, row) in rows {
        let kind = if all { &row.what } else { kind };
        match kinds.iter_mut().find(|(k, ..)| k == kind) {
            None => kinds.push((kind, 1, row)),
            Some((_, count, worst)) => {
                *count += 1;
                if margin(row) > margin(worst) {
                    *worst = row;
                }
            }
        }
    }
    let name = |text: &str| if all { text.to_owned() } else { shortened(text, WIDEST) };
    let width = kinds.iter().map(|(kind, ..)| name(kind).chars().count()).max().unwrap_or(0).max(5);
    let mut text = format!("{:width$}  compared  worst error  allowed\n", "what");
    for (kind, count, worst) in &kinds {
        let verdict = if worst.passed() { "" } else { "  FAILED" };
        text +=
            &format!("{:width$}  {count:8}  {:11.1e}  {:7.1e}{verdict}\n", name(kind), worst.error, worst.tolerance);
    }
    let mut failed: Vec<&Row> = kinds.iter().map(|(.., worst)| *worst).filter(|row| !row.passed()).collect();
    failed.sort_by(|a, b| margin(b).total_cmp(&margin(a)));
    for row in failed.iter().take(MOST_NAMED).filter(|_| !all) {
        text += &format!("failed, {:.1e} of {:.1e}: {}\n", row.error, row.tolerance, shortened(&row.what, 85));
    }
    text
}

/// Both ends of a text that is longer than so many characters.
fn shortened(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let half = most / 2 - 2;
    letters[..half].iter().chain(&['.'; 3]).chain(&letters[letters.len() - half..]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use t5_wgpu::verify::cases;

    #[test]
    fn a_report_fits_the_screen_even_if_all_fails() {
        let mut rows: Vec<(String, Row)> = Vec::new();
        let row = |what: String, error: f64| Row { what, error, tolerance: 1e-5 };
        for case in cases() {
            let op = case.name.split(' ').next().unwrap().to_owned();
            rows.push((op, row(format!("{} forward out {}", case.name, "x".repeat(90)), f64::NAN)));
            rows.push((RULES.into(), row(format!("{} d/d x", case.name), 2.0)));
        }
        for kind in 0..20 {
            rows.push((format!("/{}: grad {kind}", "long/".repeat(40)), row("grad/x".into(), 1.0)));
        }
        let report = table(&rows, false);
        assert!(report.lines().count() <= 58, "{}", report.lines().count());
        assert!(report.lines().all(|line| line.chars().count() <= 120), "{report}");
        assert_eq!(report.lines().filter(|line| line.starts_with("failed, ")).count(), MOST_NAMED);
        assert!(table(&rows, true).lines().count() > 58);
    }
}
