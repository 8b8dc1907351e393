//! Tells the program which commit it is built from, for `t5 bench --json`.

use std::env;
use std::process::Command;

fn main() {
    // Only what the program is made of: a commit or a test that changes none of it builds nothing again.
    for path in ["build.rs", "src", "shaders", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=T5_COMMIT");
    if let Some(commit) = env::var("T5_COMMIT").ok().or_else(commit) {
        println!("cargo::rustc-env=T5_COMMIT={commit}");
    }
}

/// The commit, and whether the sources are that commit's; `None` outside of a repository of one's own.
fn commit() -> Option<String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // A package in the repository of another project is not described by that project's commits.
    if !git(&["rev-parse", "--show-prefix"])?.is_empty() {
        return None;
    }
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let is_changed = !git(&["status", "--porcelain", "--", "src", "shaders", "Cargo.toml", "Cargo.lock"])?.is_empty();
    Some(if is_changed { format!("{commit} with changes") } else { commit })
}
