#!/bin/bash
# Prometheus against three agents: it finds its targets by http_sd, dns_sd (through unbound), eureka_sd and, where it is
# built in, consul_sd; loses those of an agent that is killed by its next refresh; and scrapes /metrics in both formats.
# promtool checks the figures, the alerts and their tests; the reference parser of OpenMetrics reads the page; every
# query of the dashboard for Grafana is asked.
#
# dns_sd knows no resolver but that of /etc/resolv.conf, which has no port: so all of it runs in namespaces of its own
# (network, mounts, processes), with unbound on port 53 there. Needs root. Installs what it lacks by apt and pip. Where
# that fails it says so and skips, unless TIDINGS_REQUIRE_PEERS=1: then it fails.
#
# Usage: tests/doors/prometheus.sh [DIR], where DIR keeps what was installed; a temporary directory otherwise. TIDINGS is the
# command under test; target/debug/tidings unless given. KILLS: how many agents are killed, one after another; 3.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

if [ -z "${INSIDE:-}" ]; then
    tidings=${TIDINGS:-$root/target/debug/tidings}
    [ -x "$tidings" ] || { echo "no command at $tidings; cargo build, or set TIDINGS" >&2; exit 2; }
    tidings=$(cd "$(dirname "$tidings")" && pwd)/$(basename "$tidings")
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT INT TERM
    kept=${1:-$work/installed}
    mkdir -p "$kept"
    kept=$(cd "$kept" && pwd)
    . "$here/../need.sh"

    # Unpacked beside the system, which gets no service of it.
    if ! command -v prometheus >/dev/null && [ ! -x "$kept/usr/bin/prometheus" ]; then
        { apt-get -qq update || true; (cd "$kept" && apt-get download -q prometheus); } >"$work/apt.log" 2>&1 \
            || lack "prometheus is not installed, and apt has none"
        dpkg-deb -x "$kept"/prometheus_*.deb "$kept"
    fi
    export PATH="$PATH:$kept/usr/bin:/usr/sbin:/sbin"
    command -v promtool >/dev/null || lack "promtool is not installed"
    need unbound unbound ip iproute2 unshare util-linux python3 python3
    if [ ! -x "$kept/python/bin/pip" ]; then
        python3 -m venv "$kept/python" >/dev/null 2>&1 || { need ensurepip python3-venv && python3 -m venv "$kept/python"; } \
            || lack "python3-venv cannot be installed"
    fi
    "$kept/python/bin/pip" -q install prometheus-client==0.23.1 dnspython==2.8.0 >"$work/pip.log" 2>&1 \
        || lack "prometheus-client and dnspython cannot be installed: $(tail -1 "$work/pip.log")"
    unshare --net true 2>/dev/null || lack "nobody may make namespaces here"
    prometheus --version 2>&1 | head -1

    echo "== alerts"
    promtool check rules "$root/contrib/prometheus/alerts.yml"
    (cd "$root/contrib/prometheus" && promtool test rules alerts_test.yml)

    # What is started there ends with the first process there.
    INSIDE=1 work=$work kept=$kept tidings=$tidings timeout 600 \
        unshare --net --mount --pid --fork --kill-child --mount-proc bash "$here/prometheus.sh"
    exit
fi

ip link set lo up
echo "nameserver 127.0.0.1" >"$work/resolv.conf"
mount --bind "$work/resolv.conf" "$(readlink -f /etc/resolv.conf)"
# Three machines, as far as anybody there can tell.
for n in 1 2 3; do ip addr add "10.99.0.$n/32" dev lo; done
agent=10.99.0.1:8500 dns=127.0.0.1:8600

cat >"$work/unbound.conf" <<CONF
server:
    interface: 127.0.0.1
    port: 53
    username: ""
    chroot: ""
    directory: "$work"
    pidfile: "$work/unbound.pid"
    use-syslog: no
    do-not-query-localhost: no
    domain-insecure: "tidings"
    local-zone: "tidings." nodefault
stub-zone:
    name: "tidings"
    stub-addr: ${dns/:/@}
CONF
unbound -d -p -c "$work/unbound.conf" >"$work/unbound.log" 2>&1 </dev/null &

cat >"$work/prometheus.yml" <<YML
global: {scrape_interval: 1s, scrape_timeout: 1s}
rule_files: [$root/contrib/prometheus/alerts.yml]
scrape_configs:
  - job_name: tidings
    static_configs: [{targets: ["10.99.0.1:8500", "10.99.0.2:8500"]}]
  - job_name: http
    http_sd_configs:
      - {url: "http://$agent/v1/sd/prometheus?service=web&tag=metrics", refresh_interval: 10s}
    relabel_configs:
      - {source_labels: [__meta_tidings_member], target_label: member}
  - job_name: dns
    dns_sd_configs:
      - {names: [_web._tcp.service.tidings], refresh_interval: 10s}
    relabel_configs:
      - {source_labels: [__meta_dns_srv_record_target], target_label: target}
  - job_name: dns_a
    dns_sd_configs:
      - {names: [web.service.tidings], type: A, port: 8500, refresh_interval: 10s}
  - job_name: eureka
    eureka_sd_configs:
      - {server: "http://$agent/eureka", refresh_interval: 10s}
    relabel_configs:
      - {source_labels: [__meta_eureka_app_instance_metadata_tidings_tags], target_label: tags}
YML
# This one is told at once, and asks again only when it was.
cat >"$work/consul.yml" <<YML
  - job_name: consul
    consul_sd_configs: [{server: "$agent", services: [web]}]
YML
jobs="http dns dns_a eureka"
if cat "$work/prometheus.yml" "$work/consul.yml" >"$work/with-consul.yml" \
    && promtool check config "$work/with-consul.yml" >/dev/null 2>&1; then
    cp "$work/with-consul.yml" "$work/prometheus.yml"
    jobs="$jobs consul"
else
    echo "consul_sd is not built into this Prometheus; tests/http.rs replays its requests"
fi
promtool check config "$work/prometheus.yml" >/dev/null

DNS=$dns REFRESH_S=10 KILLS=${KILLS:-3} TIDINGS=$tidings WORK=$work \
    DASHBOARD=$root/contrib/grafana/tidings.json "$kept/python/bin/python" "$here/prometheus.py" $jobs

echo "== what promtool says of the figures"
promtool check metrics <"$work/metrics.txt"
if grep -E 'level=(warn|error)' "$work/prometheus.log" | grep -v 'notifier'; then
    echo "FAILED: Prometheus complains" >&2
    exit 1
fi
echo "prometheus passed"
