#!/usr/bin/env bash
# Every check, in tiers from cheap to dear; each says what it is, a skipped one says why.
#
#   test.sh [fmt|lint|deny|unit|bare|lab|faults]...     all when none is named
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
cd "$repo"

all=(fmt lint deny unit bare lab faults)
tiers=("$@")
[ $# -gt 0 ] || tiers=("${all[@]}")
passed=0 skipped=0
asked() { case " ${tiers[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }
tier() { printf '\n=== %s: %s\n' "$1" "$2" >&2; }
skip() { skipped=$((skipped + 1)); say "SKIPPED tier $1: $2"; }

# Debian 13's etcd with its tools beside it, for the stand-in's own stories.
real_etcd() {
    set -e # a command substitution does not inherit it
    local folder version
    scripts/debian13.sh update
    version=$(scripts/debian13.sh versions "$(uname -m)" etcd-server | cut -d' ' -f2)
    folder=$cache/etcd/$version-$(uname -m)
    if [ ! -x "$folder/usr/bin/etcd" ]; then
        rm -rf "$folder.partial"
        scripts/debian13.sh unpack "$(uname -m)" "$folder.partial" etcd-server etcd-client
        publish "$folder.partial" "$folder"
    fi
    echo "$folder/usr/bin/etcd"
}

# Most of the tests' time is waiting for timers and sockets. Meanwhile what later tiers need is built, by what the processor
# has left over; their own builds then find it done, or say what is wrong.
beside=
build_beside() {
    local script scripts=()
    if asked bare && has_library_source; then scripts+=(scripts/bare.sh); fi
    if asked lab || asked faults; then scripts+=(scripts/parts.sh); fi
    [ ${#scripts[@]} -gt 0 ] || return 0
    mkdir -p target
    set -m
    for script in "${scripts[@]}"; do chrt --idle 0 "$script" || exit 1; done >target/beside.log 2>&1 &
    beside=$!
    set +m
    trap 'kill -- -"$beside" 2>/dev/null || true' EXIT
}
built_beside() {
    [ -n "$beside" ] || return 0
    wait "$beside" || say "the build beside the tests failed (target/beside.log); once more"
    trap - EXIT
    beside=
}

scripts/setup.sh
for name in "${tiers[@]}"; do
    started=$SECONDS
    case $name in
    fmt)
        tier fmt "the code is formatted"
        cargo fmt --all --check
        ;;
    lint)
        tier lint "clippy, warnings are errors"
        cargo clippy --workspace --all-targets --locked --quiet -- -D warnings
        ;;
    deny)
        tier deny "licences, sources, banned crates (the advisory database cannot be fetched everywhere: not checked)"
        PATH=$cache/tools/bin:$PATH cargo deny --locked --log-level error check bans licenses sources
        ;;
    bare)
        tier bare "protocol builds for a target without an operating system"
        if ! has_library_source; then
            skip bare "no source of core and alloc: Debian's rust-web-src is not installed"
            continue
        fi
        scripts/bare.sh
        ;;
    unit)
        tier unit "unit, property, golden and namespace tests"
        K3S_STANDIN_ETCD=$(real_etcd)
        export K3S_STANDIN_ETCD
        cargo test --workspace --locked --quiet --no-run
        build_beside
        # One at a time: the namespace tests are timed, and two cores are shared.
        cargo test --workspace --locked -- --test-threads=2
        ;;
    lab)
        tier lab "seven machines in QEMU, from power-on to ready"
        built_beside
        scripts/demo.sh
        ;;
    faults)
        tier faults "one machine in QEMU, and what happens to machines in cellars"
        built_beside
        scripts/faults.sh
        ;;
    *) die "unknown tier \`$name\`" "${all[*]}" ;;
    esac
    passed=$((passed + 1))
    say "tier $name passed in $((SECONDS - started)) s"
done
printf '\ntiers: %d passed, 0 failed, %d skipped\n' "$passed" "$skipped"
