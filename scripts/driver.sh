#!/bin/sh
# Makes sure that a Vulkan driver exists and says how to use it.
#
#   . scripts/driver.sh              from the repository root (or, in bash, from anywhere)
#   eval "$(scripts/driver.sh)"      the same from any shell; standard output holds only `export` lines
#
# A machine with a graphics card keeps its own driver. Without one, Mesa's software driver (lavapipe) is used; Debian and
# Ubuntu install it through apt. Debian 12's Mesa 22.3.6 is several times slower than Mesa 25 and silently ends an
# invocation's loops after 65,535 steps, so there the driver of bookworm-backports is unpacked into .driver/, which
# leaves the system's own packages as they are. Where that fails, a note says so and the stock driver serves.
#
# T5_DRIVER chooses: auto (default), none (touch nothing), lavapipe (the software driver even beside a graphics card),
# stock (the distribution's lavapipe, whatever its version), swiftshader (the one in Debian's chromium package).
# VK_ICD_FILENAMES or VK_DRIVER_FILES set beforehand mean that you have chosen already, unless T5_DRIVER says otherwise.

# Sourced: run as a child, so that neither functions nor `set -eu` nor an exit reach the caller's shell.
case ${ZSH_EVAL_CONTEXT-}:$0 in
    :driver.sh | :*/driver.sh) ;;
    *)
        # shellcheck disable=SC3028,SC2128 # bash and zsh say where this file is; other shells must stand in the root
        t5_driver_script=${BASH_SOURCE-${ZSH_VERSION+$0}}
        t5_driver_script=${t5_driver_script:-scripts/driver.sh}
        t5_driver_exports=$(sh "$t5_driver_script") || { unset t5_driver_script t5_driver_exports; return 1; }
        eval "$t5_driver_exports"
        unset t5_driver_script t5_driver_exports
        return 0
        ;;
esac

set -eu
export LC_ALL=C
root=$(cd "$(dirname "$0")/.." && pwd -P)
private=$root/.driver
swiftshader_icd=/usr/lib/chromium/vk_swiftshader_icd.json

name=driver.sh
. "$root/scripts/packages.sh"

# The words of an assignment that any POSIX shell reads back unchanged.
export_line() { printf "export %s='%s'\n" "$1" "$(printf '%s' "$2" | sed "s/'/'\\\\''/g")"; }

# Old loaders know only the first name; new ones prefer the second.
use_icd() {
    export_line VK_ICD_FILENAMES "$1"
    export_line VK_DRIVER_FILES "$1"
    if [ -z "${XDG_RUNTIME_DIR-}" ]; then
        mkdir -p "$private/runtime" && chmod 700 "$private/runtime"
        export_line XDG_RUNTIME_DIR "$private/runtime"
    fi
    exit 0
}

# find_icd NAME_PREFIX...: the first manifest of one of these drivers, the machine's own architecture preferred.
find_icd() {
    for prefix in "$@"; do
        for folder in /usr/share/vulkan/icd.d /etc/vulkan/icd.d /usr/local/share/vulkan/icd.d \
            /run/opengl-driver/share/vulkan/icd.d; do
            first_file "$folder/${prefix}_icd.$(uname -m).json" "$folder/${prefix}_icd.json" "$folder/$prefix"*.json &&
                return 0
        done
    done
    return 1
}

