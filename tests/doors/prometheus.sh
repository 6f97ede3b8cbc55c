#!/bin/bash
# Prometheus against three agents: it finds its targets by http_sd, eureka_sd and, where it is built in, consul_sd; loses
# those of an agent that is killed within one refresh after the crash is known; and scrapes /metrics in both formats.
# promtool checks the figures, the alerts and their tests; the reference parser of OpenMetrics reads the page.
# Installs what it lacks by apt and pip. Where that fails it says so and skips, unless TIDINGS_REQUIRE_PEERS=1: then it
# fails. Usage: tests/doors/prometheus.sh [DIR], where DIR keeps what was installed; a temporary directory otherwise.
# TIDINGS is the command under test; target/debug/tidings unless given.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
tidings=${TIDINGS:-$root/target/debug/tidings}
[ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
work=$(mktemp -d)
kept=${1:-$work/installed}
mkdir -p "$kept"
kept=$(cd "$kept" && pwd)
processes=()

cleanup() {
    local process
    for process in "${processes[@]}"; do kill -9 "$process" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT INT TERM

lack() {
    if [ "${TIDINGS_REQUIRE_PEERS:-}" = 1 ]; then
        echo "FAILED: $1" >&2
        exit 1
    fi
    echo "SKIPPED: $1"
    exit 0
}

# Unpacked beside the system, which is left as it is.
prometheus=$(command -v prometheus || true)
if [ -z "$prometheus" ]; then
    if [ ! -x "$kept/usr/bin/prometheus" ]; then
        (cd "$kept" && apt-get download -q prometheus >/dev/null 2>&1) || lack "prometheus is not installed, and apt has none"
        dpkg-deb -x "$kept"/prometheus_*.deb "$kept"
    fi
    prometheus=$kept/usr/bin/prometheus
    export PATH="$kept/usr/bin:$PATH"
fi
command -v promtool >/dev/null || lack "promtool is not installed"
if [ ! -x "$kept/python/bin/python" ]; then
    python3 -m venv "$kept/python" || lack "python3-venv is not installed"
    "$kept/python/bin/pip" -q install prometheus-client==0.23.1 || lack "prometheus-client cannot be installed"
fi
prometheus --version 2>&1 | head -1

echo "== alerts"
promtool check rules "$root/contrib/prometheus/alerts.yml"
(cd "$root/contrib/prometheus" && promtool test rules alerts_test.yml)
python3 -m json.tool "$root/contrib/grafana/tidings.json" >/dev/null

echo "== three agents"
first=${TIDINGS_TEST_PORT:-18700}
for n in 0 1 2; do
    "$tidings" node --name "node-$n" --cluster prometheus --bind "127.0.0.1:$((first + 100 + n))" \
        --join "127.0.0.1:$((first + 100))" --http "127.0.0.1:$((first + n))" --output jsonl \
        --service "name=web,addr=127.0.0.1:$((first + n)),tag=metrics" \
        >"$work/node-$n.jsonl" 2>"$work/node-$n.log" </dev/null &
    processes+=($!)
    # Or the shell would remark that they were killed.
    disown
done
killed=${processes[2]}

echo "== what it scrapes"
listen=$((first + 90))
cat >"$work/prometheus.yml" <<YML
global: {scrape_interval: 1s, scrape_timeout: 1s}
rule_files: [$root/contrib/prometheus/alerts.yml]
scrape_configs:
  - job_name: tidings
    static_configs: [{targets: ["127.0.0.1:$first", "127.0.0.1:$((first + 1))"]}]
  - job_name: http
    metrics_path: /metrics
    http_sd_configs:
      - {url: "http://127.0.0.1:$first/v1/sd/prometheus?service=web&tag=metrics", refresh_interval: 1s}
    relabel_configs:
      - {source_labels: [__meta_tidings_member], target_label: member}
  - job_name: eureka
    eureka_sd_configs:
      - {server: "http://127.0.0.1:$first/eureka", refresh_interval: 1s}
    relabel_configs:
      - {source_labels: [__meta_eureka_app_instance_metadata_tidings_tags], target_label: tags}
YML
cat >"$work/consul.yml" <<YML
  - job_name: consul
    consul_sd_configs: [{server: "127.0.0.1:$first", services: [web]}]
YML
jobs="http eureka"
if cat "$work/prometheus.yml" "$work/consul.yml" >"$work/with-consul.yml" \
    && promtool check config "$work/with-consul.yml" >/dev/null 2>&1; then
    cp "$work/with-consul.yml" "$work/prometheus.yml"
    jobs="$jobs consul"
else
    echo "consul_sd is not built into this Prometheus; tests/http.rs replays its requests"
fi
promtool check config "$work/prometheus.yml" >/dev/null
prometheus --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/data" --log.level=info \
    --web.listen-address "127.0.0.1:$listen" >"$work/prometheus.log" 2>&1 &
processes+=($!)
disown

"$kept/python/bin/python" "$here/prometheus.py" "$first" "$listen" "$killed" $jobs

echo "== what promtool says of the figures"
python3 - "$first" <<'PY' | promtool check metrics
import sys, urllib.request
sys.stdout.write(urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/metrics").read().decode())
PY
if grep -E 'level=(warn|error)' "$work/prometheus.log" | grep -v 'notifier'; then
    echo "FAILED: Prometheus complains" >&2
    exit 1
fi
echo "prometheus passed"
