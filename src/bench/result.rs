//! The result of a suite as a file: its schema, its place in a folder of results, reading and writing.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::gate::Gate;
use super::machine::MachineFacts;
use super::report::Figure;
use super::workload::WorkloadKind;
use crate::error::{Error, Result};
use crate::files::{self, SETTINGS_LIMIT};

/// What every such file says first, so that other JSON is not mistaken for one.
pub const SUITE_FORMAT: &str = "t5-bench-suite";

/// The version of the saved form, which docs/benchmarks.md describes; a reader refuses others.
pub const SUITE_SCHEMA: u32 = 1;

/// Everything that a suite measured, and the circumstances.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuiteResult {
    /// [`SUITE_FORMAT`].
    pub format: String,
    pub schema: u32,
    /// UTC, as `2026-01-31T12:00:00Z`.
    pub date: String,
    /// Of this program.
    pub version: String,
    /// Of the sources that it was built from.
    pub commit: Option<String>,
    pub machine: MachineFacts,
    pub settings: SuiteSettings,
    /// Seconds that opening the adapter and its device took.
    pub adapter_seconds: f64,
    pub ceilings: SuiteCeilings,
    pub workloads: Vec<WorkloadResult>,
}

/// What may differ between two runs on one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SuiteSettings {
    /// Measuring time of each figure.
    pub seconds: f64,
    /// How kernels were chosen: "off" (by rule), "cache" or "on" (measured).
    pub tune: String,
    /// Whether shaders had bounds checks.
    pub checked: bool,
    /// The kernels that measurements chose, by class of shapes; classes that are not here went by rule.
    pub choices: Vec<KernelChoice>,
}

/// Which kernel a class of shapes got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelChoice {
    pub class: String,
    pub variant: String,
    /// What the rule would have taken.
    pub rule: String,
}

/// The adapter's own rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SuiteCeilings {
    /// Floating-point operations a second of the fastest f32 product.
    pub flops: f64,
    /// Bytes a second of a copy, read and written.
    pub bytes: f64,
    /// Seconds from one dispatch to the next that depends on it.
    pub dispatch_seconds: f64,
    /// Which product that was.
    pub product: String,
}

/// One workload.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkloadResult {
    /// `t5-small/enc-512x8`
    pub name: String,
    pub model: String,
    pub kind: WorkloadKind,
    pub batch: usize,
    pub source_len: usize,
    pub target_len: usize,
    /// Why it was not measured; then nothing follows.
    pub left_out: Option<String>,
    pub gate: Option<Gate>,
    /// The first is the workload's own: tokens/s, or ms/token of decoding. Without a gate that is passed, none of them counts.
    pub figures: Vec<Figure>,
    pub cold: Option<ColdStart>,
    pub sustained: Option<Sustained>,
    /// Of one run; of decoding, of one step.
    pub kernels: Vec<KernelWork>,
}

/// Seconds until the first result. Drivers may find their kernels in a cache of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ColdStart {
    /// Making the weights and bringing them to the device; nothing for a model's later workloads.
    pub weights: f64,
    /// Recording plans, compiling kernels, measuring which of them are the fastest.
    pub compile: f64,
    pub first_run: f64,
}

/// Whether the speed lasts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sustained {
    /// Seconds that it ran without a pause.
    pub seconds: f64,
    pub runs: usize,
    /// Median seconds of a run in the first and in the last fifth.
    pub first: f64,
    pub last: f64,
    /// Share of the speed that was lost from the first to the last.
    pub drop: f64,
}

/// All dispatches of one kernel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelWork {
    pub kernel: String,
    /// Its constants, as the shaders' headers have them; several where it was built several times.
    pub variants: Vec<String>,
    pub dispatches: usize,
    pub flops: f64,
    pub bytes: f64,
    /// On the device, where it has a clock.
    pub seconds: Option<f64>,
}