have_loader() { first_file /usr/lib/*/libvulkan.so.1 /usr/lib64/libvulkan.so.1 /usr/lib/libvulkan.so.1 >/dev/null; }

# A device node alone is not enough: containers often pass the card through without its Vulkan driver.
have_gpu_driver() {
    if first_file /dev/nvidia[0-9]* >/dev/null; then
        find_icd nvidia >/dev/null && return 0
        note "an NVIDIA card is here but not its Vulkan driver (in a container: NVIDIA_DRIVER_CAPABILITIES=all)"
    fi
    if [ -e /dev/dxg ]; then find_icd dzn >/dev/null && return 0; fi
    for node in /dev/dri/renderD*; do
        [ -e "$node" ] || continue
        kernel_driver=$(sed -n 's/^DRIVER=//p' "/sys/class/drm/${node##*/}/device/uevent" 2>/dev/null || true)
        case $kernel_driver in
            i915 | xe) find_icd intel >/dev/null && return 0 ;;
            amdgpu | radeon) find_icd radeon amd >/dev/null && return 0 ;;
            nvidia*) find_icd nvidia >/dev/null && return 0 ;;
            nouveau) find_icd nouveau >/dev/null && return 0 ;;
            virtio*) find_icd virtio gfxstream >/dev/null && return 0 ;;
            msm*) find_icd freedreno >/dev/null && return 0 ;;
            v3d*) find_icd broadcom >/dev/null && return 0 ;;
            panfrost* | panthor*) find_icd panfrost mali >/dev/null && return 0 ;;
            asahi*) find_icd asahi >/dev/null && return 0 ;;
            powervr* | pvr*) find_icd powervr >/dev/null && return 0 ;;
        esac
    done
    return 1
}

# Prints the manifest of the distribution's lavapipe, installing it where that is possible.
stock_icd() {
    if ! find_icd lvp >/dev/null || ! have_loader; then
        case " $os_like " in
            *" debian "* | *" ubuntu "*) apt_install mesa-vulkan-drivers libvulkan1 ;;
            *)
                find_icd lvp && return 0 # a loader in a place of the distribution's own
                fail "no Vulkan driver here. Install one: $(install_hint)"
                ;;
        esac
    fi
    find_icd lvp || fail "mesa-vulkan-drivers is installed, but without lavapipe (lvp_icd.json): set VK_ICD_FILENAMES"
}

install_hint() {
    case " $os_like " in
        *" fedora "* | *" rhel "*) echo "sudo dnf install vulkan-loader mesa-vulkan-drivers" ;;
        *" arch "*) echo "sudo pacman -S vulkan-icd-loader vulkan-swrast" ;;
        *" alpine "*) echo "sudo apk add vulkan-loader mesa-vulkan-swrast" ;;
        *" suse "* | *" opensuse "*) echo "sudo zypper install libvulkan1 libvulkan_lvp" ;;
        *" void "*) echo "sudo xbps-install vulkan-loader mesa-vulkan-lavapipe" ;;
        *) echo "the Vulkan loader (libvulkan.so.1) and a driver: your card's own, or Mesa's lavapipe" ;;
    esac
}

# The unpacked driver's manifest, if it is there and every library that it wants is too.
unpacked_icd() {
    for icd in "$private"/mesa-*/lvp_icd.json; do
        [ -e "$icd" ] || continue
        library=$(find_library "${icd%/*}") || continue
        if missing=$(ldd "$library" 2>&1 | grep 'not found'); then
            note "Mesa in ${icd%/*} lacks" "$(echo "$missing" | awk '{ print $1 }' | sort -u | xargs)"
            continue
        fi
        # The path is absolute, and the repository may have been moved since.
        grep -qF "\"$library\"" "$icd" || write_manifest "$icd" "${icd%/*}" "$library"
        printf '%s\n' "$icd"
        return 0
    done
    return 1
}

