#!/usr/bin/env bash
# One machine in QEMU through power cuts, cut cables, dropped ports and killed provisioners.
#
#   faults.sh               all stories, in two LANs side by side: one waits for firmware where the other computes
#   faults.sh OPTIONS...    `lab faults` with these: `scripts/faults.sh --only power-cut --seed 7`
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

[ $# = 0 ] || run_lab faults "$@"

ready_lab
# Until a machine is installed, and after: about as long one as the other.
"$lab" faults --folder target/faults --only port-4011,cable,provisioner-killed,three-disks,power-cut &
one=$!
"$lab" faults --folder target/faults-installed --only power-cycles,store-lost &
other=$!
# A lab that is told to end takes its machines and namespaces with it.
trap 'kill "$one" "$other" 2>/dev/null || true; wait' EXIT
well=yes
wait "$one" || well=no
wait "$other" || well=no
trap - EXIT
[ $well = yes ] || die "a story did not end well" "what it said is above; see target/faults and target/faults-installed"
