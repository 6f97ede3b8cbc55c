#!/bin/sh
# Drives the page at /ui in a headless Chromium: against a cluster of three agents, and against a stand-in with a thousand
# members. Usage: tests/doors/page.sh [DIR], where DIR keeps what was installed and gets the screenshots; a temporary
# directory otherwise. TIDINGS is the command under test; target/debug/tidings unless given. Chromium comes from the
# system's packages, playwright-core and axe-core from npm; without them the test is skipped, and says so, unless
# TIDINGS_REQUIRE_PEERS=1.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
kept=${1:-$work}
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)

. "$here/../need.sh"

need node nodejs npm npm chromium chromium
[ -d "$kept/node_modules/playwright-core" ] && [ -d "$kept/node_modules/axe-core" ] ||
    npm install --prefix "$kept" --silent --no-audit --no-fund --ignore-scripts \
        playwright-core@1.56.1 axe-core@4.11.0 >"$work/npm.log" 2>&1 ||
    lack "playwright-core and axe-core cannot be installed: $(tail -1 "$work/npm.log")"

cp "$here/page/"*.mjs "$kept/"
PAGE="$here/../../src/door/page" TIDINGS="$tidings" WORK="$work" SHOTS="${SHOTS:-$kept}" \
    CHROMIUM="$(command -v chromium)" timeout 300 node "$kept/drive.mjs"
