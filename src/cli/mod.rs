//! The command line: one file per subcommand, each thin. Only here are clap, anyhow and ratatui known.

mod bench;
mod classify;
mod console;
mod convert;
mod data;
mod decoding;
mod devices;
mod dry_run;
mod embed;
mod environment;
mod eval;
mod exit_code;
mod forecast;
mod generate;
mod hub;
mod model_args;
mod pairs;
mod prefix;
mod progress;
mod report;
mod run;
mod score;
mod screen;
mod shell;
mod show_objective;
mod signals;
mod sources;
mod study;
mod timings;
mod tokenize;
mod tokenizer;
mod train;
mod tune;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use console::note;
use exit_code::ExitCode;
use t5_wgpu::bench::Subject;
use t5_wgpu::error::HubProblem;
use t5_wgpu::gpu::{Gpu, GpuOptions};
use t5_wgpu::hub::ModelName;
use t5_wgpu::recipe::Recipe;
use t5_wgpu::recipe::checkpoint::{model_of_run, tokenizer_of_run};
use t5_wgpu::tokenizer::Tokenizer;
use t5_wgpu::tune::cache::{Cache, Identity};
use t5_wgpu::tune::{Mode, TuneBudget, Tuner};

/// Train and run T5 on any GPU.
///
/// Everything numeric is computed by WGSL shaders through Vulkan, Metal or DirectX 12, on whatever adapter there is:
/// AMD, Intel, Apple, Qualcomm, NVIDIA, or a software driver.
#[derive(Parser)]
#[command(name = "t5", version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Devices(devices::Args),
    Verify(verify::Args),
    Run(run::Args),
    Study(study::Args),
    Train(Box<train::Args>),
    Eval(eval::Args),
    Generate(generate::Args),
    Score(score::Args),
    Embed(embed::Args),
    Classify(classify::Args),
    Forecast(forecast::Args),
    Tune(tune::Args),
    Tokenize(tokenize::Args),
    Tokenizer(tokenizer::Args),
    ShowObjective(show_objective::Args),
    Data(data::Args),
    Convert(convert::Args),
    Report(report::Args),
    Bench(bench::Args),
    Completions(shell::CompletionsArgs),
    Man(shell::ManArgs),
}

/// Which adapter to compute on.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GpuArgs {
    /// The adapter: its number in `t5 devices`, or a part of its name [default: the most capable]
    #[arg(long, value_name = "INDEX|NAME", env = "T5_ADAPTER", global = true)]
    pub adapter: Option<String>,
}

impl GpuArgs {
    /// Opens the adapter and says on standard error which it is.
    pub fn open(&self, quiet: bool) -> t5_wgpu::Result<Gpu> {
        let options = GpuOptions { adapter: self.adapter.clone(), ..environment::gpu_options() };
        let gpu = pollster::block_on(Gpu::open(&options))?;
        let caps = gpu.caps();
        if quiet {
            console::mute();
        } else {
            progress::show_compiling(&gpu);
            note!("adapter: {caps}");
            console::doing("preparing");
            if let Some(warning) = caps.warning() {
                note!("warning: {warning} (`make test` and `make demo` fetch a newer one where they can)");
            }
        }
        Ok(gpu)
    }
}

/// The model's folder that `--model` means: of a run's folder its best checkpoint, of a name on the hub the folder in the cache, which is
/// said unless `quiet`.
pub fn model_folder(path: &Path, quiet: bool) -> t5_wgpu::Result<PathBuf> {
    if let Some(name) = ModelName::in_place_of(path) {
        return hub::fetch(&name, quiet);
    }
    let Some((folder, about)) = model_of_run(path)? else { return Ok(path.to_path_buf()) };
    if !quiet {
        note!("{} in {}", about.trim_end_matches(','), folder.display());
    }
    Ok(folder)
}

/// The tokenizer that `--tokenizer` means: a file, a folder, "bytes", or that of a run's folder.
pub fn open_tokenizer(spec: &str) -> t5_wgpu::Result<Tokenizer> {
    Tokenizer::open(&tokenizer_of_run(spec)?)
}

/// The recipe in a file, whose model may be one of the hub's.
pub fn read_recipe(file: &Path, overrides: &[String], quiet: bool) -> t5_wgpu::Result<Recipe> {
    let of_hub =
        |path: &Path| path.to_str().and_then(ModelName::parse).map(|name| hub::fetch(&name, quiet)).transpose();
    Recipe::read_finding(file, overrides, &of_hub)
}