impl WorkloadResult {
    /// The workload's own figure, if it was measured and may count.
    pub fn counted(&self) -> Option<&Figure> {
        self.figures.first().filter(|_| self.gate.as_ref().is_some_and(|gate| gate.passed))
    }

    /// Seconds of one run: of decoding, of one step.
    pub fn run_seconds(&self) -> Option<f64> {
        let figure = self.figures.first()?;
        let tokens = match self.kind {
            WorkloadKind::Decode => return Some(figure.value / 1e3),
            WorkloadKind::Encoder | WorkloadKind::Train => self.batch * (self.source_len + self.target_len),
        };
        Some(tokens as f64 / figure.value)
    }
}

impl SuiteResult {
    /// Whether every workload that was measured passed its gate, and one was measured.
    pub fn passed(&self) -> bool {
        let mut gates = self.workloads.iter().filter_map(|w| w.gate.as_ref()).peekable();
        gates.peek().is_some() && gates.all(|gate| gate.passed)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// `Io` or `File`: not there, no result of a suite, or one of another schema.
    pub fn read(path: &Path) -> Result<SuiteResult> {
        let text = files::read_text(path, SETTINGS_LIMIT)?;
        let wrong =
            |e: serde_json::Error| Error::line(path, e.line(), format!("is not a result of `t5 bench suite`: {e}"));
        let value: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
        if value["format"] != SUITE_FORMAT {
            let what = match value.get("schema") {
                Some(_) => {
                    "is a report of `t5 bench --json`; only `t5 bench suite --submit` writes what can be compared here"
                }
                None => "is not a result of `t5 bench suite`: it lacks the format's name",
            };
            return Err(Error::file(path, what));
        }
        // The schema first: another one may have other fields.
        match value["schema"].as_u64() {
            Some(schema) if schema == u64::from(SUITE_SCHEMA) => {
                let result: SuiteResult = serde_json::from_str(&text).map_err(wrong)?;
                result.check().map_err(|what| Error::file(path, what))?;
                Ok(result)
            }
            Some(schema) => Err(Error::file(
                path,
                format!(
                    "has schema {schema}, this program reads {SUITE_SCHEMA}: measure again, or use a program of its version"
                ),
            )),
            None => Err(Error::file(path, "is not a result of `t5 bench suite`: it has no schema")),
        }
    }

    /// What a file can say that this program never writes.
    fn check(&self) -> Result<(), String> {
        for workload in &self.workloads {
            let positive = |x: f64| x.is_finite() && x > 0.0;
            if workload.left_out.is_none() && (workload.gate.is_none() || workload.figures.is_empty()) {
                return Err(format!("{}: neither left out nor measured", workload.name));
            }
            if let Some(figure) = workload.figures.iter().find(|f| !(f.value.is_finite() && f.low <= f.high)) {
                return Err(format!("{}: {} is no measurement", workload.name, figure.name));
            }
            if workload.figures.first().is_some_and(|figure| !positive(figure.value)) {
                return Err(format!("{}: its figure is not positive", workload.name));
            }
        }
        Ok(())
    }

    /// Writes it into a folder of results, and gives the file's path.
    ///
    /// # Errors
    /// Those of [`submission_path`]; `Io`.
    pub fn submit(&self, folder: &Path, replace: bool) -> Result<PathBuf> {
        let path = submission_path(folder, &self.machine, replace)?;
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        files::write_atomic(&path, (self.json() + "\n").as_bytes())?;
        Ok(path)
    }

    /// As it is saved.
    pub fn json(&self) -> String {
        // Plain numbers, texts and lists always become JSON.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// The file of a machine's result below a folder of results: `VENDOR/GPU/DRIVER.json`; on a software adapter the processor stands for the
/// GPU.
///
/// # Errors
/// `File` if it is there and is not to be replaced.
pub fn submission_path(folder: &Path, machine: &MachineFacts, replace: bool) -> Result<PathBuf> {
    let adapter = &machine.adapter;
    let driver = match machine.is_software() {
        true => format!("{} {}", adapter.driver, adapter.driver_info),
        false => format!("{} {}", adapter.backend, adapter.driver_info),
    };
    let [vendor, chip, driver] = [adapter.vendor.clone(), machine.chip(), driver].map(|part| file_name(&part));
    let path = folder.join(vendor).join(chip).join(format!("{driver}.json"));
    if path.exists() && !replace {
        return Err(Error::file(&path, "is there already: choose another folder, or replace it with --force"));
    }
    Ok(path)
}

/// Longest part of a path.
const MOST_LETTERS: usize = 60;

/// A text as the name of a file on any system: small letters, digits, dots and hyphens, never nothing and never a device of Windows.
fn file_name(text: &str) -> String {
    let mut name = String::new();
    for c in text.to_lowercase().chars() {
        match c {
            c if c.is_ascii_alphanumeric() => name.push(c),
            '.' if !name.is_empty() && !name.ends_with(['-', '.']) => name.push('.'),
            _ if name.ends_with(['-', '.']) || name.is_empty() => {}
            _ => name.push('-'),
        }
    }
    name.truncate(MOST_LETTERS);
    let name = name.trim_end_matches(['-', '.']);
    let stem = name.split('.').next().unwrap_or_default();
    let digits = |rest: &str| rest.len() == 1 && rest.chars().all(|c| c.is_ascii_digit());
    let is_device = matches!(stem, "con" | "prn" | "aux" | "nul")
        || stem.strip_prefix("com").is_some_and(digits)
        || stem.strip_prefix("lpt").is_some_and(digits);
    match name {
        "" => "unknown".into(),
        name if is_device => format!("x-{name}"),
        name => name.into(),
    }
}

/// What a folder of results holds, in the order of the paths.
#[derive(Debug, Default)]
pub struct ResultsFolder {
    pub results: Vec<(PathBuf, SuiteResult)>,
    pub bad: Vec<BadResult>,
}

/// A file below a folder of results that is none.
#[derive(Debug)]
pub struct BadResult {
    pub path: PathBuf,
    pub error: Error,
}

/// Folders within folders that are looked into; [`submission_path`] makes two.
const MOST_FOLDERS: usize = 4;

/// Reads every `.json` below a folder.
///
/// # Errors
/// `Io` if the folder itself cannot be read. What cannot be read below it is among the bad ones.
pub fn read_results(folder: &Path) -> Result<ResultsFolder> {
    let mut found = ResultsFolder::default();
    let mut paths = entries(folder)?;
    for _ in 0..MOST_FOLDERS {
        let (folders, files): (Vec<_>, Vec<_>) = paths.into_iter().partition(|path| path.is_dir());
        for path in files.into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "json")) {
            match SuiteResult::read(&path) {
                Ok(result) => found.results.push((path, result)),
                Err(error) => found.bad.push(BadResult { path, error }),
            }
        }
        paths = Vec::new();
        for path in folders {
            match entries(&path) {
                Ok(entries) => paths.extend(entries),
                Err(error) => found.bad.push(BadResult { path, error }),
            }
        }
    }
    found.results.sort_by(|a, b| a.0.cmp(&b.0));
    found.bad.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let read = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    Ok(read.flatten().map(|entry| entry.path()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_everywhere() {
        for (text, name) in [
            ("NVIDIA GeForce RTX 4090", "nvidia-geforce-rtx-4090"),
            ("llvmpipe Mesa 25.0.7-1~bpo (LLVM 19.1.7)", "llvmpipe-mesa-25.0.7-1-bpo-llvm-19.1.7"),
            ("../../etc/passwd", "etc-passwd"),
            ("AMD Radeon(TM)", "amd-radeon-tm"),
            ("con", "x-con"),
            ("LPT1.x", "x-lpt1.x"),
            ("", "unknown"),
            ("日本", "unknown"),
            ("a..b", "a.b"),
        ] {
            assert_eq!(file_name(text), name, "{text}");
        }
        assert_eq!(file_name(&"a".repeat(500)).len(), MOST_LETTERS);
    }
}
