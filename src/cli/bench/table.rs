//! `t5 bench table`: lays results side by side.

use std::path::PathBuf;

use anyhow::bail;
use t5_wgpu::bench::{read_results, table_html, table_text};
use t5_wgpu::files;

use super::RESULTS;
use crate::cli::console::{note, print, say};
use crate::cli::exit_code::ExitCode;

const EXAMPLES: &str = "\
Examples:
  The results that came with the repository, and those of this machine:
    t5 bench table
  As a page:
    t5 bench table results --html cards.html";

/// Lay results of `t5 bench suite` side by side
///
/// Reads every .json in a folder and the folders in it. A figure whose workload did not pass its gate is struck out (~~1234~~);
/// - stands for what was left out. A file that is none, or is of another schema, is named, and the exit code is 1.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Folders with results
    #[arg(value_name = "DIR", default_value = RESULTS)]
    folders: Vec<PathBuf>,
    /// Write a page that needs no network; it shows light or dark as the reader's system does
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Print all results as one JSON document
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let (mut results, mut bad) = (Vec::new(), Vec::new());
    for folder in &args.folders {
        let found = read_results(folder)?;
        results.extend(found.results);
        bad.extend(found.bad);
    }
    for bad in &bad {
        note!("not read: {}", bad.error);
    }
    if results.is_empty() && bad.is_empty() {
        let folders: Vec<String> = args.folders.iter().map(|folder| folder.display().to_string()).collect();
        bail!("there is no result in {}: `t5 bench suite --submit` makes one", folders.join(", "));
    }
    if args.json {
        let results: Vec<_> = results
            .iter()
            .map(|(path, result)| serde_json::json!({"path": path.display().to_string(), "result": result}))
            .collect();
        let bad: Vec<_> = bad
            .iter()
            .map(|bad| serde_json::json!({"path": bad.path.display().to_string(), "error": bad.error.to_string()}))
            .collect();
        say!("{:#}", serde_json::json!({"format": "t5-bench-table", "schema": 1, "results": results, "bad": bad}))?;
    }
    let results: Vec<_> = results.into_iter().map(|(_, result)| result).collect();
    if !args.json && !results.is_empty() {
        print(&table_text(&results))?;
    }
    if let Some(path) = &args.html {
        files::write_atomic(path, table_html(&results).as_bytes())?;
        note!("wrote {}: open it in a browser", path.display());
    }
    if bad.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    note!("error: {} of {} files could not be read", bad.len(), bad.len() + results.len());
    Ok(ExitCode::FAILURE)
}
