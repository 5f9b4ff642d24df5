# A node for scripts: a network namespace with a daemon in it that has roots of its own. Sourced.
#
#   node_start BINARY    sets node_dir, node_ns, node_pid and SKEP_HOST
#   node_stop            leaves the swarm, stops the daemon, removes all of it
#   in_node COMMAND …    runs a command in the node's network

node_start() {
  node_binary=$1
  node_ns=skb$$
  node_dir=$(mktemp -d "${TMPDIR:-/tmp}/skepnode.XXXXXX")
  ip netns add "$node_ns"
  ip -n "$node_ns" link set lo up
  export SKEP_HOST=unix://$node_dir/exec/skep.sock
  trap node_stop EXIT
  node_daemon
}

node_daemon() {
  # No function: node_pid is to be the daemon and not a shell around it.
  nsenter "--net=/run/netns/$node_ns" -- "$node_binary" daemon --data-root "$node_dir/data" --exec-root "$node_dir/exec" \
    >>"$node_dir/log" 2>&1 </dev/null &
  node_pid=$!
  local deadline=$((SECONDS + 30))
  until curl -sf --unix-socket "$node_dir/exec/skep.sock" http://localhost/_ping >/dev/null; do
    [ $SECONDS -lt $deadline ] || { cat "$node_dir/log" >&2; die "the daemon did not get ready"; }
    kill -0 "$node_pid" 2>/dev/null || { cat "$node_dir/log" >&2; die "the daemon ended"; }
    sleep 0.05
  done
}

node_stop() {
  trap - EXIT
  "$node_binary" leave --force >/dev/null 2>&1 || :
  kill "$node_pid" 2>/dev/null && wait "$node_pid" 2>/dev/null
  ip netns del "$node_ns" || :
  rm -rf "$node_dir"
}

in_node() { nsenter "--net=/run/netns/$node_ns" -- "$@"; }

api() { curl -s --unix-socket "$node_dir/exec/skep.sock" "http://localhost$1"; }

# Median and 99th percentile of the numbers on standard input.
percentiles() {
  sort -n | awk '{ v[NR] = $1 } END { if (!NR) { print "none"; exit }
    m = NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
    p = int(NR * 0.99 + 0.999); if (p > NR) p = NR
    printf "%.1f %.1f\n", m, v[p] }'
}

# A docker-archive of a static busybox at $1, named $2.
busybox_archive() {
  local stage root
  stage=$(mktemp -d "${TMPDIR:-/tmp}/skepimage.XXXXXX")
  root=$stage/root
  mkdir -p "$root"/{bin,etc,tmp,www}
  cp /bin/busybox "$root/bin/busybox"
  for applet in sh sleep httpd cat echo yes head tr dd; do ln -s busybox "$root/bin/$applet"; done
  echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
  tar -C "$root" -cf "$stage/layer.tar" .
  local digest arch
  digest=$(sha256sum "$stage/layer.tar" | cut -d' ' -f1)
  arch=$(dpkg --print-architecture 2>/dev/null || echo amd64)
  cat >"$stage/config.json" <<JSON
{"architecture":"${arch/armhf/arm}","os":"linux","created":"2020-01-01T00:00:00Z","config":{"Cmd":["sh"],"Env":["PATH=/bin"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$digest"]},"history":[]}
JSON
  echo '[{"Config":"config.json","RepoTags":["'"$2"'"],"Layers":["layer.tar"]}]' >"$stage/manifest.json"
  tar -C "$stage" -cf "$1" manifest.json config.json layer.tar
  rm -rf "$stage"
}

# The release binary, built.
release_binary() {
  cargo build --release --quiet --manifest-path "$top/Cargo.toml"
  cargo build --release --quiet --message-format=json --manifest-path "$top/Cargo.toml" |
    sed -n 's/.*"executable":"\([^"]*\/skep\)".*/\1/p' | tail -n 1
}
