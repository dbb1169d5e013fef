#!/usr/bin/env bash
# The node image for one architecture: Debian 13's base, the kernel's modules (no kernel, no boot loader), our
# units and links, as one ext4 file that is only ever mounted read-only. Prints the folder:
#
#   root.ext4  manifest.json
#
#   build.sh ARCH     x86_64 or aarch64; as root
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

arch=${1:?usage: build.sh ARCH}
here=$repo/images/node
debian13=$repo/scripts/debian13.sh
[ "$(id -u)" = 0 ] || die "must run as root to keep owners"

netboot=$("$repo/images/netboot/build.sh" "$arch")
release=$(cat "$netboot/release")
base=$("$here/base.sh" "$arch")
firmware=(firmware-realtek firmware-misc-nonfree firmware-intel-misc)
kernel=linux-image-$release
# mke2fs of Debian 13: it takes every time stamp from SOURCE_DATE_EPOCH. It runs here, so it is this machine's.
tools=(e2fsprogs libc6 libext2fs2t64 libcom-err2 libblkid1 libuuid1)
key=$({
    (cd "$here" && find . -type f ! -name base.sh -exec sha256sum {} + | sort -k2 && find . -type l -printf '%p %l\n' | sort)
    basename "$base"
    "$debian13" versions "$arch" "$kernel" "${firmware[@]}"
} | short_hash)
out=$cache/node/$arch-$key
lock "node-$arch"
if [ -e "$out/manifest.json" ]; then finished "$out"; exit 0; fi

