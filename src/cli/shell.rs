//! `t5 completions` and `t5 man`: completions and manual pages, from the same source as `--help`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Command;
use clap_complete::{Shell, generate};
use clap_mangen::{Man, generate_to};

use super::console::{print, say};

/// Print a script that completes commands and options in a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  t5 completions bash > ~/.local/share/bash-completion/completions/t5")]
pub struct CompletionsArgs {
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// Print the manual page, or write one for each command
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:\n  t5 man --out ~/.local/share/man/man1")]
pub struct ManArgs {
    /// Write t5.1, t5-train.1 and so on into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub fn completions(args: &CompletionsArgs, mut command: Command) -> Result<()> {
    let mut script = Vec::new();
    generate(args.shell, &mut command, "t5", &mut script);
    Ok(print(str::from_utf8(&script)?)?)
}

pub fn man(args: &ManArgs, mut command: Command) -> Result<()> {
    let Some(folder) = &args.out else {
        command.build();
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return Ok(print(str::from_utf8(&page)?)?);
    };
    let cannot = || format!("cannot write manual pages into {}", folder.display());
    std::fs::create_dir_all(folder).and_then(|()| generate_to(command, folder)).with_context(cannot)?;
    Ok(say!("written: {}", folder.display())?)
}
