#!/usr/bin/env bash
# What a release carries: static programs and boot images for both architectures, with their digests.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

scripts/setup.sh build images
scripts/build-static.sh x86_64 aarch64 agent provisioner
dist=$repo/target/dist
for arch in x86_64 aarch64; do
    base=$(images/netboot/build.sh "$arch")
    # Without a trust file: `muster init` and `muster image build` compose one of the cluster's own from the same parts.
    "$dist/muster-$(uname -m)" image compose --netboot "$base" \
        --agent "$dist/muster-agent-$arch" --output "$dist/boot-$arch.efi"
done
cd "$dist"
sha256sum muster-{x86_64,aarch64} muster-agent-{x86_64,aarch64} boot-{x86_64,aarch64}.efi >SHA256SUMS
ls -l muster-{x86_64,aarch64} muster-agent-{x86_64,aarch64} boot-{x86_64,aarch64}.efi
