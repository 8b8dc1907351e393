#!/bin/sh
# Runs cargo for a target of which your own Rust may lack the standard library.
#
#   scripts/cross.sh TARGET COMMAND ARGUMENT...     for example: scripts/cross.sh wasm32-unknown-unknown check --lib
#
# After `rustup target add TARGET` this is plain cargo. Else, on Debian 12, compiler and library are those that Debian
# builds its browsers with, rustc-web and rust-web-src of bookworm-security (Rust 1.96 at the time of writing): they are
# unpacked into target/cross/rust-web/ (850 MB, half a minute), which leaves the system as it is, and cargo builds the
# standard library along with the rest. Windows targets also need the package gcc-mingw-w64-x86-64.
# Everything built is in target/cross/TARGET/.

set -eu
export LC_ALL=C
root=$(cd "$(dirname "$0")/.." && pwd -P)
name=cross.sh
. "$root/scripts/packages.sh"

[ $# -ge 2 ] || fail "usage: scripts/cross.sh TARGET COMMAND ARGUMENT..."
target=$1
command=$2
shift 2
private=$root/target/cross/rust-web
cd "$root"

run_cargo() { exec cargo "$command" --target "$target" --target-dir target/cross "$@"; }

# depends_on PACKAGE PATTERN: the dependency whose name, which holds a version, matches.
depends_on() { apt-cache depends "$1" | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -n 1; }

# Downloads and unpacks the packages, and what they depend on and the system lacks; the folder appears once it is whole.
unpack() {
    apt-cache show rustc-web >/dev/null 2>&1 || as_root apt-get update >&2 || true
    std=$(depends_on libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
    [ -n "$std" ] || fail "neither Rust for $target here (rustup target add $target) nor Debian's package rustc-web"
    llvm=$(depends_on "$std" 'libllvm[0-9]*')
    note "unpacking Debian's rustc-web and rust-web-src into target/cross/rust-web/ (once)"
    rm -rf "$private".*
    mkdir -p "$private.$$/debs"
    trap 'rm -rf "$private.$$"' EXIT
    packages=$(apt-get install -s --no-install-recommends --reinstall \
        rustc-web rust-web-src libstd-rust-web-dev "$std" ${llvm:+"$llvm"} | sed -n 's/^Inst \([^ ]*\).*/\1/p')
    # shellcheck disable=SC2086 # names, separated by spaces
    (cd "$private.$$/debs" && apt-get -qq -o APT::Sandbox::User= download $packages >&2) ||
        fail "apt-get could not download" $packages
    for deb in "$private.$$"/debs/*.deb; do dpkg -x "$deb" "$private.$$/root"; done
    mv "$private.$$/root" "$private"
    rm -rf "$private.$$"
}

command -v cargo >/dev/null || fail "cargo is missing: install Rust from https://rustup.rs"
case $target in
    *-windows-gnu) command -v x86_64-w64-mingw32-gcc >/dev/null || apt_install gcc-mingw-w64-x86-64 ;;
esac
first_file "$(rustc --print target-libdir --target "$target" 2>/dev/null)"/libstd-*.rlib >/dev/null && run_cargo "$@"

[ -d "$private" ] || unpack
sysroot=$private/usr
driver=$(first_file "$sysroot"/lib/*/librustc_driver-*.so) || fail "$private is not whole: delete it"
export LD_LIBRARY_PATH="${driver%/*}" RUSTC="$sysroot/bin/rustc" RUSTC_BOOTSTRAP=1 CARGO_PROFILE_RELEASE_PANIC=abort
"$RUSTC" -vV >/dev/null || fail "Debian's rustc does not run: see its message above"
# What the linker for Windows wants to find beside the standard library, which cargo does not build.
case $target in
    *-windows-gnu)
        for object in rsbegin rsend; do
            out=$sysroot/lib/rustlib/$target/lib/$object.o
            mkdir -p "${out%/*}"
            [ -e "$out" ] || "$RUSTC" --target "$target" --emit=obj -o "$out" \
                "$sysroot/lib/rustlib/src/rust/library/rtstartup/$object.rs"
        done
        ;;
esac
run_cargo -Zbuild-std=std,panic_abort "$@"
