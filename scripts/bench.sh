#!/usr/bin/env bash
# Our figures beside their budgets and the peers', in one run (docs/bench.md says what is not measured yet).
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh
scripts/dist.sh >/dev/null
dist=$repo/target/dist
missed=0
row() { # WHAT FILE BUDGET-MIB
    local bytes
    bytes=$(stat -c %s "$2")
    awk -v what="$1" -v bytes="$bytes" -v budget="$3" 'BEGIN {
        mib = bytes / 1048576
        printf "%-28s %8.2f MiB   budget %4d MiB   %s\n", what, mib, budget, mib <= budget ? "met" : "MISSED"
        exit mib > budget }' || missed=1
}
for arch in x86_64 aarch64; do
    row "agent $arch" "$dist/muster-agent-$arch" 4
    row "provisioner $arch" "$dist/muster-$arch" 12
done
row "boot image x86_64" "$dist/boot-x86_64.efi" 32
row "boot image aarch64" "$dist/boot-aarch64.efi" 40
# Here, so that a bench that does not compile is an error and not a missed budget.
cargo bench --quiet --locked --package muster --bench netboot --bench fleet --no-run
cargo bench --quiet --locked --package muster-agent --bench install_write --no-run
say "TFTP, TFTP with loss, and HTTP beside dnsmasq, tftpd-hpa, atftpd and nginx of Debian sid"
cargo bench --locked --package muster --bench netboot || missed=1
say "a fleet: status over the LAN, memory, 200 machines at once"
MUSTER_NETBOOT=$(images/netboot/build.sh "$(uname -m)") cargo bench --locked --package muster --bench fleet || missed=1
say "install write, beside the shell's own pipeline"
cargo bench --locked --package muster-agent --bench install_write || missed=1
report=target/demo/report.json
if [ -f "$report" ]; then
    python3 - "$report" <<'END' || missed=1
import json, math, sys
report = json.load(open(sys.argv[1]))
times = sorted(report.get("lan_status_ms", []))
if not times:
    print("LAN status of the last demo: its report has no times")
    sys.exit(0)
p95 = times[math.ceil(len(times) * 0.95) - 1]
met = p95 <= 250
print(f"LAN status, p95 of {len(times)}, {len(report['machines'])} guests of the last demo: {p95:.0f} ms   "
      f"budget 250 ms   {'met' if met else 'MISSED'}")
sys.exit(not met)
END
else
    say "no $report: \`make demo\` writes one, with the times of twenty questions to its guests"
fi
say "one machine from the power button to \`waiting\`, three times"
cargo build --quiet --locked --package muster-lab --bin lab
median=$("${CARGO_TARGET_DIR:-target}/debug/lab" waiting --runs 3 | tee >(cat >&2) | sed -n 's/^median \([0-9.]*\) s$/\1/p')
awk -v seen="${median:-999}" 'BEGIN {
    printf "power-on to waiting, median      %6.1f s   budget 25 s   %s\n", seen, seen <= 25 ? "met" : "MISSED"
    exit seen > 25 }' || missed=1
[ "$missed" = 0 ] || say "some budgets are missed: the tables say which"
