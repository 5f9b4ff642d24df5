# Installs what a fresh Debian-like machine lacks, and says so. Sourced by run.sh, demo.sh, long.sh
# and the benchmarks; needs root for the packages.
#
#   need_packages PROGRAM:PACKAGE …   installs PACKAGE where PROGRAM is not on the path
#   need_rust                         a Rust toolchain of the version that Cargo.toml asks for
#   need_docker_client                Debian's docker client, unpacked below target/, never installed

say() { printf '%s\n' "$*" >&2; }

die() {
  say "error: $*"
  exit 1
}

need_root() {
  [ "$(id -u)" = 0 ] || die "$1 needs root: containers, namespaces and nft do. Run: sudo $1"
}

apt_updated=

apt_lists() {
  command -v apt-get >/dev/null || die "this machine has no apt-get: install by hand what README.md lists"
  [ -z "$apt_updated" ] || return 0
  say "apt-get update"
  apt-get -qq update >/dev/null || say "warning: apt-get update failed; trying with the old lists"
  apt_updated=1
}

apt_get() {
  apt_lists
  say "installing: $*"
  # Debian starts a service when its package is installed; nothing here wants that.
  local policy=/usr/sbin/policy-rc.d mine=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    mine=1
  fi
  local status=0
  DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null || status=$?
  [ -z "$mine" ] || rm -f "$policy"
  [ "$status" = 0 ] || die "could not install: $*"
}

need_packages() {
  local pair missing=()
  for pair in "$@"; do
    PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} = 0 ] || apt_get "${missing[@]}"
}

rust_version_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$top/Cargo.toml"; }

rust_is_new_enough() {
  command -v cargo >/dev/null && command -v rustc >/dev/null || return 1
  local have
  have=$(rustc --version | cut -d' ' -f2)
  [ "$(printf '%s\n%s\n' "$(rust_version_wanted)" "$have" | sort -V | head -n 1)" = "$(rust_version_wanted)" ]
}

need_rust() {
  [ -d "$HOME/.cargo/bin" ] && PATH="$HOME/.cargo/bin:$PATH"
  rust_is_new_enough && return
  need_packages cc:gcc make:make
  apt_lists
  if apt-cache show rustup >/dev/null 2>&1; then
    apt_get rustup
    rustup toolchain install stable --profile minimal -c rustfmt -c clippy
    rustup default stable
  else
    # Debian's toolchain for its browsers is kept new where the release's own is old.
    apt_get rustc-web cargo-web rustfmt-web rust-web-clippy
  fi
  rust_is_new_enough || die "a Rust toolchain of $(rust_version_wanted) or newer is needed (https://rustup.rs)"
}

# Sets DOCKER_CLIENT. The package is unpacked, not installed: its engine must not be started.
need_docker_client() {
  DOCKER_CLIENT=$top/target/tools/docker.io/usr/bin/docker
  export DOCKER_CLIENT
  [ -x "$DOCKER_CLIENT" ] && return
  say "fetching Debian's docker client"
  mkdir -p "$top/target/tools/deb"
  apt_lists
  local package=docker.io
  apt-cache show docker-cli >/dev/null 2>&1 && package=docker-cli
  (cd "$top/target/tools/deb" && apt-get -qq download "$package") || die "could not fetch $package"
  dpkg-deb -x "$top"/target/tools/deb/"$package"_*.deb "$top/target/tools/docker.io"
  [ -x "$DOCKER_CLIENT" ] || die "$package holds no docker client"
}
