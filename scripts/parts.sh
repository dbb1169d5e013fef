#!/usr/bin/env bash
# Everything that the demo runs, built or taken from the cache: static programs, boot images, node images, k3s, Kata.
#
#   parts.sh [dist]     with `dist` also the provisioner for the other architecture
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh build images
machine=$(uname -m)

# The slowest part, an arm64 root through qemu-user, uses one core: it runs beside the compilers.
images/node/build.sh aarch64 >/dev/null &
arm64=$!
trap 'kill "$arm64" 2>/dev/null || true' EXIT

scripts/build-static.sh x86_64 aarch64 agent standin
if [ "${1:-}" = dist ]; then
    scripts/build-static.sh x86_64 aarch64 provisioner
else
    scripts/build-static.sh "$machine" provisioner
fi
for arch in x86_64 aarch64; do images/netboot/build.sh "$arch" >/dev/null; done
images/node/build.sh x86_64 >/dev/null
wait "$arm64"
trap - EXIT
images/lab/k3s-standin.sh
images/lab/kata.sh
