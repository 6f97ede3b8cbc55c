# Programs that a test needs, for the scripts of doors and clients: `. "$here/../need.sh"`. Wants a directory in $work.

# lack WHAT: the test cannot be made.
lack() {
    if [ "${TIDINGS_REQUIRE_PEERS:-}" = 1 ]; then
        echo "FAILED: $1" >&2
        exit 1
    fi
    echo "SKIPPED, NOTHING WAS TESTED: $1 (TIDINGS_REQUIRE_PEERS=1 makes this a failure)" >&2
    exit 0
}

# obtain PROGRAM PACKAGE ...: installs by apt the packages of those programs that are missing.
obtain() {
    missing=
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing="$missing $2"
        shift 2
    done
    [ -n "$missing" ] || return 0
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || { why="nobody may install$missing here"; return 1; }
    echo "installing$missing"
    # A package would start a server of its own, and take the port of others.
    started_by_nobody=
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod 755 /usr/sbin/policy-rc.d
        started_by_nobody=1
    fi
    did=0
    # The lists of a fresh machine are empty, or old.
    # shellcheck disable=SC2086
    { apt-get -qq update || true; DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
        -o Dpkg::Options::=--force-confold $missing; } >"$work/apt.log" 2>&1 </dev/null || did=1
    [ -z "$started_by_nobody" ] || rm -f /usr/sbin/policy-rc.d
    why="cannot install$missing: $(tail -1 "$work/apt.log")"
    return $did
}

# need PROGRAM PACKAGE ...: the same, and there is no test without.
need() {
    obtain "$@" || lack "$why"
}
