#!/usr/bin/env bash
# The protocol for a target without an operating system, core and alloc from Debian's source: proof that it needs neither.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

PATH=/usr/bin:/bin RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$repo/target/bare cargo build --quiet --locked \
    --package muster-protocol --target aarch64-unknown-none -Zbuild-std=core,alloc
