#!/usr/bin/env bash
# The main job on a fresh machine: builds skep and shows a swarm of three machines, each a network
# namespace of this one: it forms, runs a service that answers, scales and heals, and gets over the loss
# of a node and of its leader. Leaves the machines running; --clean stops them and removes every trace.
# Touches neither a skep that is installed here nor this machine's network.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh

case ${1:-} in
  '' | --clean) ;;
  -h | --help)
    say "usage: sudo tests/demo.sh [--clean]"
    exit 0
    ;;
  *) die "unknown argument: $1 (usage: tests/demo.sh [--clean])" ;;
esac
need_root tests/demo.sh
need_packages gcc:gcc make:make ip:iproute2 nft:nftables runc:runc
need_rust
say "building (some minutes the first time)"
cargo build --release --quiet
skep=$(cargo build --release --quiet --message-format=json | sed -n 's/.*"executable":"\([^"]*\/skep\)".*/\1/p' | tail -n 1)

if [ "${1:-}" = --clean ]; then
  exec "$skep" demo --clean
fi
"$skep" demo
say
say "Here the program is $skep; where the text above says skep, write that, or install it:"
say "  sudo install -m 755 $skep /usr/local/bin/skep"
say "Remove the machines: sudo tests/demo.sh --clean"
