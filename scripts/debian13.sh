#!/usr/bin/env bash
# Debian 13 packages on any machine: an apt of our own under the cache, so that the host's sources and
# pins neither help nor hurt. Nothing is installed: packages are downloaded and unpacked with `dpkg -x`.
#
#   debian13.sh update                        refresh the package lists (kept for MUSTER_LISTS_DAYS, default 7)
#   debian13.sh versions ARCH PACKAGE...      `package version` of each, sorted
#   debian13.sh closure ARCH PACKAGE...       the same with all dependencies
#   debian13.sh unpack ARCH FOLDER PACKAGE... download and unpack these packages (not their dependencies)
#
# ARCH is x86_64 or aarch64.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

mirror=${MUSTER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
security=${MUSTER_DEBIAN_SECURITY:-http://deb.debian.org/debian-security}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
root=$cache/debian13

configure() { # ARCH
    local arch folder
    arch=$(debian_arch "$1")
    folder=$root/$arch
    # Debian 12 has trixie's keys since debian-archive-keyring 2023.3+deb12u2.
    [ -r "$keyring" ] || die "no Debian keyring at \`$keyring\`" "apt-get install debian-archive-keyring"
    mkdir -p "$folder"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d,sources.list.d} \
        "$folder"/var/lib/{apt/lists/partial,dpkg} "$folder"/var/cache/apt/archives/partial
    [ -e "$folder/var/lib/dpkg/status" ] || : >"$folder/var/lib/dpkg/status"
    cat >"$folder/etc/apt/sources.list" <<LIST
deb [signed-by=$keyring] $mirror trixie main non-free-firmware
deb [signed-by=$keyring] $mirror trixie-updates main non-free-firmware
deb [signed-by=$keyring] $security trixie-security main non-free-firmware
LIST
    {
        cat <<CONF
Dir "$folder/";
Dir::State::status "$folder/var/lib/dpkg/status";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
CONF
        # The host may reach the mirror only through a proxy.
        apt-config dump | grep -E '^Acquire::https?::(Proxy|CAInfo)' || [ $? = 1 ]
    } >"$folder/apt.conf"
    export APT_CONFIG=$folder/apt.conf
}

update() {
    local arch stamp
    lock debian13-lists
    for arch in x86_64 aarch64; do
        configure "$arch"
        stamp=$root/$(debian_arch "$arch")/updated
        if [ -n "$(find "$stamp" -mtime "-${MUSTER_LISTS_DAYS:-7}" 2>/dev/null)" ]; then continue; fi
        say "updating the Debian 13 package lists for $arch"
        apt-get -qq update >&2 || die "cannot read Debian 13's package lists from $mirror" \
            "is the machine online? is debian-archive-keyring at least 2023.3+deb12u2?"
        touch "$stamp"
    done
}

versions() { # ARCH PACKAGE...
    configure "$1"
    shift
    local package version
    for package in "$@"; do
        version=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
        case $version in '' | '(none)') die "Debian 13 has no package \`$package\`" ;; esac
        printf '%s %s\n' "$package" "$version"
    done | sort
}

closure() { # ARCH PACKAGE...
    configure "$1"
    shift
    apt-get -qq -s install "$@" | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1 \2/p' | sort
}

unpack() { # ARCH FOLDER PACKAGE...
    configure "$1"
    local arch=$1 target=$2 downloads package
    shift 2
    downloads=$(dirname "$APT_CONFIG")/packages
    mkdir -p "$downloads" "$target"
    lock "debian13-$(debian_arch "$arch")"
    for package in "$@"; do
        # apt verifies the signature chain and the digest, and skips what is already there and whole.
        (cd "$downloads" && apt-get -qq download "$package" >&2)
        local version file
        version=$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')
        file=$(find "$downloads" -name "${package}_${version//:/%3a}_*.deb")
        [ -n "$file" ] || die "downloaded \`$package $version\` but cannot find it in $downloads"
        dpkg -x "$file" "$target"
    done
}

[ $# -ge 1 ] || die "what shall I do?" "see the head of this script"
verb=$1
shift
case $verb in
update) update ;;
versions | closure | unpack) "$verb" "$@" ;;
*) die "unknown verb \`$verb\`" "update, versions, closure or unpack" ;;
esac
