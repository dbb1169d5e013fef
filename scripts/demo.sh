#!/usr/bin/env bash
# Seven machines from power-on to a ready cluster, in QEMU, without KVM. Options go to the lab: `scripts/demo.sh --help`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

run_lab demo "$@"
