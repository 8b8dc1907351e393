#!/bin/sh
# Checks that the core of the library, without training and the program, compiles for browsers: wasm32-unknown-unknown, WebGPU.
# Nothing is run. Four minutes of processor time the first time, seconds afterwards.
#
# Needs cargo, and the target: `rustup target add wasm32-unknown-unknown`, or Debian 12, see scripts/cross.sh.

set -eu
exec "$(dirname "$0")/cross.sh" wasm32-unknown-unknown check --lib --no-default-features "$@"
