#!/bin/sh
# Compiles all test programs, then runs them, several at a time.
#
#   scripts/test.sh            all of them
#   scripts/test.sh PATTERN    those whose path matches this pattern of grep: 'generate\|golden'
#
# `cargo test` runs one program after the other. Mesa's software driver compiles one kernel at a time in a process, and most of a
# test's time is that, so one program leaves cores idle. T5_TEST_JOBS says how many run at a time, without it as many as there are
# cores, but four at most. The output of a program is printed when it has ended; one that fails does not hide the others.

set -eu
cd "$(dirname "$0")/.."
name=test.sh
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

# One program, for xargs below: what it printed comes in one piece, under its name and its time.
if [ "${1-}" = --one ]; then
    program=$2
    log=$3/${program##*/}
    start=$(date +%s)
    status=ok
    "$program" >"$log" 2>&1 </dev/null || status="FAILED with exit code $?"
    until mkdir "$3/printing" 2>/dev/null; do sleep 0.1; done
    printf '\n=== %s: %s, %d s\n' "$program" "$status" $(($(date +%s) - start))
    cat "$log"
    echo "$program: $status" >>"$3/done"
    rmdir "$3/printing"
    exit 0
fi

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
trap 'exit 130' INT TERM

${CARGO:-cargo} test --release --no-run --lib --bins --tests --message-format=json-render-diagnostics >"$folder/built"
# Every line describes one thing that was built. Programs of tests are those that were built to test and can be run.
sed -n 's/.*"profile":{[^}]*"test":true}.*"executable":"\([^"]*\)".*/\1/p' "$folder/built" | grep -e "${1-.}" >"$folder/programs" ||
    fail "no test program matches '${1-.}'"

# The longest begin first, so that no core waits for one of them at the end.
long='/\(kernels\|t5_wgpu\|generate\|golden\|cli_train\)-[^/]*$'
{
    grep -e "$long" "$folder/programs" || true
    grep -v -e "$long" "$folder/programs" || true
} >"$folder/queue"
count=$(wc -l <"$folder/queue" | tr -d ' ')

cores=$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
jobs=${T5_TEST_JOBS:-$((cores < 4 ? cores : 4))}
echo "$count test programs, $jobs at a time"
xargs -P "$jobs" -I {} sh scripts/test.sh --one {} "$folder" <"$folder/queue"

failed=$(grep -v ': ok$' "$folder/done" || true)
[ -z "$failed" ] || fail "$(printf 'these failed:\n%s' "$failed")"
[ "$(wc -l <"$folder/done")" -eq "$count" ] || fail "some programs did not end"
