# What every script here shares: strictness, the cache folder, words on stderr. Sourced, never run.
# shellcheck shell=bash

set -euo pipefail

# shellcheck disable=SC2034 # for those who source this
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${MUSTER_CACHE:-$HOME/.cache/muster}
export LC_ALL=C.UTF-8 TZ=UTC
umask 022

# A whole run builds every crate once; state for building it again would be half of target/ and is never read.
export CARGO_INCREMENTAL=${CARGO_INCREMENTAL:-0}

# One instant for every time stamp in every image: images are named by their content, never by their date.
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-1767225600} # 2026-01-01T00:00:00Z

say() { printf '%s: %s\n' "$(basename "$0" .sh)" "$*" >&2; }

die() {
    say "$1"
    if [ $# -gt 1 ]; then printf 'hint: %s\n' "$2" >&2; fi
    exit 1
}

# The two architectures and their names: ours (as `uname -m`), Debian's, EFI's.
debian_arch() {
    case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) die "unknown architecture \`$1\`" "x86_64 or aarch64" ;;
    esac
}
efi_arch() {
    case $1 in
    x86_64) echo x64 ;;
    aarch64) echo aa64 ;;
    *) die "unknown architecture \`$1\`" "x86_64 or aarch64" ;;
    esac
}

# Whether Debian's Rust has the source of core, alloc and std beside it.
has_library_source() { [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; }

# Hash of what is on stdin, short enough for a folder name.
short_hash() { sha256sum | cut -c1-16; }

# One build of a thing at a time; others wait and then find it done. Held until the script ends.
lock() { # NAME
    mkdir -p "$cache/locks"
    exec 9>"$cache/locks/$1"
    flock 9
}

# A finished build, named on stdout and marked as the one last asked for: readers take the newest.
finished() { # FOLDER
    touch "$1"
    echo "$1"
}

# Older builds of the same thing are of no use; three stay for going back and forth between branches.
forget_old() { # PREFIX of folders or files
    local old
    # shellcheck disable=SC2012 # our own names
    ls -dt "$1"* 2>/dev/null | tail -n +4 | while read -r old; do rm -rf "$old"; done
}

# Finish a folder under its final name in one step, so that a broken build is never taken for a whole one.
publish() { # FROM TO
    rm -rf "$2"
    mkdir -p "$(dirname "$2")"
    mv "$1" "$2"
}

# shellcheck disable=SC2034 # for those who source this
lab=${CARGO_TARGET_DIR:-target}/debug/lab

# Everything that a command of the lab runs, built.
ready_lab() {
    [ "$(id -u)" = 0 ] || die "the lab makes network namespaces and taps" "run it as root"
    scripts/setup.sh build images lab
    scripts/parts.sh
}

# A command of the lab; never returns.
run_lab() { # COMMAND OPTIONS...
    ready_lab
    exec "$lab" "$@"
}
