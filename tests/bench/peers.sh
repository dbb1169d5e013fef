#!/usr/bin/env bash
# The servers we measure ourselves against, the newest that Debian has (sid), unpacked with their own libc into
# `$cache/peers` and never installed. Prints the folder.
#
#   peers.sh            dnsmasq, tftpd-hpa, atftpd, nginx
#
# Run one by `FOLDER/run PROGRAM ARGUMENTS`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/../../scripts/lib.sh"

mirror=${MUSTER_DEBIAN_MIRROR:-http://deb.debian.org/debian}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
packages="dnsmasq-base tftpd-hpa atftpd nginx"
root=$cache/peers
lock peers

# Peers change rarely; a figure should be of the same peer all week.
if [ -n "$(find "$root/done" -mtime -30 2>/dev/null)" ]; then
    echo "$root"
    exit 0
fi
[ -r "$keyring" ] || die "no Debian keyring at \`$keyring\`" "apt-get install debian-archive-keyring"
rm -rf "$root"
mkdir -p "$root"/etc/apt/{apt.conf.d,preferences.d,trusted.gpg.d,sources.list.d} \
    "$root"/var/lib/{apt/lists/partial,dpkg} "$root"/var/cache/apt/archives/partial "$root/tree"
: >"$root/var/lib/dpkg/status"
echo "deb [signed-by=$keyring] $mirror sid main" >"$root/etc/apt/sources.list"
{
    cat <<CONF
Dir "$root/";
Dir::State::status "$root/var/lib/dpkg/status";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Architecture "$(debian_arch "$(uname -m)")";
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
# A mirror behind a cache may be weeks old; that is no danger for programs that are only measured.
Acquire::Check-Valid-Until "false";
CONF
    # The host may reach the mirror only through a proxy.
    apt-config dump | grep -E '^Acquire::https?::(Proxy|CAInfo)' || [ $? = 1 ]
} >"$root/apt.conf"
export APT_CONFIG=$root/apt.conf
apt-get -qq update >&2 || die "cannot read sid's package lists from $mirror" "is the machine online?"
# The libraries only: what a package's scripts would need does not run here. One by one: TFTP servers conflict.
libraries=$(for package in $packages; do
    apt-get -qq -s install "$package" | sed -n 's/^Inst \(lib[^ ]*\|zlib1g\) .*/\1/p'
done | sort -u)
cd "$root/var/cache/apt/archives"
# shellcheck disable=SC2086
apt-get -qq download $packages $libraries >&2
for package in *.deb; do dpkg -x "$package" "$root/tree"; done
rm -f -- *.deb
# shellcheck disable=SC2086
for package in $packages; do
    printf '%s %s\n' "$package" "$(apt-cache policy "$package" | sed -n 's/^ *Candidate: //p')"
done >"$root/versions"

cat >"$root/run" <<'RUN'
#!/usr/bin/env bash
# Starts a peer with the libraries it was built for.
tree=$(dirname "$0")/tree
libraries=$(find "$tree/usr/lib" "$tree/lib" -maxdepth 2 -name 'lib*.so.*' -printf '%h\n' 2>/dev/null | sort -u | paste -sd:)
loader=$(find "$tree/usr/lib" "$tree/usr/lib64" "$tree/lib64" -name 'ld-linux*.so.*' 2>/dev/null | head -n 1)
program=$1
shift
exec "$loader" --library-path "$libraries" "$tree/usr/sbin/$program" "$@"
RUN
chmod +x "$root/run"
touch "$root/done"
echo "$root"
