// Drives a cluster with npm's `consul`, unmodified, with its watch.
//
// Usage: node client.mjs AGENT_PORT READER_PORT
import Consul from "consul";

const [agentPort, readerPort] = process.argv.slice(2).map(Number);
const agent = new Consul({ host: "127.0.0.1", port: agentPort });
const reader = new Consul({ host: "127.0.0.1", port: readerPort });
const name = "npm-web";
const id = "npm-web:1";

const ok = (call) => console.log(`npm consul: ${call}`);
const fail = (call, seen) => {
  console.error(`npm consul: ${call}: unexpected: ${JSON.stringify(seen)}`);
  process.exit(1);
};
const expect = (call, condition, seen) => (condition ? ok(call) : fail(call, seen));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const within = async (call, isSuch) => {
  for (const end = Date.now() + 20_000; Date.now() < end; await sleep(20)) if (isSuch()) return ok(call);
  fail(call, "not in time");
};

expect("agent.members", (await agent.agent.members()).length === 3);
expect("agent.self", (await agent.agent.self()).Config.Datacenter === "dc1");
expect("status.leader", (await agent.status.leader()) !== "");

// A watch that counts its changes: it must hear each of ours, and nothing else.
const changes = [];
const watch = reader.watch({ method: reader.health.service, options: { service: name, wait: "20s" }, backoffFactor: 100 });
watch.on("change", (nodes) => changes.push(nodes));
watch.on("error", (error) => fail("watch", error.message));
await within("watch begins", () => changes.length === 1);

await agent.agent.service.register({
  name, id, address: "127.0.0.1", port: 8080, tags: ["v1"], meta: { rack: "b7" }, check: { ttl: "30s" },
});
ok("agent.service.register");
const last = () => changes[changes.length - 1];
const status = () => Object.fromEntries((last() ?? []).flatMap((n) => n.Checks.map((c) => [c.CheckID, c.Status])));
await within("watch hears of it", () => status()[`service:${id}`] === "critical");
await agent.agent.check.pass(`service:${id}`);
await within("agent.check.pass", () => status()[`service:${id}`] === "passing");
const count = changes.length;
await agent.agent.check.pass({ id: `service:${id}`, note: "the same again" });
await agent.agent.service.register({ name: "npm-other", port: 1 });
await sleep(500);
expect("watch sleeps while nothing of its own changes", changes.length === count, changes.length - count);
const nodes = await reader.health.service({ service: name, passing: true, tag: "v1" });
expect("health.service", nodes.length === 1 && nodes[0].Service.Meta.rack === "b7", nodes);
expect("catalog.service.list", "npm-web" in (await reader.catalog.service.list()));
expect("catalog.service.nodes", (await reader.catalog.service.nodes(name))[0].ServicePort === 8080);
expect("catalog.node.list", (await reader.catalog.node.list()).length === 3);
expect("health.state", (await reader.health.state("any")).some((c) => c.ServiceID === id));
expect("agent.service.list", id in (await agent.agent.service.list()));
expect("agent.check.list", `service:${id}` in (await agent.agent.check.list()));
await agent.agent.check.warn(`service:${id}`);
await within("agent.check.warn", () => status()[`service:${id}`] === "warning");
await agent.agent.check.fail(`service:${id}`);
await within("agent.check.fail", () => status()[`service:${id}`] === "critical");
await agent.agent.service.maintenance({ id, enable: true, reason: "disk" });
await within("agent.service.maintenance", () => status()[`_service_maintenance:${id}`] === "critical");
await agent.agent.service.maintenance({ id, enable: false });
await within("its end", () => !(`_service_maintenance:${id}` in status()));
await agent.agent.service.deregister(id);
await within("agent.service.deregister", () => last().length === 0);
await agent.agent.service.deregister("npm-other");
watch.end();
try {
  await agent.kv.get("x");
  fail("kv", "an answer");
} catch (error) {
  expect("kv is refused", error.statusCode === 501, error.message);
}
