#!/usr/bin/env bash
# Static musl programs for both architectures, in target/dist.
#
#   build-static.sh [x86_64|aarch64]... [agent|provisioner|standin]...     all of each when none is named
#
# Two ways to the same result: rustup's own musl targets where they are installed, else Debian's rustc-web with
# the standard library built from its source. Both link and compile C with zig. It says which way it took.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

architectures=() programs=()
for word in "$@"; do
    case $word in
    x86_64 | aarch64) architectures+=("$word") ;;
    agent | provisioner | standin) programs+=("$word") ;;
    *) die "unknown word \`$word\`" "x86_64, aarch64, agent, provisioner or standin" ;;
    esac
done
[ ${#architectures[@]} -gt 0 ] || architectures=(x86_64 aarch64)
[ ${#programs[@]} -gt 0 ] || programs=(agent provisioner standin)

# crate, program, and the name it gets
crate_of() {
    case $1 in
    agent) echo muster-agent muster-agent ;;
    provisioner) echo muster muster ;;
    standin) echo k3s-standin k3s-standin ;;
    esac
}

tools=$cache/tools/bin
[ -x "$tools/cargo-zigbuild" ] || die "no cargo-zigbuild in $tools" "scripts/setup.sh build"
# The standard library and what comes from crates.io are the same for every checkout, so their builds are kept outside. Cargo
# knows what else decides; it does not know zig, and nobody would clear up after a new lock file.
lock musl
key=$(cat "$repo/Cargo.lock" "$cache/tools/installed" | short_hash)
export CARGO_TARGET_DIR=${MUSTER_MUSL_TARGET_DIR:-$cache/musl/$key}
mkdir -p "$CARGO_TARGET_DIR"
touch "$CARGO_TARGET_DIR"
forget_old "$cache/musl/"
# Our own crates are not: cargo tells old from new by time stamps, which say nothing between two checkouts.
checkout="$repo $(stat -c '%d:%i:%w' "$repo")"
if [ "$(cat "$CARGO_TARGET_DIR/checkout" 2>/dev/null)" != "$checkout" ]; then
    rm -rf "$CARGO_TARGET_DIR"/*/release/.fingerprint/{muster,k3s}*
    echo "$checkout" >"$CARGO_TARGET_DIR/checkout"
fi
dist=$repo/target/dist
mkdir -p "$dist"
cd "$repo"

by_rustup() { rustup target list --installed 2>/dev/null | grep -qx "$1"; }
by_debian() { [ -x /usr/bin/rustc ] && [ -x /usr/bin/cargo ] && has_library_source; }

for arch in "${architectures[@]}"; do
    target=$arch-unknown-linux-musl
    options=(--release --locked --target "$target")
    for program in "${programs[@]}"; do
        read -r crate bin < <(crate_of "$program")
        options+=(--package "$crate" --bin "$bin")
    done
    started=$SECONDS
    if command -v rustup >/dev/null && by_rustup "$target"; then
        say "$target: rustup's target, $(rustc --version)"
        PATH=$tools:$PATH cargo zigbuild "${options[@]}" >&2
    elif by_debian; then
        say "$target: Debian's $(/usr/bin/rustc --version), standard library from source"
        # Self-contained linking wants crt objects that only rustup ships; zig brings its own.
        # `-Zbuild-std` is unstable, hence RUSTC_BOOTSTRAP; no other unstable feature is used.
        PATH=$tools:/usr/bin:/bin:/usr/sbin:/sbin RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Clink-self-contained=no" \
            cargo zigbuild "${options[@]}" -Zbuild-std=std,panic_abort >&2
    else
        die "no way to build for $target here" \
            "rustup target add $target, or on Debian: apt-get install rustc-web cargo-web rust-web-src"
    fi
    for program in "${programs[@]}"; do
        read -r _ bin < <(crate_of "$program")
        install -m 755 "$CARGO_TARGET_DIR/$target/release/$bin" "$dist/$bin-$arch"
        say "$bin-$arch: $(($(stat -c %s "$dist/$bin-$arch") / 1024)) KiB"
    done
    say "$target: $((SECONDS - started)) s"
done
