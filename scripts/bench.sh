#!/usr/bin/env bash
# Our figures beside their budgets and the peers', in one run (docs/bench.md says what is not measured yet).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh
scripts/dist.sh >/dev/null
dist=$repo/target/dist
row() { # WHAT FILE BUDGET-MIB
    local bytes
    bytes=$(stat -c %s "$2")
    awk -v what="$1" -v bytes="$bytes" -v budget="$3" 'BEGIN {
        mib = bytes / 1048576
        printf "%-28s %8.2f MiB   budget %4d MiB   %s\n", what, mib, budget, mib <= budget ? "met" : "MISSED" }'
}
for arch in x86_64 aarch64; do
    row "agent $arch" "$dist/muster-agent-$arch" 4
    row "provisioner $arch" "$dist/muster-$arch" 12
done
row "boot image x86_64" "$dist/boot-x86_64.efi" 32
row "boot image aarch64" "$dist/boot-aarch64.efi" 40
missed=0
say "TFTP, TFTP with loss, and HTTP beside dnsmasq, tftpd-hpa, atftpd and nginx of Debian sid"
cargo bench --locked --package muster --bench netboot || missed=1
say "install write, beside the shell's own pipeline"
cargo bench --locked --package muster-agent --bench install_write
[ "$missed" = 0 ] || say "some budgets are missed: the tables say which"
