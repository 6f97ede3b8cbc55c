#!/bin/sh
# Asks an agent whatever its OpenAPI file allows, and what it does not, with schemathesis from PyPI: no 500, and no answer
# that the file does not describe. Usage: tests/clients/contract.sh [DIR], where DIR keeps what was installed.
#
# Left out: what ends the agent, and the stream that does not end. Whether every body that fits the schemas is accepted is
# not asked either: that a filter can be read, or that a host is one, is said in words there and not in a pattern. An answer
# may take as long as a request says that it waits, a minute at the most.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
tidings=${TIDINGS:-$here/../../target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
work=$(mktemp -d)
kept=${1:-$work/installed}
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)
port=${TIDINGS_TEST_PORT:-18500}
node=

cleanup() {
    [ -z "$node" ] || kill -9 "$node" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

"$tidings" node --name contract --cluster contract --bind "127.0.0.1:$((port + 100))" --http "127.0.0.1:$port" \
    --service name=web,addr=127.0.0.1:8080 --output jsonl >"$work/node.jsonl" 2>"$work/node.log" </dev/null &
node=$!
[ -d "$kept/schemathesis" ] || { python3 -m venv "$kept/schemathesis" && "$kept/schemathesis/bin/pip" -q install schemathesis==4.32.5; }
kill -0 "$node" 2>/dev/null || { echo "the agent has ended:" >&2; cat "$work/node.log" >&2; exit 1; }
# It leaves notes where it runs, and looks there for its settings. A head over the limit is a refusal like any other.
cd "$work"
cat >schemathesis.toml <<'TOML'
[checks]
negative_data_rejection.expected-statuses = [400, 401, 403, 404, 405, 406, 409, 413, 415, 422, 428, 429, 431, "5xx"]
TOML
"$kept/schemathesis/bin/schemathesis" run "http://127.0.0.1:$port/v2/openapi.json" --url "http://127.0.0.1:$port" \
    --wait-for-schema 30 --exclude-path /v2/leave --exclude-path /v2/drain --exclude-path /v2/events \
    --checks all --exclude-checks positive_data_acceptance --max-examples "${EXAMPLES:-30}" --seed "${SEED:-1}" \
    --request-timeout 70 --max-response-time 65
kill -0 "$node"
