#!/bin/sh
# nginx, Caddy and HAProxy behind `tidings template`, with the templates of contrib/: a reload only when the file is another,
# no call lost when a backend is drained, and a killed one out of the file. And the hosts file, read by the system's own
# resolver and by dnsmasq. Usage: tests/doors/template.sh [nginx|caddy|haproxy|hosts] ...; without, all of them. TIDINGS is
# the command under test; target/debug/tidings unless given. The programs come from the system's packages; what cannot be had
# is skipped, which is said, unless TIDINGS_REQUIRE_PEERS=1.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
tidings=$(cd "$(dirname "$tidings")" && pwd)/$(basename "$tidings")
work=$(mktemp -d)
# nginx gives its workers away to another user, who has to get in here.
chmod 755 "$work"
trap 'rm -rf "$work"' EXIT INT TERM
. "$here/../need.sh"
export PYTHONDONTWRITEBYTECODE=1

need python3 python3
for server in ${*:-nginx caddy haproxy hosts}; do
    echo "== $server"
    driver=drive.py inside=
    programs="$server $server"
    if [ "$server" = hosts ]; then
        programs="dnsmasq dnsmasq-base dig bind9-dnsutils unshare util-linux"
        driver=hosts.py inside="unshare --mount"
    fi
    # shellcheck disable=SC2086
    if ! obtain $programs; then
        [ "${TIDINGS_REQUIRE_PEERS:-}" != 1 ] || lack "$why"
        echo "SKIPPED, NOTHING WAS TESTED WITH IT: $why" >&2
        continue
    fi
    # shellcheck disable=SC2086
    timeout 180 $inside python3 "$here/template/$driver" "$server" "$tidings" "$here/../../contrib/templates" "$work"
done
