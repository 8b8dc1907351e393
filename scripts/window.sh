#!/bin/sh
# Builds examples/window and runs it on a screen that nobody sees (Xvfb). It types by itself for some seconds, unloads the
# model, opens it again, and prints a line of JSON: see examples/window/src/check.rs.
#
#   scripts/window.sh                        with a tiny model of random weights
#   scripts/window.sh MODEL_FOLDER SECONDS   with another, and for longer
#
# Needs Xvfb and the libraries that winit loads when it runs, which it installs on Debian and Ubuntu if it may.
set -eu
cd "$(dirname "$0")/.."
model=${1-tests/data/tiny-model}
seconds=${2-5}

# shellcheck disable=SC2034 # read by packages.sh
name=window.sh
# shellcheck source=scripts/packages.sh
. scripts/packages.sh
eval "$(scripts/driver.sh)"

# need PACKAGE FILE...: adds the package to those to install unless one of the files is there.
need() {
    package=$1
    shift
    first_file "$@" >/dev/null || missing="${missing-} $package"
}
library() { need "$1" /usr/lib/*/"$2" /usr/lib64/"$2" /usr/lib/"$2"; }
command -v xvfb-run >/dev/null || missing=xvfb
command -v xauth >/dev/null || missing="${missing-} xauth"
library libx11-6 libX11.so.6
library libx11-xcb1 libX11-xcb.so.1
library libxcursor1 libXcursor.so.1
library libxi6 libXi.so.6
library libxkbcommon-x11-0 libxkbcommon-x11.so.0
# shellcheck disable=SC2086 # a list of words
[ -z "${missing-}" ] || apt_install $missing

# A development build of the fewest features: what costs is compiling.
cargo build --locked --no-default-features --manifest-path examples/window/Cargo.toml --target-dir target/window
line=$(timeout 300 xvfb-run --auto-servernum target/window/debug/t5-window --seconds "$seconds" "$model")
printf '%s\n' "$line"
case $line in
    '{'*'"answering":{"frames":'[1-9]*) ;;
    *) fail "no frame was drawn while the model answered" ;;
esac
