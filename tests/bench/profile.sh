#!/usr/bin/env bash
# What each setting of the release profile is good for: the size of the stripped binary with the profile as
# it is, and with one setting at a time as cargo would have it.
#   usage: tests/bench/profile.sh [VARIANT…]     (some minutes for each; default all)
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
need_rust

# The environment that changes one setting (Cargo's book, "Environment variables").
setting() {
  case $1 in
    as-is) ;;
    opt-level=3) echo CARGO_PROFILE_RELEASE_OPT_LEVEL=3 ;;
    opt-level=z) echo CARGO_PROFILE_RELEASE_OPT_LEVEL=z ;;
    lto=off) echo CARGO_PROFILE_RELEASE_LTO=off ;;
    lto=thin) echo CARGO_PROFILE_RELEASE_LTO=thin ;;
    codegen-units=16) echo CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 ;;
    panic=unwind) echo CARGO_PROFILE_RELEASE_PANIC=unwind ;;
    strip=none) echo CARGO_PROFILE_RELEASE_STRIP=none ;;
    *) die "no such variant: $1" ;;
  esac
}

[ $# -gt 0 ] || set -- as-is opt-level=3 opt-level=z lto=off lto=thin codegen-units=16 panic=unwind strip=none
folder=$top/target/profile
for variant in "$@"; do
  words=$(setting "$variant")
  # The folder is shared: what a setting does not change is not built twice.
  env ${words:+"$words"} CARGO_TARGET_DIR="$folder" cargo build --release --quiet --manifest-path "$top/Cargo.toml"
  printf '%-18s %9d bytes\n' "$variant" "$(stat -c %s "$folder"/*/release/skep)"
done
