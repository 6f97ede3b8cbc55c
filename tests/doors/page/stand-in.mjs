// Answers as an agent does that knows a thousand members: the page's own files, and a made-up `/v2`. What it tells can be
// changed while it runs.

import http from 'node:http';
import fs from 'node:fs';
import path from 'node:path';

const KINDS = { html: 'text/html; charset=utf-8', css: 'text/css; charset=utf-8', js: 'text/javascript; charset=utf-8', svg: 'image/svg+xml' };

/** The policy that the agent sends, as its source says it. */
function policyOf(dir) {
  const source = fs.readFileSync(path.join(dir, 'mod.rs'), 'utf8');
  return source.match(/const POLICY: &str = "([^"]*)"/)[1].replace(/\\\n\s*/g, '');
}

/** Numbers that look random and are the same each time. */
function numbers(seed) {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const SERVICES = ['api-gateway', 'auth', 'billing', 'cart', 'catalog', 'checkout', 'chat', 'currency', 'email', 'events', 'exports', 'feature-flags', 'feed', 'geo', 'images', 'inventory', 'invoices', 'ledger', 'mail', 'media', 'metrics', 'notify', 'orders', 'payments', 'pricing', 'profiles', 'queue', 'ratings', 'recommend', 'reports', 'returns', 'search', 'sessions', 'shipping', 'stock', 'tax', 'thumbnails', 'users', 'warehouse', 'webhooks'];

export function madeUp(size, zones = ['eu-central-1a', 'eu-central-1b', 'eu-central-1c', 'us-east-1a', 'us-east-1b']) {
  const random = numbers(7);
  const hex = (n) => n.toString(16).padStart(16, '0');
  const members = [];
  const instances = [];
  for (let n = 0; n < size; n += 1) {
    const zone = zones[n % zones.length];
    members.push({
      member: `${zone.split('-')[0]}-node-${String(n + 1).padStart(4, '0')}`,
      member_id: hex(n + 1),
      addr: `10.${20 + (n % zones.length)}.${n >> 8}.${n % 256}:7900`,
      zone,
      state: 'reachable',
      is_self: n === 0,
      ...(n === 0 ? {} : { evidence_ms: Math.round(40 + random() * 1100) }),
      generation: `${1795000000 + n}.0`,
      software: n % 9 === 0 ? '0.1.0' : '0.2.0',
      wire: [1, 1],
    });
    for (let k = 0; k < 3; k += 1) {
      const service = SERVICES[(n * 3 + k) % SERVICES.length];
      const member = members[n];
      instances.push({
        member: member.member,
        member_id: member.member_id,
        member_state: 'reachable',
        evidence_ms: member.evidence_ms ?? 0,
        healthy: true,
        record: {
          service,
          id: `${service}@${member.member}:${8000 + k}`,
          address: { host: member.addr.split(':')[0], port: 8000 + k },
          version: n % 5 === 0 ? '2.4.0' : '2.3.7',
          tags: n % 5 === 0 ? ['canary', 'v2'] : ['v2'],
          meta: { rack: `b${n % 17}`, commit: 'f39bdb8' },
          weight: 10,
          zone,
          protocol: 'http',
          status: { state: 'passing' },
          registered_at: 1795000000000,
        },
      });
    }
  }
  return { members, instances };
}

export class StandIn {
  constructor(dir, world) {
    this.dir = dir;
    this.policy = policyOf(dir);
    Object.assign(this, world);
    this.partition = null;
    this.isolated = false;
    this.isFrozen = false;
    this.streams = new Set();
    this.asked = [];
    this.server = http.createServer((request, response) => this.answer(request, response));
  }

  listen() {
    return new Promise((done) => this.server.listen(0, '127.0.0.1', () => done(`http://127.0.0.1:${this.server.address().port}`)));
  }

  close() {
    this.streams.forEach((stream) => stream.destroy());
    this.server.closeAllConnections();
    this.server.close();
  }

  answer(request, response) {
    const url = new URL(request.url, 'http://agent');
    this.asked.push(url.pathname);
    // Nobody hangs up on it: what is asked is never answered.
    if (this.isFrozen) return undefined;
    if (url.pathname.startsWith('/ui/')) return this.file(url.pathname.slice(4) || 'index.html', response);
    if (url.pathname === '/v2/events') return this.stream(response);
    const told = this.tell(url.pathname);
    response.writeHead(told ? 200 : 404, { 'content-type': 'application/json' });
    return response.end(JSON.stringify(told ?? { schema_version: 1, error: { code: 'not_found', message: 'there is nothing' } }));
  }

  file(name, response) {
    const file = path.join(this.dir, path.basename(name));
    const kind = KINDS[name.split('.').pop()];
    if (!kind || !fs.existsSync(file)) {
      response.writeHead(404);
      return response.end();
    }
    response.writeHead(200, { 'content-type': kind, 'content-security-policy': this.policy, 'cache-control': 'no-cache', 'x-content-type-options': 'nosniff' });
    return response.end(fs.readFileSync(file));
  }

  tell(path) {
    const base = { schema_version: 1, stale: this.isolated };
    if (path === '/v2/agent') {
      return { schema_version: 1, cluster: 'shop', datacenter: 'dc1', draining: false, insecure: false, isolated: this.isolated, member: this.members[0], status: 'ready', uptime_ms: 1, version: '0.2.0', ...(this.partition ? { partition: this.partition } : {}) };
    }
    if (path === '/v2/members') return { ...base, members: this.members };
    if (path === '/v2/view') return { ...base, fingerprint: '0000000000000000', members: this.members, instances: this.instances };
    const asked = path.match(/^\/v2\/members\/([^/]+)\/explain$/);
    const member = asked && this.members.find((member) => member.member_id === asked[1]);
    if (!member) return null;
    const story = member.state === 'reachable'
      ? [[62000, 'joined'], [61800, 'answered the first probe after 412 us']]
      : [[9200, 'answered a probe after 1.1 ms'], [4100, 'did not answer three probes in a row'], [4050, 'six members were asked to try'], [3900, 'us-node-0014 could not reach it'], [3890, 'eu-node-0107 could not reach it'], [3880, 'us-node-0209 could not reach it'], [3875, 'found unreachable, with three witnesses']];
    return { schema_version: 1, member, finding: member.state, turn: 1, by: member.state === 'reachable' ? '' : 'eu-node-0042', witnesses: member.state === 'reachable' ? 0 : 3, rtt_us: 871, story: story.map(([ago_ms, what]) => ({ ago_ms, what })) };
  }

  stream(response) {
    response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' });
    response.write(':\n\n');
    this.streams.add(response);
    response.on('close', () => this.streams.delete(response));
  }

  say(name, fields) {
    const data = JSON.stringify({ ts: new Date().toISOString(), event: name, ...fields });
    this.streams.forEach((stream) => stream.write(`event: ${name}\ndata: ${data}\n\n`));
  }

  /** Gives members another state, and tells. */
  turn(members, state) {
    const ids = new Set(members.map((member) => member.member_id));
    for (const member of this.members.filter((member) => ids.has(member.member_id))) {
      member.state = state;
      member.evidence_ms = member.is_self ? undefined : { reachable: 40 + (parseInt(member.member_id, 16) * 379) % 1100, down: 64000 }[state] ?? 4310;
      this.say(state === 'down' ? 'member_down' : 'member_changed', { member });
    }
    for (const instance of this.instances.filter((instance) => ids.has(instance.member_id))) {
      instance.member_state = state;
      instance.healthy = state === 'reachable' && ['passing', 'warning'].includes(instance.record.status.state);
      if (state === 'reachable') delete instance.out;
      else instance.out = `member_${state}`;
    }
  }

  /** Suspects a split between these zones and the others, or none any more. */
  split(zones) {
    const lost = this.members.filter((member) => zones.includes(member.zone));
    this.turn(this.members, 'reachable');
    if (zones.length === 0) {
      this.partition = null;
      this.instances.forEach((instance) => delete instance.kept);
      return this.say('partition_over', {});
    }
    this.turn(lost, 'unreachable');
    this.instances.forEach((instance) => { instance.kept = zones.includes(instance.record.zone); });
    const all = [...new Set(this.members.map((member) => member.zone))];
    const of = (zone) => this.members.filter((member) => member.zone === zone).length;
    this.partition = {
      lost: lost.length,
      kept: this.members.length - lost.length,
      lost_names: lost.slice(0, 8).map((member) => member.member),
      kept_names: [],
      zones: Object.fromEntries(all.map((zone) => [zone, zones.includes(zone) ? { lost: of(zone), kept: 0 } : { lost: 0, kept: of(zone) }])),
    };
    return this.say('partition_suspected', this.partition);
  }
}
