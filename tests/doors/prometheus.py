"""Watches what Prometheus finds and scrapes; kills an agent and watches its target go."""

import json
import os
import signal
import sys
import time
import urllib.parse
import urllib.request

from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client import parser as plain

FIRST, LISTEN, KILLED = (int(text) for text in sys.argv[1:4])
JOBS = sys.argv[4:]
PATIENCE_S = 60
OPEN = "application/openmetrics-text;version=1.0.0"


def get(port, path, accept="*/*"):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def targets():
    """The targets by job: address and health."""
    found = {}
    for target in json.loads(get(LISTEN, "/api/v1/targets?state=active")[1])["data"]["activeTargets"]:
        address = urllib.parse.urlsplit(target["scrapeUrl"]).netloc
        found.setdefault(target["labels"]["job"], {})[address] = (target["health"], target["lastError"])
    return found


def until(what, is_so):
    began = time.monotonic()
    while True:
        try:
            answer = is_so()
            if answer:
                return time.monotonic() - began
        except (OSError, KeyError):
            pass
        if time.monotonic() - began > PATIENCE_S:
            sys.exit(f"FAILED: {what}: {targets()}")
        time.sleep(0.05)


def addresses(count):
    return {f"127.0.0.1:{FIRST + n}" for n in range(count)}


def have(count):
    now = targets()
    return all(set(now[job]) == addresses(count) for job in JOBS)


def value(query):
    answer = json.loads(get(LISTEN, "/api/v1/query?" + urllib.parse.urlencode({"query": query}))[1])
    return {json.dumps(one["metric"], sort_keys=True): float(one["value"][1]) for one in answer["data"]["result"]}


until("the targets appear", lambda: have(3))
until("all are up", lambda: all(health == "up" for job in targets().values() for health, _ in job.values()))
print(f"three targets by each of {', '.join(JOBS)}, all up")
assert all(error == "" for job in targets().values() for _, error in job.values())
labelled = value('up{job="http", member="node-2"}')
assert list(labelled.values()) == [1.0], labelled

for name, metric in [("web", "service_instances"), ("cluster", "tidings_cluster_size")]:
    until(f"{metric} is scraped", lambda: set(value(f'{metric}{{job="tidings"}}').values()) >= {3.0})
until("histograms are scraped", lambda: value('tidings_rtt_seconds_bucket{job="tidings", le="+Inf"}'))
described = json.loads(get(LISTEN, "/api/v1/metadata?metric=tidings_probes_sent")[1])["data"]
assert described["tidings_probes_sent"][0]["type"] == "counter", f"it was not scraped as OpenMetrics: {described}"

os.kill(KILLED, signal.SIGKILL)
known = until("the crash is known", lambda: len(json.loads(get(FIRST, "/v1/sd/prometheus?service=web")[1])) == 2)
took = until("the target of a killed agent vanishes", lambda: have(2))
print(f"a crash is known after {known:.1f} s, and its targets are gone {took:.1f} s later")
# With a refresh every second; Prometheus hands changes of targets on every five seconds at most.
assert took < 1 + 5 + 2, took
assert value('up{job="tidings"} == 0') == {}

for accept, read in [(OPEN, openmetrics.text_string_to_metric_families), ("text/plain", plain.text_string_to_metric_families)]:
    kind, page = get(FIRST, "/metrics", accept)
    families = {family.name: family for family in read(page)}
    assert "tidings_rtt_seconds" in families and len(families) > 100, len(families)
    unknown = [name for name, family in families.items() if family.type in ("unknown", "untyped")]
    assert not unknown, unknown
    print(f"{kind}: {len(families)} families, {sum(len(family.samples) for family in families.values())} series")
