#!/usr/bin/env bash
# The Debian 13 part of the node image, as a tar: the slow step (arm64 runs its maintainer scripts under
# qemu-user), hence kept apart and by content. Prints the tar's path.
#
#   base.sh ARCH     x86_64 or aarch64
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

arch=${1:?usage: base.sh ARCH}
debian=$(debian_arch "$arch")
here=$repo/images/node
debian13=$repo/scripts/debian13.sh
mapfile -t packages < <(sed 's/#.*//; s/[[:space:]]*$//; /^$/d' "$here/packages")

# No manuals and translations; the licences in /usr/share/doc/*/copyright stay.
options=(--variant=essential --mode=root --format=tar
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*'
    --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/lintian/*'
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright')

"$debian13" update
key=$({ echo "${options[@]}" && "$debian13" closure "$arch" "${packages[@]}"; } | short_hash)
tar=$cache/node-base/$arch-$key.tar
lock "node-base-$arch"
if [ -e "$tar" ]; then finished "$tar"; exit 0; fi

if [ "$(uname -m)" != "$arch" ]; then
    # The kernel runs foreign programs through binfmt_misc; containers often come without it mounted.
    [ -e /proc/sys/fs/binfmt_misc/register ] || mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
    [ -e "/proc/sys/fs/binfmt_misc/qemu-$arch" ] || update-binfmts --import "qemu-$arch" >&2 ||
        die "cannot run $arch programs here" "apt-get install qemu-user-static binfmt-support"
fi

mirror=${MUSTER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${MUSTER_DEBIAN_SECURITY:-http://deb.debian.org/debian-security}
mkdir -p "$cache/node-base"
say "mmdebstrap for $arch (half a minute natively, seven minutes under qemu-user)"
started=$SECONDS
mmdebstrap --quiet "${options[@]}" --architectures="$debian" \
    --include="$(IFS=,; echo "${packages[*]}")" --keyring=/usr/share/keyrings/debian-archive-keyring.gpg \
    trixie "$tar.partial" \
    "deb $mirror trixie main" "deb $mirror trixie-updates main" "deb $security trixie-security main" >&2
mv "$tar.partial" "$tar"
say "$arch base: $(($(stat -c %s "$tar") / 1048576)) MiB in $((SECONDS - started)) s"
finished "$tar"
forget_old "$cache/node-base/$arch-"
