//! `t5 data`: turns published data sets into the files that training reads.

use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;
use t5_wgpu::data::cmudict::{CmuDict, Written};

use super::console::say;

/// Turn published data sets into training files
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  t5 data cmudict --out runs/cmudict")]
pub struct Args {
    #[command(subcommand)]
    set: Set,
}

#[derive(Debug, Subcommand)]
enum Set {
    /// English words and their pronunciations: writes train.tsv, validation.tsv and test.tsv
    Cmudict {
        /// The dictionary, plain or gzipped
        #[arg(long, default_value = "data/cmudict.dict.gz")]
        dict: PathBuf,
        /// Folder for the files, created if missing
        #[arg(long)]
        out: PathBuf,
        /// Replace files that are there already
        #[arg(long)]
        force: bool,
    },
}

pub fn run(args: Args) -> anyhow::Result<()> {
    match args.set {
        Set::Cmudict { dict, out, force } => {
            let words = CmuDict::open(&dict).context("reading the pronouncing dictionary")?;
            let written = words.write_tsv(&out, force)?;
            for Written { path, words, lines, .. } in written {
                say!("{}: {words} words, {lines} lines", path.display())?;
            }
            say!("{} lines with words of other characters than a-z ' . - were left out", words.skipped)?;
            Ok(())
        }
    }
}
