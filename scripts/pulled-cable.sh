#!/usr/bin/env bash
# The demo must be able to fail: two machines, the cable of one is out. It has to end with code 1, and the only thing that
# it finds has to be that this machine is not ready. About three minutes without KVM.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

pulled=mini-pc-4
said=$(mktemp)
trap 'rm -f "$said"' EXIT
code=0
scripts/demo.sh --only "mini-pc-1,$pulled" --pull-cable "$pulled" "$@" >"$said" || code=$?
cat "$said"

[ "$code" = 1 ] || die "the demo with a pulled cable left with code $code instead of 1" "see target/demo"
found=$(grep '^NOT WELL: ' "$said" || true)
grep -q "^NOT WELL: not ready after [0-9]* s: $pulled [^;]*\$" <<<"$found" ||
    die "the demo does not say that $pulled alone is not ready" "it found: ${found:-nothing}"
[ "$(wc -l <<<"$found")" = 1 ] || die "the demo found more than the pulled cable" "$found"
say "a pulled cable is found and named: ${found#NOT WELL: }"
