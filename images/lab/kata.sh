#!/usr/bin/env bash
# A small archive with the layout of Kata's release tarball, for the lab: kata/<version>/<arch>/kata.tar.zst in the cache.
#
# The files are text that says what stands in for what; a real kata-static archive that lies there already stays.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

version=$(sed -n '/^\[kata\]/,/^\[/s/^version *= *"\(.*\)".*/\1/p' "$repo/examples/cluster.toml")
[ -n "$version" ] || die "examples/cluster.toml names no Kata version"

for arch in x86_64 aarch64; do
    out=$cache/kata/$version/$arch
    if [ -e "$out/kata.tar.zst" ] && [ ! -e "$out/STAND-IN" ]; then
        say "$out holds a real Kata: it takes the stand-in's place"
        continue
    fi
    work=$(mktemp -d)
    root=$work/opt/kata
    mkdir -p "$root/runtime-rs/bin" "$root/bin" "$root/share/defaults/kata-containers/runtime-rs"
    file() { printf '%s\n' "Stand-in of the lab for Kata Containers $version ($arch): $2" >"$root/$1"; chmod "$3" "$root/$1"; }
    file runtime-rs/bin/containerd-shim-kata-v2 "the Rust runtime's shim" 755
    file bin/containerd-shim-kata-v2 "the Go runtime's shim" 755
    file share/defaults/kata-containers/runtime-rs/configuration-qemu-runtime-rs.toml "the configuration" 644
    printf '%s\n' "$version" >"$root/VERSION"
    mkdir -p "$out"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -cf - opt |
        zstd -q -19 -f -o "$out/kata.tar.zst"
    echo "kata: files of the real layout without the programs" >"$out/STAND-IN"
    rm -rf "$work"
    say "$out/kata.tar.zst: stand-in"
done
