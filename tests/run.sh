#!/usr/bin/env bash
# Runs every test that belongs before a change lands: format, lints, layout, units, simulation and
# the integration tests on the real kernel. Installs what is missing and says so. Needs root.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
cd "$top"
. tests/lib/tools.sh

need_root tests/run.sh
need_packages gcc:gcc make:make ip:iproute2 nft:nftables runc:runc busybox:busybox-static \
  strace:strace curl:curl wrk:wrk skopeo:skopeo umoci:umoci buildah:buildah \
  docker-registry:docker-registry openssl:openssl nginx:nginx-light \
  htpasswd:apache2-utils unshare:util-linux prlimit:util-linux tar:tar
need_rust
need_docker_client

minutes=()
stage() {
  local name=$1 from=$SECONDS
  shift
  say "== $name: $*"
  "$@" || die "stage '$name' failed after $((SECONDS - from)) s"
  minutes+=("$(printf '%-12s %2d min %02d s' "$name" $(((SECONDS - from) / 60)) $(((SECONDS - from) % 60)))")
}

# What a test leaves behind is a bug of the test or of skep.
leftovers() {
  {
    awk '{ print "mount " $2 }' /proc/mounts
    ip netns list | sed 's/^/netns /'
    ip -o link | sed 's/^[0-9]*: \([^:@]*\).*/link \1/'
    nft list tables | sed 's/^/nft /'
    find /sys/fs/cgroup -type d -path '*/skep-*' | sed 's/^/cgroup /'
  } | sort
}
check_leftovers() {
  local new
  new=$(comm -13 <(printf '%s\n' "$before") <(leftovers))
  [ -z "$new" ] || { say "$new"; die "the tests left this behind"; }
}

before=$(leftovers)
stage format cargo fmt --check
stage lints cargo clippy --quiet --all-targets -- -D warnings
stage build cargo build --quiet --all-targets
stage units cargo test --quiet --lib --bins
stage layout cargo test --quiet --test tidy
stage simulation cargo test --quiet --profile sim --test sim
stage integration cargo test --quiet --test it
stage leftovers check_leftovers

say
say "minutes of each stage:"
printf '  %s\n' "${minutes[@]}" >&2
say "all passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
