#!/bin/sh
# Runs `t5 verify` on DirectX 12, on a machine without Windows and without a graphics card: the program cross-compiled,
# wgpu's DX12 backend, Microsoft's FXC compiler, wine's d3d12 (vkd3d), and below that a Vulkan driver, here lavapipe.
#
#   scripts/dx12.sh                     all checks that end within memory and time
#   scripts/dx12.sh TEXT...             those with one of these in their name, as `t5 verify --only` takes them
#   T5_DX12_GIB, T5_DX12_SECONDS        a check that takes more is ended and counts as not run (default 4 and 120)
#
# Prints a table and writes it to target/dx12/table.md, with every comparison in results.json beside it. Exits with 1 if a
# check fails or a kernel is refused. Wine's prefix and the program live in target/dx12/, never in ~/.wine.
#
# Needs cargo and, on Debian 12, the right to install packages: wine64, wine, gcc-mingw-w64-x86-64, xvfb, npm. FXC
# (d3dcompiler_47.dll) is the one that npm's package `webgpu` brings along. The Rust of scripts/cross.sh.

set -eu
export LC_ALL=C
root=$(cd "$(dirname "$0")/.." && pwd -P)
name=dx12.sh
. "$root/scripts/packages.sh"
work=$root/target/dx12
mkdir -p "$work"

missing=
for pair in wine:wine64 wine:wine x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64 Xvfb:xvfb npm:npm; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
# shellcheck disable=SC2086 # names, separated by spaces
[ -z "$missing" ] || apt_install $missing

exports=$("$root/scripts/driver.sh")
eval "$exports"
"$root/scripts/cross.sh" x86_64-pc-windows-gnu build --release --bin t5
programs=$work/programs
mkdir -p "$programs"
cp "$root/target/cross/x86_64-pc-windows-gnu/release/t5.exe" "$programs/"
x86_64-w64-mingw32-gcc -O2 -shared -o "$programs/bcryptprimitives.dll" "$root/scripts/portability/bcryptprimitives.c" -ladvapi32
# The folder and the version of portability.sh.
npm=$root/target/portability/npm
compiler=$npm/node_modules/webgpu/dist/win32-x64/d3dcompiler_47.dll
if [ ! -e "$compiler" ]; then
    note "fetching the npm package webgpu (130 MB)"
    mkdir -p "$npm"
    (cd "$npm" && npm install --no-audit --no-fund --no-save webgpu@0.6.2 >&2) || fail "npm could not install webgpu@0.6.2"
fi
cp "$compiler" "$programs/"

export WINEPREFIX="$work/prefix" WINEDEBUG=-all WINEDLLOVERRIDES='d3dcompiler_47,bcryptprimitives=n;mscoree,mshtml='
: >"$work/display"
Xvfb -displayfd 3 -screen 0 640x480x24 -nolisten tcp 3>"$work/display" >/dev/null 2>&1 &
server=$!
trap 'wineserver -k 2>/dev/null || true; kill $server' EXIT
trap 'exit 1' INT TERM
while [ ! -s "$work/display" ]; do sleep 0.1; done
DISPLAY=:$(cat "$work/display")
export DISPLAY
# Else each of wgpu's descriptor heaps, of a million descriptors, takes 1.5 GB on lavapipe, and each dispatch more.
export VKD3D_CONFIG=virtual_heaps
# Without a display when the prefix is made, wine finds no adapter later either.
if [ ! -e "$WINEPREFIX/ready" ]; then
    note "making a wine prefix in target/dx12/ (once, half a minute)"
    wine reg add 'HKCU\Software\Wine\Direct3D' /v renderer /t REG_SZ /d vulkan /f >/dev/null
    touch "$WINEPREFIX/ready"
fi

node "$root/scripts/portability/dx12.mjs" "$programs/t5.exe" "$work" "$@"
