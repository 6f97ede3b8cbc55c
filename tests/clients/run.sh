#!/bin/sh
# Drives a cluster of three agents with unmodified Consul clients, which it installs itself: from PyPI, npm and
# crates.io, and Ansible and Patroni, which use them. Usage: tests/clients/run.sh [DIR], where DIR keeps what was installed;
# a temporary directory otherwise. TIDINGS is the command under test; target/debug/tidings unless given.
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

# Ansible brings its Consul modules with it; the oldest of them asks through py-consul, of which it knows no later version.
[ -d "$kept/ansible" ] || { python3 -m venv "$kept/ansible" &&
    "$kept/ansible/bin/pip" -q install ansible==12.3.0 py-consul==1.3.0; }
ANSIBLE_LOCALHOST_WARNING=False ANSIBLE_NOCOLOR=1 "$kept/ansible/bin/ansible-playbook" -i localhost, \
    -e "agent=$first" -e "reader=$((first + 2))" "$here/ansible.yml" >"$work/ansible.log" 2>&1 ||
    { cat "$work/ansible.log"; exit 1; }
sed -n 's/^TASK \[\(.*\)\].*/ansible: \1/p' "$work/ansible.log"

# Debian's Patroni keeps what it knows of a PostgreSQL cluster under keys that a session guards, and can do nothing
# without: it must get a refusal that says so, and not an answer that it could take for an empty cluster.
{ command -v patronictl && /usr/bin/python3 -c 'import consul'; } >/dev/null 2>&1 ||
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
        patroni python3-consul; } >"$work/apt.log" 2>&1 || tail -3 "$work/apt.log" >&2
if command -v patronictl >/dev/null; then
    cat >"$work/patroni.yml" <<YAML
scope: tidings
name: p1
restapi: {listen: "127.0.0.1:$((first + 200))", connect_address: "127.0.0.1:$((first + 200))"}
consul: {host: "127.0.0.1:$first"}
retry_timeout: 3
ttl: 20
loop_wait: 1
postgresql:
  data_dir: $work/postgres
  listen: "127.0.0.1:$((first + 201))"
  connect_address: "127.0.0.1:$((first + 201))"
  authentication: {superuser: {username: s, password: s}, replication: {username: r, password: r}}
YAML
    refused() {
        if grep -q "$2" "$work/patroni.log"; then echo "patroni: $1: refused with a reason"; else
            cat "$work/patroni.log"
            exit 1
        fi
    }
    ! patronictl -c "$work/patroni.yml" list >"$work/patroni.log" 2>&1 || { cat "$work/patroni.log"; exit 1; }
    refused keys "501 .*keys and values"
    # It asks for a session again and again, and begins with nothing else.
    ! timeout 3 patroni "$work/patroni.yml" >"$work/patroni.log" 2>&1 || { cat "$work/patroni.log"; exit 1; }
    refused "a session" "501 .*sessions are locks"
else
    echo "SKIPPED: patroni cannot be installed by apt (TIDINGS_REQUIRE_PEERS=1 makes this a failure)" >&2
    [ "${TIDINGS_REQUIRE_PEERS:-}" != 1 ] || exit 1
fi

# An agent that is gone takes its services with it, for every client.
for node in $nodes; do kill -TERM "$node"; done
for node in $nodes; do wait "$node"; done
nodes=
echo "all clients passed"
