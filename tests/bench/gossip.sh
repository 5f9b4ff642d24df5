#!/usr/bin/env bash
# What gossip costs a node and how fast it is, for clusters of 3, 5 and 20 members, each a process of its
# own on a loopback address: until all see all, until a value has spread, until a killed member's heart
# is seen to have stopped and until all take it for dead, until it is back; then, at rest, processor
# time, datagrams and bytes sent per second, and memory. Medians over the rounds, means over the members.
#
#   tests/bench/gossip.sh
#   ROUNDS=5 SECONDS_EACH=30 COUNTS='3 20' GOSSIP=target/release/examples/gossip tests/bench/gossip.sh
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
gossip=${GOSSIP:-}
if [ -z "$gossip" ]; then
  need_rust
  cargo build --release --quiet --example gossip --manifest-path "$top/Cargo.toml"
  gossip=$(cargo build --release --quiet --example gossip --message-format=json --manifest-path "$top/Cargo.toml" |
    sed -n 's/.*"executable":"\([^"]*\/gossip\)".*/\1/p' | tail -n 1)
fi
dir=$(mktemp -d -p "${DIR:-$top/target}" gossip.XXXXXX)
trap 'rm -rf "$dir"' EXIT
read -ra counts <<<"${COUNTS:-3 5 20}"
"$gossip" run "$dir" "${ROUNDS:-5}" "${SECONDS_EACH:-20}" "${counts[@]}"
