#!/usr/bin/env bash
# Durable proposals per second and their latency, beside etcd: three members of each on this machine,
# data folders on one disk, 1, 10 and 100 clients in a closed loop, 256-byte values, in turn within each
# round. Prints medians, how ours compare, CPU, bytes and fsyncs for each put, memory, the floor (one
# fdatasync on leader and follower at once and one round trip), and what an idle minute writes.
#
# Members speak plain TCP: TLS comes with the RPC between managers. etcd speaks plain HTTP, too.
#
#   tests/bench/proposals.sh
#   ROUNDS=5 SECONDS_EACH=10 IDLE=0 CLIENTS='1 100' DIR=/mnt/card tests/bench/proposals.sh
#   PROPOSALS=target/release/examples/proposals ETCD=- tests/bench/proposals.sh   # built before; ours alone
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
etcd=${ETCD:-etcd}
[ "$etcd" = - ] || need_packages etcd:etcd-server
proposals=${PROPOSALS:-}
if [ -z "$proposals" ]; then
  need_rust
  cargo build --release --quiet --example proposals --manifest-path "$top/Cargo.toml"
  proposals=$(cargo build --release --quiet --example proposals --message-format=json --manifest-path "$top/Cargo.toml" |
    sed -n 's/.*"executable":"\([^"]*\/proposals\)".*/\1/p' | tail -n 1)
fi
dir=$(mktemp -d -p "${DIR:-$top/target}" proposals.XXXXXX)
trap 'rm -rf "$dir"' EXIT
read -ra clients <<<"${CLIENTS:-1 10 100}"
"$proposals" run "$dir" "$etcd" "${ROUNDS:-3}" "${SECONDS_EACH:-5}" "${IDLE:-60}" "${clients[@]}"