/// The model that is measured: a published size, a config.json, or the folder that `model_folder` finds.
pub fn subject(model: &str, quiet: bool) -> t5_wgpu::Result<Subject> {
    let path = Path::new(model);
    match path.is_dir() || ModelName::in_place_of(path).is_some() {
        true => Ok(Subject::Folder(model_folder(path, quiet)?)),
        false => Subject::parse(model),
    }
}

/// How kernels are chosen.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct TuneArgs {
    /// Kernels where several can do the work: by fixed rules (off), as `t5 tune` and earlier runs measured (cache), or measured
    /// now, for some seconds, where that is not known (on)
    #[arg(long, value_name = "off|cache|on", env = "T5_TUNE", value_parser = str::parse::<Mode>)]
    pub tune: Option<Mode>,
}

impl TuneArgs {
    /// The tuner that was asked for, or else one of this mode.
    pub fn open(&self, gpu: &Gpu, default: Mode, budget: TuneBudget) -> Tuner {
        Tuner::new(self.tune.unwrap_or(default), budget, cache_of(gpu))
    }
}

/// The file that timings on this adapter are kept in, if there is a place for it.
fn cache_of(gpu: &Gpu) -> Option<Cache> {
    Some(Cache::new(&environment::cache_folder()?, Identity::of(gpu)))
}

/// The program's commands and options. `-1` is a number, not an option.
fn command() -> clap::Command {
    fn with_numbers(command: clap::Command) -> clap::Command {
        command.mut_args(|arg| arg.allow_negative_numbers(true)).mut_subcommands(with_numbers)
    }
    with_numbers(Cli::command())
}

/// Parses the arguments, runs the command, prints its error, and chooses the exit code.
pub fn main() -> ExitCode {
    LazyLock::force(&timings::START);
    let arguments = command().get_matches();
    let cli = Cli::from_arg_matches(&arguments).unwrap_or_else(|e| e.exit());
    let result = match cli.command {
        Command::Devices(args) => devices::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Run(args) => run::run(&args),
        Command::Study(args) => study::run(&args),
        Command::Train(args) => train::run(*args),
        Command::Eval(args) => eval::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Generate(args) => generate::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Score(args) => score::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Embed(args) => embed::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Classify(args) => classify::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Forecast(args) => forecast::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tune(args) => tune::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Tokenize(args) => tokenize::run(args).map(|()| ExitCode::SUCCESS),
        Command::Tokenizer(args) => tokenizer::run(args).map(|()| ExitCode::SUCCESS),
        Command::ShowObjective(args) => show_objective::run(args).map(|()| ExitCode::SUCCESS),
        Command::Convert(args) => convert::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Data(args) => data::run(args).map(|()| ExitCode::SUCCESS),
        Command::Report(args) => report::run(args).map(|()| ExitCode::SUCCESS),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => shell::completions(&args, command()).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => shell::man(&args, command()).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        console::end_progress();
        if console::reader_left(&error) {
            return ExitCode::SUCCESS;
        }
        note!("error: {error:#}");
        if let Some(advice) = error.downcast_ref().and_then(advice) {
            note!("{advice}");
        }
        ExitCode::FAILURE
    })
}

/// What the command line can do about an error of the library, which knows no flags.
fn advice(error: &t5_wgpu::Error) -> Option<&'static str> {
    match error {
        t5_wgpu::Error::Vocabulary { .. } => Some(
            "--tokenizer names a tokenizer; a model from scratch has as many rows as --vocab says, or as its tokenizer needs; \
             `t5 train --add-token` adds tokens to a model's own vocabulary, and rows for them",
        ),
        t5_wgpu::Error::Hub { problem: HubProblem::Access, .. } => {
            Some("the token is taken from the environment variable HF_TOKEN, or where `hf auth login` puts it")
        }
        t5_wgpu::Error::Hub { problem: HubProblem::Offline, .. } => {
            Some("HF_HUB_OFFLINE forbids to ask the hub: unset it")
        }
        t5_wgpu::Error::Hub { problem: HubProblem::Missing | HubProblem::Network, .. } => Some(
            "--model takes OWNER/MODEL for a model of the hub; if a folder was meant, there is none of this name here",
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn commands_and_options_do_not_contradict_each_other() {
        super::command().debug_assert();
    }
}
