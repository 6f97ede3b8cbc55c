#!/bin/sh
# nginx and Caddy behind `tidings template`, with the templates of contrib/: a reload only when the file is another, no call
# lost when a backend is drained, and a killed one out of the file. Usage: tests/doors/template.sh. TIDINGS is the command
# under test; target/debug/tidings unless given. Both servers come from the system's packages; one that cannot be had is
# skipped, which is said, unless TIDINGS_REQUIRE_PEERS=1.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
tidings=$(cd "$(dirname "$tidings")" && pwd)/$(basename "$tidings")
work=$(mktemp -d)
# nginx gives its workers away to another user, who has to get in here.
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT INT TERM

install() {
    command -v "$1" >/dev/null && return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    # The package would start a server of its own, and take the port of others.
    printf '#!/bin/sh\nexit 101\n' >"$work/policy-rc.d"
    chmod +x "$work/policy-rc.d"
    mine=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        cp "$work/policy-rc.d" /usr/sbin/policy-rc.d
        mine=1
    fi
    { apt-get -qq update || true; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$1"; } \
        >"$work/apt.log" 2>&1 || true
    [ -z "$mine" ] || rm -f /usr/sbin/policy-rc.d
    command -v "$1" >/dev/null
}

servers=
for server in nginx caddy; do
    if install "$server"; then
        servers="$servers $server"
    elif [ "${TIDINGS_REQUIRE_PEERS:-}" = 1 ]; then
        echo "FAILED: $server cannot be installed: $(tail -1 "$work/apt.log")" >&2
        exit 1
    else
        echo "SKIPPED, NOTHING WAS TESTED WITH IT: $server is not installed" >&2
    fi
done
for server in $servers; do
    timeout 180 python3 "$here/template/drive.py" "$server" "$tidings" "$here/../../contrib/templates" "$work"
done
