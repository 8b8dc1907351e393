# shellcheck shell=sh
# Sourced by the other scripts: messages under the script's `name`, and packages of Debian and Ubuntu.

note() { printf '%s: %s\n' "${name:?}" "$*" >&2; }

fail() {
    note "$@"
    exit 1
}

first_file() {
    for file in "$@"; do
        if [ -e "$file" ]; then
            printf '%s\n' "$file"
            return 0
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

apt_install() {
    command -v apt-get >/dev/null || fail "missing here; on Debian the packages are: $*"
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        fail "missing here. Install: sudo apt-get install $*"
    fi
    note "installing $*"
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -y --no-install-recommends install "$@"
    # The package lists of a fresh container are empty or out of date.
    as_root "$@" >&2 || { as_root apt-get update >&2 && as_root "$@" >&2; } || fail "apt-get failed: see its messages above"
}
