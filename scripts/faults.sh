#!/usr/bin/env bash
# One machine in QEMU through power cuts, cut cables, dropped ports and killed provisioners. Options go to the lab:
# `scripts/faults.sh --only power-cut --seed 7`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

[ "$(id -u)" = 0 ] || die "the lab makes network namespaces and taps" "run it as root"
scripts/setup.sh build images lab
scripts/parts.sh
cargo build --quiet --package muster-lab --bin lab
exec "${CARGO_TARGET_DIR:-target}/debug/lab" faults "$@"
