#!/usr/bin/env bash
# The long counts: random histories of the cluster, random power cuts of the installer, every fault story in QEMU. Figures go to docs/soak.md by hand.
#
#   MUSTER_HISTORIES (default 500,000) and MUSTER_CUTS (default 50,000) tell other numbers.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh build test
export MUSTER_HISTORIES=${MUSTER_HISTORIES:-500000} MUSTER_CUTS=${MUSTER_CUTS:-50000}
# Hours of arithmetic are worth minutes of the compiler.
fast=(--config 'profile.dev.package.muster.opt-level=2' --config 'profile.dev.package.muster-agent.opt-level=2')
say "$MUSTER_HISTORIES histories of init and join"
cargo test --locked "${fast[@]}" --package membership-sim --test histories
say "$MUSTER_CUTS stories of power cuts during an install"
cargo test --locked "${fast[@]}" --package muster-agent --test install_powercut
say "all fault stories of the lab, and a demo with a pulled cable that must fail"
scripts/faults.sh
scripts/pulled-cable.sh
