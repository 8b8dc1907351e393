#!/usr/bin/env bash
# Puts every kernel variant before the compilers of other systems, on a Linux machine without a graphics card.
#
#   scripts/portability.sh            everything: an hour on two cores
#   scripts/portability.sh --quick    what every commit has to pass: DXC, FXC, Tint, one spirv-val; three minutes
#
# tests/shaders writes each source that any adapter could be given and naga's HLSL, MSL and SPIR-V of it, as wgpu would. DXC
# and FXC (DirectX 12) then compile the HLSL under wine, Tint (Chromium) the WGSL, spirv-val checks the SPIR-V, and the whole
# run has Dawn (Chromium's WebGPU) execute the cases of `t5 verify`. Fails if anything is refused, wrong, or slow to compile.
#
# Needs Debian's wine, gcc-mingw-w64-x86-64, spirv-tools, nodejs and npm, which it installs if it may, and from npm the package
# `webgpu` (Dawn for node, with Microsoft's two compilers, 130 MB). All else stays in target/portability.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD/target/portability
shaders=$root/shaders
webgpu=webgpu@0.6.2

# shellcheck disable=SC2034 # read by packages.sh
name=portability.sh
# shellcheck source=scripts/packages.sh
. scripts/packages.sh

missing=()
for pair in wine:wine64 wine:wine x86_64-w64-mingw32-gcc:gcc-mingw-w64-x86-64 spirv-val:spirv-tools node:nodejs npm:npm; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
((${#missing[@]} == 0)) || apt_install "${missing[@]}"
mkdir -p "$root/npm"
if ! [ -e "$root/npm/node_modules/webgpu/dist" ]; then
    note "fetching the npm package $webgpu (130 MB)"
    (cd "$root/npm" && npm install --no-audit --no-fund --no-save "$webgpu" >&2) || fail "npm could not install $webgpu"
fi
# A wine of its own: the user's stays untouched.
export WINEPREFIX=$root/wine WINEDEBUG=-all
[ -e "$WINEPREFIX/system.reg" ] || WINEDLLOVERRIDES='mscoree,mshtml=' wineboot --init >/dev/null 2>&1
x86_64-w64-mingw32-gcc -O2 -o "$root/hlsl.exe" scripts/portability/hlsl.c

rm -rf "$shaders"
T5_SHADERS_TO=$shaders cargo test --release --test shaders

# From the folder of the npm package: node looks for it there.
status=0
(cd "$root/npm" && node "$OLDPWD/scripts/portability/compile.mjs" "$shaders" "$root/hlsl.exe" "$@") || status=1
if [ "${1-}" != --quick ]; then
    eval "$(scripts/driver.sh)"
    (cd "$root/npm" && node "$OLDPWD/scripts/portability/dawn.mjs" "$shaders") || status=1
fi
exit "$status"
