#!/bin/sh
# Drives a cluster of three agents with unmodified Consul clients, which it installs itself: from PyPI, npm and
# crates.io. Usage: tests/clients/run.sh [DIR], where DIR keeps what was installed; a temporary directory otherwise.
# TIDINGS is the command under test; target/debug/tidings unless given.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
work=$(mktemp -d)
kept=${1:-$work/installed}
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)
nodes=

cleanup() {
    for node in $nodes; do kill -9 "$node" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

# Free ports are taken by asking for none: the agents say which they got only in their log, so these are fixed.
first=${TIDINGS_TEST_PORT:-18500}
for n in 0 1 2; do
    "$tidings" node --name "node-$n" --cluster clients --bind "127.0.0.1:$((first + 100 + n))" \
        --join "127.0.0.1:$((first + 100))" --http "127.0.0.1:$((first + n))" --output jsonl \
        >"$work/node-$n.jsonl" 2>"$work/node-$n.log" </dev/null &
    nodes="$nodes $!"
done
python3 - "$first" <<'PY'
import sys, time, urllib.request, json
first = int(sys.argv[1])
deadline = time.monotonic() + 30
while True:
    try:
        for n in range(3):
            with urllib.request.urlopen(f"http://127.0.0.1:{first + n}/v1/agent/members", timeout=2) as answer:
                assert len(json.load(answer)) == 3
        break
    except Exception:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.05)
PY

python() {
    [ -d "$kept/$1" ] || { python3 -m venv "$kept/$1" && "$kept/$1/bin/pip" -q install "$2"; }
    "$kept/$1/bin/python" "$here/client.py" "$1" "$first" "$((first + 2))"
}
python py-consul py-consul==1.8.0
python python-consul python-consul==1.1.0
python python-consul2 python-consul2==0.1.5

[ -d "$kept/npm/node_modules" ] || { mkdir -p "$kept/npm" && (cd "$kept/npm" && npm install --silent consul@2.0.1); }
cp "$here/client.mjs" "$kept/npm/client.mjs"
(cd "$kept/npm" && node client.mjs "$first" "$((first + 2))")

CARGO_TARGET_DIR="$kept/rust" cargo run --quiet --manifest-path "$here/rust/Cargo.toml" -- "$first" "$((first + 2))"

# An agent that is gone takes its services with it, for every client.
for node in $nodes; do kill -TERM "$node"; done
for node in $nodes; do wait "$node"; done
nodes=
echo "all clients passed"
