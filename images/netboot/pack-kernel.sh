#!/usr/bin/env bash
# Packs an arm64 Image into an EFI program that unpacks it again (unpack/), as EFI_ZBOOT would have.
#
#   pack-kernel.sh IMAGE OUTPUT
#   pack-kernel.sh --can            exits with 0 where it can be done, with 1 and a word where not
#
# Needs a compiler for aarch64-unknown-uefi: rustup's target, or Debian's rustc-web with its library source; the
# linker is zig's.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

target=aarch64-unknown-uefi
zig=$cache/tools/bin/python-zig
by_rustup() { rustup target list --installed 2>/dev/null | grep -qx "$target"; }
by_debian() { [ -d "$(/usr/bin/rustc --print sysroot 2>/dev/null)/lib/rustlib/src/rust/library" ]; }
[ -x "$zig" ] || die "no zig in $cache/tools" "scripts/setup.sh build"
by_rustup || by_debian || die "no compiler for $target" "scripts/setup.sh build, or rustup target add $target"
if [ "$1" = --can ]; then exit 0; fi

image=$(realpath "$1") output=$(realpath -m "$2")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
lz4 -q -l -12 "$image" "$work/packed"
# rustc names the flavour as one generic lld wants it; zig's is of that flavour already.
# shellcheck disable=SC2016 # the script's own arguments
printf '#!/bin/sh\n[ "$1" != -flavor ] || shift 2\nexec "%s" lld-link "$@"\n' "$zig" >"$work/lld-link"
chmod +x "$work/lld-link"
export KERNEL_PACKED=$work/packed
KERNEL_RAW_BYTES=$(stat -c %s "$image")
# SizeOfImage, 80 bytes behind the PE signature, whose place stands at 0x3c.
KERNEL_IMAGE_BYTES=$(python3 -c '
import struct, sys
head = open(sys.argv[1], "rb").read(4096)
pe, = struct.unpack_from("<I", head, 0x3C)
assert head[pe:pe + 4] == b"PE\0\0", "not an EFI Image"
print(struct.unpack_from("<I", head, pe + 80)[0])' "$image")
export KERNEL_RAW_BYTES KERNEL_IMAGE_BYTES
export CARGO_TARGET_DIR=$work/target
# The version says to systemd-stub that the kernel takes its initrd by LINUX_EFI_INITRD_MEDIA_GUID. The rest keeps paths
# and the time out of the file.
export RUSTFLAGS="-Clinker=$work/lld-link -Clinker-flavor=lld-link -Clink-arg=/version:3.0 -Clink-arg=/Brepro
    -Clink-arg=/debug:none --remap-path-prefix=$repo=. --remap-path-prefix=$work=."
cd "$repo/images/netboot/unpack"
options=(--quiet --release --locked --target "$target")
if by_rustup; then
    cargo build "${options[@]}" >&2
else
    PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 cargo build "${options[@]}" -Zbuild-std=core,compiler_builtins \
        -Zbuild-std-features=compiler-builtins-mem >&2
fi
install -m 644 "$work/target/$target/release/unpack.efi" "$output"
say "$(($(stat -c %s "$image") / 1024)) KiB packed into $(($(stat -c %s "$output") / 1024)) KiB"
