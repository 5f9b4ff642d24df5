#!/usr/bin/env bash
# The proxy against HAProxy (TCP mode, with and without splice) and nginx stream, on one backend.
#
# Client, proxy and backend are namespaces of their own joined by veths; every proxy has one
# thread. In each round each case is run with each proxy in turn, so that noise hits all alike.
# Prints medians: requests per second · p99 in ms · proxy CPU in µs per request, and how ours
# compares with HAProxy's best (above 1.00 is better for requests, below is better for p99 and CPU).
#
#   tests/bench/proxy.sh                  # 3 rounds of 3 s
#   ROUNDS=7 SECONDS_EACH=10 tests/bench/proxy.sh
#   CASES='keep/1k/50 close/1k/50' PROXIES='skep splice' tests/bench/proxy.sh
#   SKEP=target/release/skep tests/bench/proxy.sh
set -euo pipefail

ROUNDS=${ROUNDS:-3}
SECONDS_EACH=${SECONDS_EACH:-3}
PROXIES=${PROXIES:-direct skep haproxy splice nginx}
CASES=${CASES:-keep/1k/1 keep/1k/50 keep/1k/500 close/1k/1 close/1k/50 close/1k/500 \
  keep/1m/1 keep/1m/8 keep/1m/50 keep/1m/500 close/1m/1 close/1m/50 close/1m/500}

top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tests/lib/tools.sh"
. "$top/tests/lib/node.sh"
need_root tests/bench/proxy.sh
need_packages haproxy:haproxy nginx:nginx-light wrk:wrk ip:iproute2
[ -n "$(find /usr/lib/nginx /usr/share/nginx -name ngx_stream_module.so 2>/dev/null)" ] || apt_get libnginx-mod-stream
if [ -z "${SKEP:-}" ]; then
  need_rust
  SKEP=$(release_binary)
fi

work=$(mktemp -d)
c=skb$$c p=skb$$p b=skb$$b
pids=()
clean() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for ns in $c $p $b; do ip netns del $ns 2>/dev/null || true; done
  rm -rf "$work"
}
trap clean EXIT

for ns in $c $p $b; do ip netns add $ns; ip -n $ns link set lo up; done
ip link add name vc netns $c type veth peer name vp netns $p
ip link add name vb netns $b type veth peer name vq netns $p
ip -n $c addr add 10.77.1.1/24 dev vc; ip -n $p addr add 10.77.1.2/24 dev vp
ip -n $b addr add 10.77.2.1/24 dev vb; ip -n $p addr add 10.77.2.2/24 dev vq
for end in $c:vc $p:vp $p:vq $b:vb; do ip -n "${end%:*}" link set "${end#*:}" up; done
ip -n $c route add default via 10.77.1.2; ip -n $b route add default via 10.77.2.2
for ns in $c $p $b; do ip netns exec $ns sysctl -qw net.ipv4.ip_local_port_range="1024 65000" net.ipv4.ip_forward=1; done

mkdir "$work/www"
head -c 1024 /dev/urandom >"$work/www/1k"; head -c 1048576 /dev/urandom >"$work/www/1m"
chmod -R a+rX "$work"
cat >"$work/backend.conf" <<END
daemon off; master_process off; worker_rlimit_nofile 8192; pid $work/backend.pid; error_log $work/backend.log;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 100000000; sendfile on; tcp_nopush on; open_file_cache max=10;
  server { listen 10.77.2.1:80 backlog=4096; root $work/www; } }
END
stream=$(find /usr/lib/nginx /usr/share/nginx -name ngx_stream_module.so 2>/dev/null | head -1)
cat >"$work/stream.conf" <<END
${stream:+load_module $stream;}
daemon off; master_process off; worker_rlimit_nofile 8192; pid $work/stream.pid; error_log $work/stream.log;
events { worker_connections 4096; }
stream { tcp_nodelay on; server { listen 8004 backlog=4096; proxy_pass 10.77.2.1:80; } }
END
haproxy_config() { # port, extra option lines
  cat <<END
global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1m
  timeout server 1m
  option clitcpka
  option srvtcpka
$2
listen l
  bind :$1 backlog 4096
  server s 10.77.2.1:80
END
}
haproxy_config 8002 "" >"$work/haproxy.cfg"
haproxy_config 8003 $'  option splice-request\n  option splice-response' >"$work/splice.cfg"

