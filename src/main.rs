//! `t5`: the command line program. See `t5 --help`.

mod cli;

fn main() {
    cli::main().leave()
}
