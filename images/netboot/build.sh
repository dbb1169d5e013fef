#!/usr/bin/env bash
# The boot image's base parts for one architecture, from Debian 13: kernel, stub, loader and an initramfs
# without the agent (that comes as a second archive when a UKI is composed). Prints the folder:
#
#   linux  initrd.base.zst  stub.efi  systemd-boot.efi  release  manifest.json
#
#   build.sh ARCH     x86_64 or aarch64
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

arch=${1:?usage: build.sh ARCH}
debian=$(debian_arch "$arch")
efi=$(efi_arch "$arch")
here=$repo/images/netboot
debian13=$repo/scripts/debian13.sh
column() { sed 's/#.*//; s/[[:space:]].*//; /^$/d' "$@"; }
mapfile -t packages < <(column "$here/packages")

"$debian13" update
kernel=$("$debian13" closure "$arch" "linux-image-$debian" | sed -n 's/^\(linux-image-[0-9][^ ]*\) .*/\1/p')
[ -n "$kernel" ] || die "Debian 13 names no kernel for $arch"
packages+=("$kernel")
# x86's bzImage unpacks itself; arm64's Image is plain, and gets a program around it where one can be compiled.
pack=
if [ "$arch" = aarch64 ]; then
    if "$here/pack-kernel.sh" --can; then pack=yes; else say "the kernel stays unpacked, 20 MB larger"; fi
fi
versions=$("$debian13" versions "$arch" "${packages[@]}")
recipe=("$here/build.sh" "$here/modules.common" "$here/modules.$arch")
[ -z "$pack" ] || recipe+=("$here/pack-kernel.sh" "$here"/unpack/Cargo.lock "$here"/unpack/src/*)
key=$({ cat "${recipe[@]}" && echo "$versions"; } | short_hash)
out=$cache/netboot/$arch-$key
lock "netboot-$arch"
if [ -e "$out/manifest.json" ]; then finished "$out"; exit 0; fi

say "building $out"
mkdir -p "$cache/netboot"
work=$(mktemp -d "$cache/netboot/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
debs=$work/debs root=$work/root parts=$work/parts
mkdir -p "$debs" "$root"/{bin,dev,etc,proc,run,sys,tmp,mnt,lib/firmware} "$parts"
"$debian13" unpack "$arch" "$debs" "${packages[@]}"
release=$(basename "$debs"/usr/lib/modules/*)

# --- modules: the listed ones and all they depend on, unpacked, so that the agent needs no xz ---
# kmod looks below DIR/lib/modules.
[ -e "$debs/lib" ] || ln -s usr/lib "$debs/lib"
depmod -b "$debs" "$release"
wanted=$work/wanted
missing=()
while read -r name; do
    may_lack=${name##*[!?]}
    name=${name%\?}
    if ! modprobe -d "$debs" -S "$release" --show-depends "$name" >>"$wanted" 2>/dev/null; then
        [ -n "$may_lack" ] || die "this kernel ($release) has no module \`$name\`" \
            "correct images/netboot/modules.*"
        missing+=("$name")
    fi
done < <(column "$here/modules.common" "$here/modules.$arch")
sed -n 's/^insmod \([^ ]*\).*/\1/p' "$wanted" | sort -u >"$work/files"
to=$root/lib/modules/$release
while read -r file; do
    target=$to/${file#"$debs/lib/modules/$release/"}
    mkdir -p "$(dirname "$target")"
    case $file in
    *.xz) xz -dc "$file" >"${target%.xz}" ;;
    *) cp "$file" "$target" ;;
    esac
done <"$work/files"
cp "$debs/lib/modules/$release"/modules.{order,builtin,builtin.modinfo} "$to/"
depmod -b "$root" "$release"
# The agent reads the text forms.
rm -f "$to"/modules.*.bin "$to"/modules.{symbols,devname,builtin.modinfo,order,weakdep}

# --- firmware: what these modules ask for, as far as the packages have it ---
find "$to" -name '*.ko' -exec modinfo -F firmware {} + | sort -u | while read -r name; do
    from=$debs/usr/lib/firmware/$name
    [ -e "$from" ] || continue
    mkdir -p "$(dirname "$root/lib/firmware/$name")"
    cp -L "$from" "$root/lib/firmware/$name"
done
# `ice` asks for its package by this name at run time only.
ddp=$debs/usr/lib/firmware/intel/ice/ddp/ice.pkg
if [ -e "$ddp" ]; then install -D -m 644 "$(readlink -f "$ddp")" "$root/lib/firmware/intel/ice/ddp/ice.pkg"; fi

# --- mke2fs and the libraries it names ---
copy_with_libraries() { # FILE TARGET
    install -D -m 755 "$1" "$2"
    local library found
    while read -r library; do
        found=$(find "$debs/usr/lib" -name "$library" \( -type f -o -type l \) | head -n 1)
        [ -n "$found" ] || die "no package here has \`$library\`, wanted by \`$1\`"
        target=$root/lib/${found#"$debs/usr/lib/"}
        [ -e "$target" ] || copy_with_libraries "$(readlink -f "$found")" "$target"
    done < <(readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p')
}
copy_with_libraries "$debs/usr/sbin/mke2fs" "$root/bin/mke2fs"
interpreter=$(readelf -l "$root/bin/mke2fs" | sed -n 's/.*interpreter: \(.*\)\]/\1/p')
loader=$(find "$root/lib" -name "$(basename "$interpreter")" | head -n 1)
[ -n "$loader" ] || die "no dynamic loader $interpreter came with mke2fs's libraries"
if [ "$loader" != "$root$interpreter" ]; then
    mkdir -p "$(dirname "$root$interpreter")"
    ln -s "${loader#"$root"}" "$root$interpreter"
fi
cp "$debs/etc/mke2fs.conf" "$root/etc/mke2fs.conf"

# The kernel opens /dev/console for PID 1 before anything is mounted.
mknod -m 600 "$root/dev/console" c 5 1

# --- one archive, the same bytes each time ---
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
(cd "$root" && find . -print0 | sort -z | cpio --quiet --null -o -H newc --reproducible --owner 0:0) >"$work/initrd"
zstd -q -19 --single-thread -c "$work/initrd" >"$parts/initrd.base.zst"
if [ -n "$pack" ]; then
    "$here/pack-kernel.sh" "$debs/boot/vmlinuz-$release" "$parts/linux"
else
    cp "$debs/boot/vmlinuz-$release" "$parts/linux"
fi
cp "$debs/usr/lib/systemd/boot/efi/linux$efi.efi.stub" "$parts/stub.efi"
cp "$debs/usr/lib/systemd/boot/efi/systemd-boot$efi.efi" "$parts/systemd-boot.efi"
echo "$release" >"$parts/release"
python3 "$repo/scripts/manifest.py" "$parts" arch="$arch" kernel_release="$release" \
    modules="$(wc -l <"$work/files")" missing="${missing[*]}" packages="$versions" >"$work/manifest.json"
mv "$work/manifest.json" "$parts/manifest.json"
publish "$parts" "$out"
say "$arch $release: $(wc -l <"$work/files") modules, initramfs $(($(stat -c %s "$work/initrd") / 1024)) KiB," \
    "compressed $(($(stat -c %s "$out/initrd.base.zst") / 1024)) KiB; not in this kernel: ${missing[*]:-none}"
finished "$out"
forget_old "$cache/netboot/$arch-"
