#!/usr/bin/env bash
# One machine in QEMU through power cuts, cut cables, dropped ports and killed provisioners. Options go to the lab:
# `scripts/faults.sh --only power-cut --seed 7`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

run_lab faults "$@"
