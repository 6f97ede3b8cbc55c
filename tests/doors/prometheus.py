"""Watches what Prometheus finds and scrapes; kills agents and watches their targets go. Started by prometheus.sh, in a
network of its own.

Usage: prometheus.py JOB ...; DNS, REFRESH_S, KILLS, TIDINGS, WORK and DASHBOARD from the environment.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

import dns.resolver
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as plain

REFRESH_S, KILLS = int(os.environ["REFRESH_S"]), int(os.environ["KILLS"])
TIDINGS, WORK, DNS = os.environ["TIDINGS"], os.environ["WORK"], os.environ["DNS"]
JOBS = sys.argv[1:]
PATIENCE_S = 60
OPEN = "application/openmetrics-text;version=1.0.0"

# Prometheus hands on changes of targets every five seconds at most, whatever finds them (`updatert` in its
# discovery/manager.go).
THROTTLE_S = 5
# We look twenty times a second, over four interfaces, on a machine that may have more to do.
LOOK_S = 0.5

HOSTS = ["10.99.0.1", "10.99.0.2", "10.99.0.3"]
AGENT, PROMETHEUS = f"{HOSTS[0]}:8500", "127.0.0.1:9090"
ALL = {f"{host}:8500" for host in HOSTS}
BUT_ONE = {f"{host}:8500" for host in HOSTS[:2]}
found_last = {}
resolver = dns.resolver.Resolver()  # what /etc/resolv.conf names, as it is for Prometheus


def get(server, path, accept="*/*"):
    request = urllib.request.Request(f"http://{server}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def by_http():
    groups = json.loads(get(AGENT, "/v1/sd/prometheus?service=web&tag=metrics")[1])
    return {target for group in groups for target in group["targets"]}


def by_dns():
    found = resolver.resolve("_web._tcp.service.tidings", "SRV")
    return {f"{resolver.resolve(record.target, 'A')[0]}:{record.port}" for record in found}


def by_dns_a():
    return {f"{record}:8500" for record in resolver.resolve("web.service.tidings", "A")}


def by_eureka():
    apps = json.loads(get(AGENT, "/eureka/apps", "application/json")[1])["applications"]["application"]
    return {f"{one['ipAddr']}:{one['port']['$']}" for app in apps for one in app["instance"]}


def by_consul():
    listed = json.loads(get(AGENT, "/v1/health/service/web")[1])
    return {f"{one['Service']['Address'] or one['Node']['Address']}:{one['Service']['Port']}" for one in listed}


ANSWERS = {"http": by_http, "dns": by_dns, "dns_a": by_dns_a, "eureka": by_eureka, "consul": by_consul}


def targets():
    """The targets by job: address and health. By SRV they have names, which nobody calls by address."""
    global found_last
    found = found_last = {}
    for target in json.loads(get(PROMETHEUS, "/api/v1/targets?state=active")[1])["data"]["activeTargets"]:
        place = urllib.parse.urlsplit(target["scrapeUrl"]).netloc
        named = re.fullmatch(r"node-(\d)\.node\.dc1\.tidings\.?:(\d+)", place)
        place = f"{HOSTS[int(named[1])]}:{named[2]}" if named else place
        found.setdefault(target["labels"]["job"], {})[place] = (target["health"], target["lastError"])
    return found


def until(what, is_so):
    """Seconds until it is so."""
    began = time.monotonic()
    while True:
        try:
            if is_so():
                return time.monotonic() - began
        except (OSError, KeyError, dns.exception.DNSException):
            pass
        if time.monotonic() - began > PATIENCE_S:
            for name in sorted(os.listdir(WORK)):
                if name.endswith(".log"):
                    print(f"{name}: {open(f'{WORK}/{name}').read()[-1000:]}", file=sys.stderr)
            sys.exit(f"FAILED: {what}: {found_last}")
        time.sleep(0.05)


def each(what, jobs, is_so):
    """Seconds until it is so of each job."""
    began, took = time.monotonic(), {}

    def all_are():
        for job in jobs:
            if job not in took and is_so(job):
                took[job] = time.monotonic() - began
        return len(took) == len(jobs)

    until(what, all_are)
    return took


def value(query):
    answer = json.loads(get(PROMETHEUS, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))[1])
    assert answer["status"] == "success", answer
    return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in answer["data"]["result"]}


def agent(n):
    log = open(f"{WORK}/node-{n}.log", "ab")
    return subprocess.Popen(
        [
            TIDINGS, "node", "--name", f"node-{n}", "--cluster", "prometheus", "--insecure", "--bind", f"{HOSTS[n]}:7900",
            "--join", f"{HOSTS[0]}:7900", "--join-policy", "background", "--http", f"{HOSTS[n]}:8500",
            "--dns", DNS if n == 0 else f"{HOSTS[n]}:8600", "--output", "jsonl",
            "--service", f"name=web,addr={HOSTS[n]}:8500,tag=metrics,check=tcp:{HOSTS[n]}:8500 interval=1s",
        ],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
    )


print(f"== three agents, and what Prometheus finds by {', '.join(JOBS)}")
agents = [agent(n) for n in range(3)]
for name in JOBS:
    until(f"all are known by {name}", lambda: ANSWERS[name]() == ALL)
subprocess.Popen(
    ["prometheus", "--config.file", f"{WORK}/prometheus.yml", "--storage.tsdb.path", f"{WORK}/data", "--log.level=info",
     "--web.listen-address", PROMETHEUS],
    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=open(f"{WORK}/prometheus.log", "ab"),
)
until("the targets appear", lambda: all(set(targets()[job]) == ALL for job in JOBS))
until("all are up", lambda: all(health == "up" for job in targets().values() for health, _ in job.values()))
print("three targets by each, all up")
assert all(error == "" for job in targets().values() for _, error in job.values())
labelled = value('up{job="http", member="node-2"}')
assert list(labelled.values()) == [1.0], labelled
labelled = value('up{job="dns", target="node-2.node.dc1.tidings."}')
assert list(labelled.values()) == [1.0], labelled

for metric in ["service_instances", "tidings_cluster_size"]:
    until(f"{metric} is scraped", lambda: set(value(f'{metric}{{job="tidings"}}').values()) >= {3.0})
until("histograms are scraped", lambda: value('tidings_rtt_seconds_bucket{job="tidings", le="+Inf"}'))
described = json.loads(get(PROMETHEUS, "/api/v1/metadata?metric=tidings_probes_sent")[1])["data"]
assert described["tidings_probes_sent"][0]["type"] == "counter", f"it was not scraped as OpenMetrics: {described}"

print(f"== agents killed: {KILLS}; Prometheus asks every {REFRESH_S} s (consul_sd: when it is told)")
for kill in range(KILLS):
    # Each at another moment between two refreshes.
    time.sleep(kill * REFRESH_S / KILLS)
    agents[2].send_signal(signal.SIGKILL)
    began = time.monotonic()
    known = each("the answers lack a killed agent", JOBS, lambda job: ANSWERS[job]() == BUT_ONE)
    # From here on, or a little before, each answer that Prometheus gets is without it.
    already = time.monotonic() - began
    gone = each("the target of a killed agent vanishes", JOBS, lambda job: set(targets()[job]) == BUT_ONE)
    for job in JOBS:
        after = already + gone[job] - known[job]
        print(f"  kill {kill + 1}, {job}_sd: the answer lacks it {known[job]:.2f} s after the kill, Prometheus "
              f"{after:.2f} s after that ({after / REFRESH_S:.2f} refreshes)", flush=True)
        # One refresh, and what Prometheus takes its time for.
        assert after < REFRESH_S + THROTTLE_S + LOOK_S, f"{job}: it took more than a refresh and {THROTTLE_S} s"
    assert value('up{job="tidings"} == 0') == {}
    if kill + 1 < KILLS:
        agents[2].wait()
        agents[2] = agent(2)
        took = each("the target is back", JOBS, lambda job: set(targets()[job]) == ALL)
        print(f"  started again: all have it after {max(took.values()):.2f} s", flush=True)

print("== the dashboard")
names = set(json.loads(get(PROMETHEUS, "/api/v1/label/__name__/values")[1])["data"])
# Nothing has happened yet that they would count: agents choose no instance themselves.
UNCOUNTED = {"load_balancer_selections_total"}
panels = [panel for row in json.load(open(os.environ["DASHBOARD"]))["panels"] for panel in [row, *row.get("panels", [])]]
queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
empty = []
for title, expr in queries:
    asked = expr.replace("$job", "tidings").replace("$service", ".+").replace("$__rate_interval", "30s")
    assert "$" not in asked, f"{title}: a variable that Grafana would not know: {expr}"
    bare = re.sub(r"\b(?:by|on) \([^)]*\)", "", asked)
    used = set(re.findall(r"\b(?:tidings|service|health|load|process)_[a-z_]+(?=[{\[ )]|$)", re.sub(r"{[^}]*}", "{", bare)))
    assert used or "up{" in asked, f"{title}: it asks for nothing of ours: {expr}"
    lacking = used - names - UNCOUNTED
    assert not lacking, f"{title}: nobody has {lacking}"
    if not value(asked):
        empty.append(title)
print(f"{len(queries)} queries of {len(panels)} panels, each understood; without an answer, for nothing of the kind "
      f"happened: {', '.join(empty) or 'none'}")
assert len(empty) <= len(queries) // 4, empty

print("== the figures as others read them")
for accept, read in [(OPEN, openmetrics.text_string_to_metric_families), ("text/plain", plain.text_string_to_metric_families)]:
    kind, page = get(AGENT, "/metrics", accept)
    families = {family.name: family for family in read(page)}
    assert "tidings_rtt_seconds" in families and len(families) > 100, len(families)
    unknown = [name for name, family in families.items() if family.type in ("unknown", "untyped")]
    assert not unknown, unknown
    print(f"{kind}: {len(families)} families, {sum(len(family.samples) for family in families.values())} series")
    open(f"{WORK}/metrics.txt", "w").write(page)