say "building $out"
mkdir -p "$cache/node"
work=$(mktemp -d "$cache/node/.build-XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root debs=$work/debs parts=$work/parts
mkdir -p "$root" "$debs" "$parts"
column() { sed 's/#.*//; s/[[:space:]].*//; /^$/d' "$1"; }
tar -C "$root" --numeric-owner -xpf "$base"
"$debian13" unpack "$arch" "$debs" "$kernel" "${firmware[@]}"

# --- modules of the boot image's kernel, without those no node needs; zstd, because xz takes five times as long
# to unpack at each boot (and from files, not pipes: kmod wants the size in the frame's header) ---
modules=$debs/usr/lib/modules/$release
while read -r folder; do rm -rf "$modules/kernel/$folder"; done < <(column "$here/modules.pruned")
find "$modules" -name '*.ko.xz' -print0 |
    xargs -0 -n 64 -P "$(nproc)" sh -ec 'xz -d "$@"; for f; do zstd -q -12 --rm "${f%.xz}"; done' sh
mkdir -p "$root/usr/lib/modules" "$root/usr/lib/firmware"
cp -a "$modules" "$root/usr/lib/modules/"
depmod -b "$root" "$release"
find "$root/usr/lib/modules/$release" -name '*.ko.zst' -exec modinfo -F firmware {} + | sort -u | while read -r name; do
    from=$debs/usr/lib/firmware/$name
    [ -e "$from" ] || continue
    mkdir -p "$(dirname "$root/usr/lib/firmware/$name")"
    cp -L "$from" "$root/usr/lib/firmware/$name"
done

# --- our files, links and masks ---
# What Debian's scripts left behind and a read-only root with its own data elsewhere must not have; sshd and
# logind start when somebody calls (kubelet does, for graceful shutdown).
rm -rf "$root"/etc/ssh/ssh_host_* "$root"/etc/{hosts,resolv.conf,hostname,machine-id,mtab} "$root"/etc/init.d \
    "$root"/etc/rc?.d "$root"/etc/cron.* "$root"/etc/systemd/system/*.wants/{getty@tty1,e2scrub_reap}.service \
    "$root"/etc/systemd/system/timers.target.wants/{dpkg-db-backup,e2scrub_all}.timer \
    "$root"/etc/systemd/system/multi-user.target.wants/ssh.service \
    "$root"/usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service \
    "$root"/usr/lib/udev/hwdb.d "$root"/etc/{passwd,group,shadow,gshadow,subuid,subgid}-
cp -a --no-preserve=ownership "$here/root/." "$root/"
chown -hR 0:0 "$root"/etc/{ssh,systemd,sysctl.d,tmpfiles.d,modprobe.d,chrony,rancher} "$root"/usr/local/bin "$root"/opt
find "$root" -name .keep -delete
ln -s ../proc/self/mounts "$root/etc/mtab"
for unit in $(column "$here/masked"); do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
mkdir -p "$root/etc/systemd/system-generators"
for generator in $(column "$here/generators.masked"); do
    ln -sfn /dev/null "$root/etc/systemd/system-generators/$generator"
done
# kubelet wants its plugin folder here, whatever its flags say.
mkdir -p "$root/usr/libexec/kubernetes/kubelet-plugins/volume"
ln -s /var/lib/kubelet/plugins-exec "$root/usr/libexec/kubernetes/kubelet-plugins/volume/exec"

# --- /var is the data partition: what must be there at first goes to the factory folder ---
mkdir -p "$root/usr/lib/muster" "$root/usr/share/factory"
rm -rf "$root"/var/lib/{apt,ucf,systemd} "$root"/var/{cache,log,backups,tmp,spool} "$root/var/lib/dbus/machine-id" \
    "$root"/var/lib/dpkg/{lock*,triggers/Lock,*-old,updates} "$root/var/lib/shells.state"
mv "$root/var/lib/dpkg" "$root/usr/lib/muster/dpkg"
ln -s ../../usr/lib/muster/dpkg "$root/var/lib/dpkg"
mkdir -p "$root"/var/{cache,log/journal,tmp,spool,lib/systemd}
chmod 1777 "$root/var/tmp"
ln -sfn /etc/machine-id "$root/var/lib/dbus/machine-id"
mv "$root/var" "$root/usr/share/factory/var"
mkdir -m 755 "$root/var"
printf 'VERSION=%s\nKERNEL=%s\nARCH=%s\n' "debian-13-$key" "$release" "$arch" >"$root/usr/lib/muster/image"

# --- one ext4 file, the same bytes each time ---
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
"$debian13" unpack "$(uname -m)" "$work/tools" "${tools[@]}"
uuid=$(printf 'muster node image %s' "$key" | sha256sum | sed 's/^\(.\{8\}\)\(.\{4\}\).\(.\{3\}\).\(.\{3\}\)\(.\{12\}\).*/\1-\2-4\3-8\4-\5/')
inodes=$(($(find "$root" | wc -l) + 1024))
blocks=$(($(find "$root" -type f -printf '%s\n' | awk '{ n += int(($1 + 4095) / 4096) } END { print n }') + $(find "$root" -type d | wc -l)))
# Room for the tables and some slack; the image never grows.
blocks=$((blocks + blocks / 50 + inodes / 16 + 4096))
loader=$(find "$work/tools" -name 'ld-linux-*' | head -n 1)
library=$(dirname "$(find "$work/tools" -name libext2fs.so.2)")
"$loader" --library-path "$library" "$work/tools/usr/sbin/mke2fs" -q -t ext4 -b 4096 -N "$inodes" -m 0 \
    -O '^has_journal,^resize_inode,^metadata_csum_seed' -U "$uuid" -L muster-root \
    -E "hash_seed=$uuid,lazy_itable_init=0,root_owner=0:0,nodiscard" -d "$root" "$parts/root.ext4" "$blocks"
python3 "$repo/scripts/manifest.py" "$parts" arch="$arch" kernel_release="$release" version="debian-13-$key" \
    packages="$(sed -n '/^Package: /{s///;h}; /^Version: /{s///;H;g;s/\n/ /p}' "$root/usr/lib/muster/dpkg/status" | sort)" \
    >"$work/manifest.json"
mv "$work/manifest.json" "$parts/manifest.json"
publish "$parts" "$out"
say "$arch: $(($(stat -c %s "$out/root.ext4") / 1048576)) MiB, $inodes inodes, modules of $release"
finished "$out"
forget_old "$cache/node/$arch-"
