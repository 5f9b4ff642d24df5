#!/usr/bin/env bash
# Elections in simulated time: from a leader's death to the next accepted write (1,000 seeds, links of
# 1 ms, an fsync of 0.3, 20 and 60 ms), a day with 5 % loss, and a disk that stands still for 5 s.
#   usage: tests/bench/election.sh
set -euo pipefail
top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top"
. tests/lib/tools.sh
need_rust
cargo test --quiet --profile sim --test sim -- election_time election_none election_stall
