//! `t5 devices`: lists the adapters, and whether and how the engine can use them.

use std::io;

use t5_wgpu::gpu::{AdapterReport, NO_ADAPTER, list_adapters};

use super::console::{note, say};
use super::exit_code::ExitCode;

/// List the adapters of this machine
///
/// Shows every adapter that a driver offers, with the limits and features that the engine uses, and marks the one that
/// is taken unless `--adapter` or T5_ADAPTER names another.
#[derive(clap::Args)]
pub struct Args {
    /// Print one JSON list
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let adapters = pollster::block_on(list_adapters(&super::environment::gpu_options()))?;
    if args.json {
        say!("{}", serde_json::to_string_pretty(&adapters)?)?;
    } else {
        adapters.iter().try_for_each(print)?;
    }
    if adapters.is_empty() {
        note!("error: {NO_ADAPTER}");
        return Ok(ExitCode::FAILURE);
    }
    if !args.json {
        say!("Next: `t5 verify` proves every kernel on the adapter marked with *.")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &AdapterReport) -> io::Result<()> {
    let caps = &report.caps;
    let mark = if report.default { "*" } else { " " };
    say!("{mark} {}: {} ({}, {})", report.index, caps.name, caps.kind, caps.backend)?;
    say!("     driver        {} {}", caps.driver, caps.driver_info)?;
    say!("     compiler      {}", caps.compiler)?;
    let subgroup = match caps.subgroup {
        Some((min, max)) if min == max => format!("subgroups of {min}"),
        Some((min, max)) => format!("subgroups of {min} to {max}"),
        None => "no subgroups".into(),
    };
    let has = |yes: bool, what: &str| format!("{}{what}", if yes { "" } else { "no " });
    say!("     features      {subgroup}, {}, {}", has(caps.timestamps, "timestamps"), has(caps.f16, "shader f16"))?;
    if !caps.matrix_units.is_empty() {
        say!("     matrix units  {} (not used so far)", caps.matrix_units.join(", "))?;
    }
    say!(
        "     limits        {} MiB a binding, {} MiB a buffer, {} storage buffers a shader",
        caps.max_binding >> 20,
        caps.max_buffer >> 20,
        caps.max_storage_bindings
    )?;
    say!(
        "                   {} invocations and {} KiB of memory a workgroup",
        caps.max_invocations,
        caps.max_workgroup_bytes >> 10
    )?;
    let subgroup_matmul = caps.is_cpu() && matches!(caps.fixed_subgroup(), Some(4 | 8));
    let matmul = match (subgroup_matmul, caps.is_cpu()) {
        (true, _) => "subgroup outer products",
        (false, true) => "register tiles",
        (false, false) => "tiles in workgroup memory",
    };
    say!("     engine uses   matmul by {matmul}")?;
    if let Some(lack) = &report.unusable {
        say!("     NOT USABLE    {lack}")?;
    }
    if let Some(warning) = caps.warning() {
        say!("     warning       {warning}")?;
    }
    say!("")
}
