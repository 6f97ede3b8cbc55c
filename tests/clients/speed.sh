#!/bin/bash
# How many times a second an agent answers `GET /v1/health/service/web` with ten instances, beside etcd that holds the same
# bytes under ten keys of one prefix: wrk asks both in turn, on this machine, with the same connections.
#
# Usage: tests/clients/speed.sh [TIDINGS], the command under test; target/release/tidings unless given. SECONDS_EACH (10),
# CONNECTIONS (64) and RATE_MIN (20000), below which it fails. What is missing is installed by apt as root; if it cannot be,
# this says so and is skipped, or fails with TIDINGS_REQUIRE_PEERS=1.
#
# etcd is asked in two ways, for what this one server knows (serializable), which is what an agent answers: by wrk through
# its JSON gateway, whose answers are a third longer, as values are base64 there, and each of which passes from HTTP to gRPC
# inside etcd; and over gRPC itself, by h2load, with one question at a time on each connection, as wrk does. The gateway is
# also asked as it is by default, for the newest there is. Who asks takes its part of the same processors: a rate is of
# the pair, and on a machine that does something else besides only the ratio means something.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
tidings=${1:-${TIDINGS:-$here/../../target/release/tidings}}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build --release, or name one" >&2; exit 2; }
seconds=${SECONDS_EACH:-10}
connections=${CONNECTIONS:-64}
rate_min=${RATE_MIN:-20000}
first=${TIDINGS_TEST_PORT:-18700}
agent=$first
etcd=$((first + 10))
work=$(mktemp -d)
pids=()

cleanup() {
    local pid
    for pid in "${pids[@]}"; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# Runs something beside us, and remembers it.
beside() {
    local log=$1
    shift
    "$@" >"$log" 2>&1 </dev/null &
    pids+=($!)
    # It is killed at the end; nobody wants to read that it was.
    disown
}

. "$here/../need.sh"
need wrk wrk h2load nghttp2-client etcd etcd-server

beside "$work/agent.log" "$tidings" node --name a --cluster speed --bind "127.0.0.1:$((first + 1))" \
    --http "127.0.0.1:$agent" --output jsonl
beside "$work/etcd.log" etcd --name speed --data-dir "$work/etcd" --log-level error \
    --listen-client-urls "http://127.0.0.1:$etcd" --advertise-client-urls "http://127.0.0.1:$etcd" \
    --listen-peer-urls "http://127.0.0.1:$((etcd + 1))" --initial-advertise-peer-urls "http://127.0.0.1:$((etcd + 1))" \
    --initial-cluster "speed=http://127.0.0.1:$((etcd + 1))"

# Ten instances here; what the agent says of each, as it says it, is the value of a key there.
python3 - "$agent" "$etcd" "$work" <<'PY'
import base64, json, sys, time, urllib.request

agent, etcd = (f"http://127.0.0.1:{port}" for port in sys.argv[1:3])


def ask(url, body=None, method=None):
    request = urllib.request.Request(url, data=body and json.dumps(body).encode(), method=method)
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.read()


def within_time(ask):
    deadline = time.monotonic() + 30
    while True:
        try:
            return ask()
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def b64(text):
    return base64.b64encode(text.encode()).decode()


within_time(lambda: ask(agent + "/readyz"))
within_time(lambda: ask(etcd + "/v3/kv/range", {"key": b64("web/")}))
for n in range(10):
    service = {"ID": f"web-{n}", "Name": "web", "Address": f"10.0.0.{n + 1}", "Port": 8080, "Tags": ["v1", "canary"],
               "Meta": {"owner": "speed"}, "Check": {"TTL": "1h", "Status": "passing"}}
    ask(agent + "/v1/agent/service/register", service, "PUT")
health = agent + "/v1/health/service/web"
answer = ask(health)
entries = [json.dumps(entry, separators=(",", ":")) for entry in json.loads(answer)]
assert len(entries) == 10, answer
for entry in entries:
    key = json.loads(entry)["Service"]["ID"]
    ask(etcd + "/v3/kv/put", {"key": b64("web/" + key), "value": b64(entry)})
told = ask(etcd + "/v3/kv/range", {"key": b64("web/"), "range_end": b64("web0"), "serializable": True})
values = [base64.b64decode(kv["value"]).decode() for kv in json.loads(told)["kvs"]]
assert sorted(values) == sorted(entries), "etcd has what the agent says"
# A RangeRequest as protobuf: key, range_end, serializable; in a frame of gRPC.
message = b"\x0a\x04web/\x12\x04web0\x38\x01"
with open(sys.argv[3] + "/range", "wb") as file:
    file.write(b"\0" + len(message).to_bytes(4, "big") + message)
with open(sys.argv[3] + "/bytes", "w") as file:
    file.write(str(sum(map(len, values))))
print(f"ten instances: {len(answer)} bytes of JSON from the agent; etcd holds {sum(map(len, values))} bytes in ten values, "
      f"and answers with {len(told)} bytes of JSON")
PY

for kind in default serializable; do
    [ $kind = serializable ] && more=', "serializable": true' || more=
    cat >"$work/$kind.lua" <<LUA
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"key": "$(printf web/ | base64)", "range_end": "$(printf web0 | base64)"$more}'
LUA
done

