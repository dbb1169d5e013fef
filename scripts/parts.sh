#!/usr/bin/env bash
# Everything that the demo runs, built or taken from the cache: static programs, boot images, node images, k3s, Kata, the lab.
#
#   parts.sh [dist]     with `dist` also the provisioner for the other architecture
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh build images
machine=$(uname -m)

# In a process group of its own (set -m), so that all of it ends when something here fails.
# An arm64 root through qemu-user takes one core as long as the static programs take the other; what needs none of them follows it.
set -m
{
    images/node/build.sh aarch64
    images/node/build.sh x86_64
    cargo build --quiet --locked --package muster-lab --bin lab
} >/dev/null &
beside=$!
set +m
trap 'kill -- -"$beside" 2>/dev/null || true' EXIT

scripts/build-static.sh x86_64 aarch64 agent standin
if [ "${1:-}" = dist ]; then
    scripts/build-static.sh x86_64 aarch64 provisioner
else
    scripts/build-static.sh "$machine" provisioner
fi
for arch in x86_64 aarch64; do images/netboot/build.sh "$arch" >/dev/null; done
wait "$beside"
trap - EXIT
images/lab/k3s-standin.sh
images/lab/kata.sh
