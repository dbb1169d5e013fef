#!/usr/bin/env bash
# Seven machines from power-on to a ready cluster, in QEMU, without KVM. Options go to the lab: `scripts/demo.sh --help`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and taps" "run it as root"
scripts/setup.sh build images lab
scripts/parts.sh
cargo build --quiet --package muster-lab --bin lab
exec "${CARGO_TARGET_DIR:-target}/debug/lab" demo "$@"