find_library() { first_file "$1"/usr/lib/*/libvulkan_lvp.so; }

# write_manifest TARGET FOLDER LIBRARY: the package's own manifest with an absolute path, put in place in one step.
write_manifest() {
    packaged=$(first_file "$2"/usr/share/vulkan/icd.d/lvp_icd*.json) || return 1
    escaped=$(printf '%s' "$3" | sed 's/[\\&|]/\\&/g')
    sed "s|\"library_path\": *\"[^\"]*\"|\"library_path\": \"$escaped\"|" "$packaged" >"$1.$$" && mv "$1.$$" "$1"
}

# Downloads and unpacks the backport with an apt of its own: own source list, own lists, own cache, the system's mirror.
# Called under the lock; a folder appears under its final name only once it is whole.
unpack_backport() {
    mirror=$(apt-get update --print-uris 2>/dev/null | sed -n "s|^'\\(.*\\)/dists/bookworm/InRelease'.*|\\1|p" | head -n 1)
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    work=$private/unpack.$$
    trap 'rm -rf "$work"' EXIT
    rm -rf "$private"/unpack.*
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/none"
    echo "deb [signed-by=$keyring] ${mirror:-http://deb.debian.org/debian} bookworm-backports main" >"$work/sources.list"
    # The hooks of the system's apt configuration refresh system-wide caches: not for a private list.
    cat >"$work/apt.conf" <<CONF
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "$work/none";
Dir::State "$work/state";
Dir::State::status "/var/lib/dpkg/status";
Dir::Cache "$work/cache";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
CONF
    apt-get -c "$work/apt.conf" -qq update >&2 || return 1
    (cd "$work" && apt-get -c apt.conf -qq -t bookworm-backports download mesa-vulkan-drivers >&2) || return 1
    deb=$(first_file "$work"/mesa-vulkan-drivers_*.deb) || return 1
    version=$(dpkg-deb -f "$deb" Version) || return 1
    folder=mesa-${version%%-*}
    dpkg -x "$deb" "$work/$folder" && library=$(find_library "$work/$folder") || return 1
    write_manifest "$work/$folder/lvp_icd.json" "$work/$folder" "$private/$folder/${library#"$work/$folder/"}" || return 1
    rm -rf "${private:?}/$folder"
    mv "$work/$folder" "$private/$folder"
}

# Prints the manifest of the best lavapipe that this machine can have.
lavapipe_icd() {
    if [ "$os_id ${VERSION_ID-}" != "debian 12" ]; then
        stock_icd
        return
    fi
    have_loader && unpacked_icd && return 0
    mkdir -p "$private"
    exec 9>"$private/lock"
    flock 9 # another run may be at it: wait, then find its work done
    have_loader && unpacked_icd && return 0
    stock=$(stock_icd) || exit 1 # also brings the libraries that the backport needs
    note "unpacking the Mesa of bookworm-backports into .driver/ (once)"
    if (unpack_backport) && unpacked_icd; then return 0; fi
    note "no Mesa from bookworm-backports: using the stock driver, slower and limited to 65,535 loop steps an invocation"
    printf '%s\n' "$stock"
}

choice=${T5_DRIVER-auto}
case $choice in
    none) exit 0 ;;
    auto | '') [ -z "${VK_ICD_FILENAMES-}${VK_DRIVER_FILES-}" ] || exit 0 ;;
    lavapipe | stock | swiftshader) ;;
    *) fail "T5_DRIVER=$choice is none of: auto none lavapipe stock swiftshader" ;;
esac

# Metal and Direct3D 12 come with their systems.
if [ "$(uname -s)" != Linux ]; then
    case $choice in
        auto | '') exit 0 ;;
        *) fail "T5_DRIVER=$choice is for Linux only" ;;
    esac
fi

# shellcheck disable=SC1091
[ ! -r /etc/os-release ] || . /etc/os-release
os_id=${ID-}
os_like="$os_id ${ID_LIKE-}"

case $choice in
    auto | '')
        if have_gpu_driver; then
            have_loader || case " $os_like " in *" debian "* | *" ubuntu "*) apt_install libvulkan1 ;; esac
            exit 0
        fi
        icd=$(lavapipe_icd) || exit 1
        ;;
    lavapipe) icd=$(lavapipe_icd) || exit 1 ;;
    stock) icd=$(stock_icd) || exit 1 ;;
    swiftshader)
        icd=$swiftshader_icd
        [ -e "$icd" ] || fail "$icd is missing: on Debian it comes with the package chromium"
        ;;
esac
use_icd "$icd"