ip netns exec $b nginx -e "$work/backend.log" -p "$work" -c "$work/backend.conf" & pids+=($!)
ip netns exec $p "$SKEP" proxy --control "$work/proxy.sock" --route 8001=10.77.2.1:80 & pids+=($!); pid_skep=$!
ip netns exec $p haproxy -db -q -f "$work/haproxy.cfg" & pids+=($!); pid_haproxy=$!
ip netns exec $p haproxy -db -q -f "$work/splice.cfg" & pids+=($!); pid_splice=$!
ip netns exec $p nginx -e "$work/stream.log" -p "$work" -c "$work/stream.conf" & pids+=($!); pid_nginx=$!
pid_direct=
declare -A at=([direct]=10.77.2.1:80 [skep]=10.77.1.2:8001 [haproxy]=10.77.1.2:8002 [splice]=10.77.1.2:8003 [nginx]=10.77.1.2:8004)
for proxy in $PROXIES; do
  for _ in $(seq 200); do
    ip netns exec $c bash -c "exec 3<>/dev/tcp/${at[$proxy]/://}" 2>/dev/null && continue 2
    read -rt 0.05 <> <(:) || true
  done
  echo "$proxy does not listen" >&2; exit 1
done

cpu_ns() { # of a process with one thread that works: the sum over its threads
  local sum=0 one rest
  for file in /proc/"$1"/task/*/schedstat; do read -r one rest <"$file"; sum=$((sum + one)); done
  echo $sum
}

one_run() { # case, proxy → "requests/s p99_ms cpu_us errors"
  local how body conns pid before after=0
  IFS=/ read -r how body conns <<<"$1"
  local args=(-t1 -c"$conns" -d"$SECONDS_EACH" --latency --timeout 20)
  [ "$how" = keep ] || args+=(-H 'Connection: close')
  local -n pid_of=pid_$2; pid=$pid_of
  before=0; [ -z "$pid" ] || before=$(cpu_ns "$pid")
  ip netns exec $c wrk "${args[@]}" "http://${at[$2]}/$body" >"$work/wrk.out"
  [ -z "$pid" ] || after=$(cpu_ns "$pid")
  awk -v ns=$((after - before)) '
    function ms(t) { return t ~ /us$/ ? t / 1000 : t ~ /ms$/ ? t + 0 : t ~ /m$/ ? t * 60000 : t * 1000 }
    $1 == "99%" { p99 = ms($2) }
    $2 == "requests" && $3 == "in" { count = $1 }
    $1 == "Requests/sec:" { rate = $2 }
    $1 == "Socket" { for (i = 4; i <= NF; i += 2) errors += $i }
    $1 == "Non-2xx" { errors += $NF }
    END { printf "%.0f %.2f %.1f %d\n", rate, p99, (count ? ns / count / 1000 : 0), errors }' "$work/wrk.out"
}

median() { sort -n | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

results=$work/results
for round in $(seq "$ROUNDS"); do
  for case in $CASES; do
    for proxy in $PROXIES; do
      echo "$case $proxy $(one_run "$case" "$proxy")" >>"$results"
    done
  done
  echo "round $round of $ROUNDS done" >&2
done

printf '%-12s' case; for proxy in $PROXIES; do printf ' | %-26s' "$proxy"; done; echo ' | skep / best HAProxy'
for case in $CASES; do
  printf '%-12s' "$case"
  declare -A rate=() p99=() cpu=()
  for proxy in $PROXIES; do
    lines=$(awk -v c="$case" -v p="$proxy" '$1 == c && $2 == p' "$results")
    rate[$proxy]=$(cut -d' ' -f3 <<<"$lines" | median); p99[$proxy]=$(cut -d' ' -f4 <<<"$lines" | median)
    cpu[$proxy]=$(cut -d' ' -f5 <<<"$lines" | median); errors=$(cut -d' ' -f6 <<<"$lines" | sort -n | tail -1)
    text="${rate[$proxy]} · ${p99[$proxy]} · ${cpu[$proxy]}"
    [ "$errors" = 0 ] || text+=" (${errors} err)"
    printf ' | %-28s' "$text"
  done
  awk -v s="${rate[skep]:-0} ${p99[skep]:-0} ${cpu[skep]:-0}" -v h="${rate[haproxy]:-} ${p99[haproxy]:-} ${cpu[haproxy]:-}" -v x="${rate[splice]:-} ${p99[splice]:-} ${cpu[splice]:-}" '
    function best(i, low) { if (!(i in H)) return X[i]; if (!(i in X)) return H[i]; return low == (H[i] < X[i]) ? H[i] : X[i] }
    BEGIN { split(s, S); split(h, H); split(x, X)
      if (!(1 in H) && !(1 in X)) { print ""; exit }
      printf " | %.2f · %.2f · %.2f\n", S[1] / best(1, 0), S[2] / (best(2, 1) + 0.001), S[3] / (best(3, 1) + 0.001) }'
done
