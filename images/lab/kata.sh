#!/usr/bin/env bash
# Lays out the Kata archive that a sandbox node gets, per architecture:
#
#   $MUSTER_CACHE/kata/VERSION/ARCH/{kata.tar.zst,STAND-IN}
#
# A small archive in the real layout whose files say that they are a stand-in, unless upstream's own archive lies in
# $MUSTER_CACHE/kata/VERSION/ as released (`kata-static-VERSION-amd64.tar.zst`, `…-arm64…`): then that, and no STAND-IN
# file. Prints VERSION's folder.
#
#   kata.sh [VERSION]     default: the version of examples/cluster.toml
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

version=${1:-$(sed -n '/^\[kata\]/,/^\[/s/^version = "\(.*\)".*/\1/p' "$repo/examples/cluster.toml")}
[ -n "$version" ] || die "examples/cluster.toml names no version of Kata"
folder=$cache/kata/$version
lock kata
mkdir -p "$folder"
work=$(mktemp -d "$cache/kata/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT

stand_in() { # ARCH
    local tree=$work/tree-$1/opt/kata share=share/defaults/kata-containers/runtime-rs path
    for path in runtime-rs/bin/containerd-shim-kata-v2 bin/qemu-system-"$1" libexec/virtiofsd; do
        mkdir -p "$(dirname "$tree/$path")"
        cat >"$tree/$path" <<SHIM
#!/bin/sh
echo "$(basename "$path"): stand-in for Kata Containers $version, starts no virtual machine" >&2
exit 1
SHIM
        chmod 755 "$tree/$path"
    done
    mkdir -p "$tree/$share" "$tree/share/kata-containers"
    cat >"$tree/$share/configuration-qemu-runtime-rs.toml" <<CONFIG
# Stand-in for Kata Containers $version: the place and the name are real, the content is not.
[hypervisor.qemu]
path = "/opt/kata/bin/qemu-system-$1"
kernel = "/opt/kata/share/kata-containers/vmlinux.container"
image = "/opt/kata/share/kata-containers/kata-containers.img"
CONFIG
    echo "stand-in for a guest kernel" >"$tree/share/kata-containers/vmlinux.container"
    echo "stand-in for a guest image" >"$tree/share/kata-containers/kata-containers.img"
    echo "$version" >"$tree/VERSION"
    tar -C "$work/tree-$1" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
        --format=ustar -cf - opt | zstd -q -19 --single-thread -o "$work/$1/kata.tar.zst"
    echo "Kata $version: placeholder files in the real layout, no virtual machines" >"$work/$1/STAND-IN"
}

for arch in x86_64 aarch64; do
    mkdir "$work/$arch"
    upstream=$folder/kata-static-$version-$(debian_arch "$arch").tar.zst
    if [ -f "$upstream" ]; then
        # A link, not a copy: it has hundreds of megabytes.
        ln -s "$upstream" "$work/$arch/kata.tar.zst"
        say "$version $arch: upstream's archive"
    else
        stand_in "$arch"
        say "$version $arch: the stand-in"
    fi
    publish "$work/$arch" "$folder/$arch"
done
echo "$folder"
