#!/usr/bin/env bash
# Lays out what a node gets as k3s, per architecture:
#
#   $MUSTER_CACHE/k3s/VERSION/ARCH/{k3s,etcd,STAND-IN}
#
# The stand-in (tests/k3s-standin, from target/dist) with Debian 13's real etcd beside it, unless upstream's own
# assets lie in $MUSTER_CACHE/k3s/VERSION/ as released (`k3s`, `k3s-arm64`, `sha256sum-amd64.txt`, …): then those, checked
# against their sums, and no STAND-IN file. Prints VERSION's folder.
#
#   k3s-standin.sh [VERSION]     default: the version of examples/cluster.toml
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

version=${1:-$(sed -n '/^\[k3s\]/,/^\[/s/^version = "\(.*\)".*/\1/p' "$repo/examples/cluster.toml")}
[ -n "$version" ] || die "examples/cluster.toml names no version of k3s"
debian13=$repo/scripts/debian13.sh
folder=$cache/k3s/$version
lock k3s
mkdir -p "$folder"
work=$(mktemp -d "$cache/k3s/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT

real() { # ARCH: upstream's binary, if somebody put it there
    local asset=k3s debian sums
    debian=$(debian_arch "$1")
    sums=$folder/sha256sum-$debian.txt
    [ "$1" = x86_64 ] || asset=k3s-$debian
    [ -f "$folder/$asset" ] || return 1
    [ -f "$sums" ] || die "\`$folder/$asset\` has no sums beside it" "put upstream's $(basename "$sums") there too"
    (cd "$folder" && grep -E "^[0-9a-f]{64}  $asset\$" "$sums" | sha256sum --check --quiet --strict -) ||
        die "\`$folder/$asset\` is not what $(basename "$sums") says"
    install -m 755 "$folder/$asset" "$work/$1/k3s"
}

stand_in() { # ARCH
    local binary=$repo/target/dist/k3s-standin-$1 etcd
    [ -x "$binary" ] || die "no stand-in at $binary" "scripts/build-static.sh $1 standin"
    etcd=$("$debian13" versions "$1" etcd-server | cut -d' ' -f2)
    local kept=$cache/k3s/.etcd-$etcd-$1
    if [ ! -e "$kept" ]; then
        "$debian13" unpack "$1" "$work/debs-$1" etcd-server
        install -m 755 "$work/debs-$1/usr/bin/etcd" "$kept.partial"
        mv "$kept.partial" "$kept"
    fi
    install -m 755 "$binary" "$work/$1/k3s"
    install -m 755 "$kept" "$work/$1/etcd"
    echo "k3s $version: stand-in with Debian's etcd $etcd" >"$work/$1/STAND-IN"
}

"$debian13" update
for arch in x86_64 aarch64; do
    mkdir "$work/$arch"
    if real "$arch"; then
        say "$version $arch: upstream's k3s"
    else
        stand_in "$arch"
        say "$version $arch: the stand-in"
    fi
    publish "$work/$arch" "$folder/$arch"
done
echo "$folder"
