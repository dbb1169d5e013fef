#!/usr/bin/env bash
# Fills the artifact cache for the lab: k3s/<version>/<arch>/{k3s,etcd}. A real k3s that lies there already stays.
#
# The stand-in (docs/stand-in.md) is our own program over Debian 13's real etcd; the file STAND-IN says so in every status.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

version=$(sed -n '/^\[k3s\]/,/^\[/s/^version *= *"\(.*\)".*/\1/p' "$repo/examples/cluster.toml")
[ -n "$version" ] || die "examples/cluster.toml names no k3s version"
debian13=$repo/scripts/debian13.sh

for arch in x86_64 aarch64; do
    out=$cache/k3s/$version/$arch
    if [ -x "$out/k3s" ] && [ ! -e "$out/STAND-IN" ]; then
        say "$out holds a real k3s: it takes the stand-in's place"
        continue
    fi
    program=$repo/target/dist/k3s-standin-$arch
    [ -x "$program" ] || die "no \`$program\`" "scripts/build-static.sh $arch standin"
    "$debian13" update
    etcd=$("$debian13" versions "$arch" etcd-server | cut -d' ' -f2)
    if ! cmp -s "$program" "$out/k3s" || [ "$(cat "$out.etcd" 2>/dev/null)" != "$etcd" ]; then
        work=$(mktemp -d "$cache/.k3s-XXXXXX")
        "$debian13" unpack "$arch" "$work/deb" etcd-server
        mkdir -p "$work/out"
        install -m 755 "$program" "$work/out/k3s"
        install -m 755 "$work/deb/usr/bin/etcd" "$work/out/etcd"
        echo "k3s: a stand-in on Debian's etcd $etcd; no kubelet, no pods" >"$work/out/STAND-IN"
        publish "$work/out" "$out"
        echo "$etcd" >"$out.etcd"
        rm -rf "$work"
    fi
    say "$out: stand-in, etcd $etcd"
done
