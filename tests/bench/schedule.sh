#!/usr/bin/env bash
# 10,000 tasks placed on 1,000 nodes: one service, 100 services, one with a placement preference.
# Fails beyond a second for any of them.
#   usage: tests/bench/schedule.sh
set -euo pipefail
cd "$(dirname "$0")/../.."
exec cargo test --release --test bench -- --ignored --nocapture --test-threads=1