declare -A rates
# note NAME RATE WORDS: the better of two counts: whatever else the machine does only takes away.
note() {
    echo "  $1: $2 a second, $3"
    [ "$2" -le "${rates[$1]:-0}" ] || rates[$1]=$2
}

# by_wrk NAME WRK-ARGUMENTS ...: a warm second, and then what counts.
by_wrk() {
    local name=$1
    shift
    wrk -t 2 -c "$connections" -d 1 "$@" >/dev/null
    wrk -t 2 -c "$connections" -d "$seconds" --latency "$@" >"$work/wrk.txt"
    if grep -E "Non-2xx|Socket errors" "$work/wrk.txt" >&2; then
        echo "$name: wrong answers" >&2
        exit 1
    fi
    note "$name" "$(sed -n 's/^Requests\/sec: *\([0-9]*\).*/\1/p' "$work/wrk.txt")" \
        "$(sed -n 's/^Transfer\/sec: *//p' "$work/wrk.txt") a second, p50 $(sed -n 's/^ *50% *//p' "$work/wrk.txt"), p99 $(
            sed -n 's/^ *99% *//p' "$work/wrk.txt")"
}

by_grpc() {
    h2load -t 2 -c "$connections" -m 1 --warm-up-time 1 -D "$seconds" -d "$work/range" -H "content-type: application/grpc" \
        -H "te: trailers" "http://127.0.0.1:$etcd/etcdserverpb.KV/Range" >"$work/h2load.txt"
    # An error of gRPC is a 200 without an answer: so the bytes are looked at.
    python3 - "$work" <<'PY' || { cat "$work/h2load.txt" >&2; exit 1; }
import re, sys

text, least = (open(f"{sys.argv[1]}/{name}").read() for name in ("h2load.txt", "bytes"))
done = int(re.search(r"status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx", text)[1])
data = int(re.search(r"traffic: .*\((\d+)\) total.*\((\d+)\) data", text)[2])
assert done > 0 and data / done >= int(least) * 0.95, (done, data, least)
PY
    note "$1" "$(sed -n 's/^finished in [^,]*, \([0-9]*\).*/\1/p' "$work/h2load.txt")" \
        "$(sed -n 's/^finished in .* req\/s, //p' "$work/h2load.txt"), mean $(
            sed -n 's/^time for request: *[^ ]* *[^ ]* *\([^ ]*\).*/\1/p' "$work/h2load.txt")"
}

echo "$(nproc) processors, $connections connections that are kept, $seconds s each"
for _ in 1 2; do
    by_wrk tidings "http://127.0.0.1:$agent/v1/health/service/web"
    by_wrk etcd-gateway-default -s "$work/default.lua" "http://127.0.0.1:$etcd/v3/kv/range"
    by_wrk etcd-gateway -s "$work/serializable.lua" "http://127.0.0.1:$etcd/v3/kv/range"
    by_grpc etcd-grpc
done

own=${rates[tidings]}
for other in etcd-gateway-default etcd-gateway etcd-grpc; do
    tenths=$((own * 10 / rates[$other]))
    echo "tidings $own beside $other ${rates[$other]}: $((tenths / 10)).$((tenths % 10)) times"
done
[ "$own" -ge "$rate_min" ] || { echo "tidings is too slow: $rate_min a second are wanted" >&2; exit 1; }
echo "tidings is fast enough"
