"""Drives a cluster with one of PyPI's Consul clients, unmodified: they share one interface.

Usage: client.py NAME AGENT_PORT READER_PORT. Registers at one agent and reads at another, as services do. Prints one
line for each call that worked, and fails with the first that did not.
"""

import sys
import threading
import time

import consul

NAME, AGENT, READER = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
agent = consul.Consul(host="127.0.0.1", port=AGENT)
reader = consul.Consul(host="127.0.0.1", port=READER)
service = "py-" + NAME
ident = service + "-1"


def ok(call):
    print(f"{NAME}: {call}", flush=True)


def expect(call, condition, seen=None):
    if not condition:
        sys.exit(f"{NAME}: {call}: unexpected: {seen!r}")
    ok(call)


def until(call, ask, is_such):
    """Asks with blocking queries until the answer is such."""
    index, deadline = None, time.monotonic() + 20
    while True:
        index, answer = ask(index)
        if is_such(answer):
            ok(call)
            return index, answer
        if time.monotonic() > deadline:
            sys.exit(f"{NAME}: {call}: not in time: {answer!r}")


def health(index, **more):
    return reader.health.service(service, index=index, wait="5s", **more)


def status(nodes):
    return {check["CheckID"]: check["Status"] for node in nodes for check in node["Checks"]}


config = agent.agent.self()["Config"]
expect("agent.self", config["NodeName"] and config["Datacenter"] == "dc1", config)
expect("agent.members", len(agent.agent.members()) == 3, agent.agent.members())
expect("status.leader", agent.status.leader() != "", agent.status.leader())
expect("status.peers", len(agent.status.peers()) == 3, agent.status.peers())
expect("catalog.datacenters", agent.catalog.datacenters() == ["dc1"])
expect("catalog.nodes", len(agent.catalog.nodes()[1]) == 3, agent.catalog.nodes())

check = consul.Check.ttl("30s")
done = agent.agent.service.register(
    service, service_id=ident, address="127.0.0.1", port=8080, tags=["v1", "canary"], check=check
)
expect("agent.service.register", done is True, done)
until("health.service", health, lambda nodes: status(nodes).get("service:" + ident) == "critical")
expect("agent.check.ttl_pass", agent.agent.check.ttl_pass("service:" + ident, "well") is True)
index, nodes = until(
    "health.service passing", lambda index: health(index, passing=True), lambda nodes: len(nodes) == 1
)
expect("health.service tag", len(reader.health.service(service, tag="v1")[1]) == 1)
expect("agent.services", ident in agent.agent.services(), agent.agent.services())
expect("agent.checks", "service:" + ident in agent.agent.checks(), agent.agent.checks())
expect("catalog.services", sorted(reader.catalog.services()[1][service]) == ["canary", "v1"])
expect("catalog.service", reader.catalog.service(service)[1][0]["ServicePort"] == 8080)
expect("health.checks", reader.health.checks(service)[1][0]["Status"] == "passing")
expect("health.state", any(check["ServiceID"] == ident for check in reader.health.state("any")[1]))
expect("health.node", any(check["CheckID"] == "serfHealth" for check in reader.health.node(config["NodeName"])[1]))

# A watch wakes on a change, and only on a change.
index, _ = reader.health.service(service)
began = time.monotonic()
same, _ = reader.health.service(service, index=index, wait="1s")
waited = time.monotonic() - began
expect("watch sleeps while nothing changes", same == index and waited > 0.9, (same, index, waited))
seen = []


def watch():
    seen.append(reader.health.service(service, index=index, wait="30s"))


watcher = threading.Thread(target=watch)
watcher.start()
time.sleep(0.3)
agent.agent.check.ttl_pass("service:" + ident, "another text, and no change")
other = "py-other-" + NAME
agent.agent.service.register(other, service_id=other, port=1)
watcher.join(0.7)
expect("watch sleeps while others change", watcher.is_alive() and not seen, seen)
expect("agent.check.ttl_warn", agent.agent.check.ttl_warn("service:" + ident) is True)
watcher.join(5)
expect("watch wakes on its change", seen and str(seen[0][0]) != str(index), seen)
expect("watch shows it", status(seen[0][1])["service:" + ident] == "warning", seen)
expect("agent.check.ttl_fail", agent.agent.check.ttl_fail("service:" + ident, "broken") is True)
until("failing is seen", health, lambda nodes: status(nodes).get("service:" + ident) == "critical")
agent.agent.check.ttl_pass("service:" + ident)

expect("agent.service.maintenance on", agent.agent.service.maintenance(ident, True, reason="disk") is True)
until("maintenance is seen", health, lambda nodes: "_service_maintenance:" + ident in status(nodes))
expect("agent.service.maintenance off", agent.agent.service.maintenance(ident, False) is True)
until("its end is seen", lambda index: health(index, passing=True), lambda nodes: len(nodes) == 1)

expect("agent.check.register", agent.agent.check.register("extra", consul.Check.ttl("30s"), check_id="x-" + NAME,
                                                          service_id=ident) is True)
expect("agent.check.deregister", agent.agent.check.deregister("x-" + NAME) is True)
expect("agent.service.deregister", agent.agent.service.deregister(ident) is True)
agent.agent.service.deregister(other)
until("deregistering is seen", health, lambda nodes: nodes == [])

try:
    agent.kv.get("x")
except Exception as error:  # each client has an exception of its own
    expect("kv is refused with a reason", "keys and values" in str(error), error)
else:
    sys.exit("the key-value store is not there, and answered")
