// The cluster at a glance. Reads what any client may read (`/v2`), never writes, and keeps nothing but a token, which
// stays in this tab. Names come from whoever is a member: all text goes in as text, never as markup.

// ---------------------------------------------------------------------------------------------------------------------
// Limits and times, in milliseconds.

const API = '../v2';
/** How often members are read again: what the events do not tell is when each was last heard. */
const MEMBERS_EVERY = 5000;
/** How often everything is read again, whatever the events said. */
const VIEW_EVERY = 60000;
/** An answer that takes longer is none. */
const ANSWER_MAX = 10000;
/** Between two attempts, at the least and at the most. */
const RETRY_MIN = 500;
const RETRY_MAX = 10000;
/** Between two drawings, when a lot happens. */
const DRAW_EVERY = 100;
/** Between two announcements to a screen reader. */
const SAY_EVERY = 10000;
/** The most of one event; a record has 64 KiB. */
const EVENT_CHARS_MAX = 1 << 20;
/** Events that are kept to be listed. */
const EVENTS_MAX = 500;
/** Rows of one list: browsers cannot draw a page that is higher. */
const ROWS_MAX = 200000;
/** Rows beyond the screen that are there already, so that scrolling shows no gap. */
const ROWS_AHEAD = 12;
/** Instances that stand below a service or a member; the list has the others. */
const OFFERS_MAX = 50;
/** Services that are named in one notice. */
const NAMED_MAX = 6;

const STATES = ['reachable', 'suspect', 'unreachable', 'down', 'left'];
const SERVING = ['passing', 'warning'];
/** The worst first. */
const WORST = ['unreachable', 'down', 'suspect', 'critical', 'kept', 'starting', 'warning', 'maintenance', 'draining',
  'left', 'reachable', 'passing'];
const STATE_WORDS = new Set(WORST);

// ---------------------------------------------------------------------------------------------------------------------
// Text and elements.

const byId = (id) => document.getElementById(id);

/** What is not seen, and turns the text around it. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;
const ALL_UNSEEN = new RegExp(UNSEEN, 'g');

/** Text of others, so that it cannot turn the text around it. */
function shown(text) {
  if (text === undefined || text === null) return '';
  const plain = typeof text === 'string' ? text : String(text);
  return UNSEEN.test(plain) ? plain.replace(ALL_UNSEEN, '\ufffd') : plain;
}

function el(tag, className, ...children) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== ''));
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function setClass(element, className) {
  if (element.className !== className) element.className = className;
}

function setAttribute(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

const order = new Intl.Collator(undefined, { numeric: true }).compare;
const number = new Intl.NumberFormat().format;
const count = (n, one, many) => `${number(n)} ${n === 1 ? one : many}`;

function span(ms) {
  if (ms < 950) return `${Math.round(ms)} ms`;
  const s = ms / 1000;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 120) return `${Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} d`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const timeOf = (date) => (Number.isNaN(date.getTime()) ? '' : clock.format(date));

function dot(state) {
  const mark = el('i', `dot is-${STATE_WORDS.has(state) ? state : 'left'}`);
  mark.setAttribute('aria-hidden', 'true');
  return mark;
}

function stateWord(state, text) {
  return el('span', `state word-${STATE_WORDS.has(state) ? state : 'left'}`, dot(state), shown(text ?? state));
}

// ---------------------------------------------------------------------------------------------------------------------
// What is known.

const known = {
  agent: null,
  /** By id. */
  members: new Map(),
  /** By member and id. */
  instances: new Map(),
  /** Whether the agent itself says that this is only the last it knew. */
  isStale: false,
  stopped: null,
  /** When the ages of the evidence were read; null before the first answer. */
  readAt: null,
  events: [],
  eventsSeen: 0,
};

const placeOf = (memberId, id) => `${memberId}\u0000${id}`;

function takeMember(member) {
  if (typeof member?.member_id !== 'string') return;
  const state = STATES.includes(member.state) ? member.state : 'left';
  known.members.set(member.member_id, {
    id: member.member_id,
    name: shown(member.member) || '(no name yet)',
    zone: shown(member.zone),
    addr: shown(member.addr),
    software: shown(member.software),
    generation: shown(member.generation),
    isSelf: member.is_self === true,
    heard: typeof member.evidence_ms === 'number' ? member.evidence_ms : null,
    state,
  });
}

function takeInstance(memberId, record, isPresent, isKept) {
  if (typeof record?.id !== 'string') return;
  const text = (value) => shown(typeof value === 'string' ? value : '');
  const host = text(record.address?.host);
  known.instances.set(placeOf(memberId, record.id), {
    key: placeOf(memberId, record.id),
    memberId,
    id: shown(record.id),
    service: shown(record.service),
    address: `${host.includes(':') ? `[${host}]` : host}:${Number(record.address?.port) || 0}`,
    status: text(record.status?.state) || 'passing',
    reason: text(record.status?.reason),
    weight: Number(record.weight) || 0,
    version: text(record.version),
    zone: text(record.zone),
    group: text(record.group),
    namespace: text(record.namespace),
    protocol: text(record.protocol),
    tags: Array.isArray(record.tags) ? record.tags.map(shown) : [],
    meta: record.meta,
    isPresent,
    isKept,
  });
}

/** The metadata of an instance, as text. */
const metaOf = (instance) => Object.entries(instance.meta ?? {}).map(([key, value]) => [shown(key), shown(value)]);

/** What keeps calls from it, as `/v2` words it, without `member_`; null if nothing does. */
function whyOut(instance, member) {
  if (member.state !== 'reachable') return member.state;
  if (!instance.isPresent) return 'down';
  return SERVING.includes(instance.status) ? null : instance.status;
}

function takeView(view) {
  known.members.clear();
  known.instances.clear();
  for (const member of view.members ?? []) takeMember(member);
  for (const listed of view.instances ?? []) {
    takeInstance(listed.member_id, listed.record, listed.out !== 'member_down', listed.kept === true);
  }
  known.isStale = view.stale === true;
  known.readAt = performance.now();
}

/** Takes in one event; gives whether everything has to be read again. */
function takeEvent(event) {
  known.eventsSeen += 1;
  const id = event.member?.member_id ?? event.member_id;
  switch (event.event) {
    case 'member_up':
    case 'member_changed':
    case 'member_down':
      takeMember(event.member);
      return false;
    case 'member_left':
    case 'member_forgotten':
      known.members.delete(id);
      return false;
    case 'service_up':
    case 'service_changed': {
      const before = known.instances.get(placeOf(id, event.instance));
      takeInstance(id, event.record, event.event === 'service_up' || before?.isPresent !== false, before?.isKept === true);
      return false;
    }
    case 'service_down':
      if (event.reason === 'member_down') takeInstance(id, event.record, false, known.instances.get(placeOf(id, event.instance))?.isKept === true);
      else known.instances.delete(placeOf(id, event.instance));
      // Whether the instances of one that is down are kept for use is not in the event.
      return event.reason === 'member_down';
    case 'partition_suspected':
      if (known.agent) known.agent.partition = event;
      return true;
    case 'partition_over':
      if (known.agent) delete known.agent.partition;
      return true;
    case 'isolated':
    case 'rejoined':
      if (known.agent) known.agent.isolated = event.event === 'isolated';
      known.isStale = event.event === 'isolated';
      return true;
    case 'ready':
    case 'mass_drop':
    case 'mass_drop_over':
    case 'drained':
    case 'fatal':
    case 'lagged':
      return true;
    default:
      return false;
  }
}

function note(event) {
  const subject = event.member?.member ?? event.instance ?? event.service ?? memberName(event.member_id) ?? '';
  const details = [
    event.event?.startsWith('member_') && event.event !== 'member_left' ? event.member?.state : null,
    event.event?.startsWith('service_') ? event.record?.status?.state : null,
    event.event?.startsWith('service_') ? `on ${memberName(event.member_id)}` : null,
    typeof event.lost === 'number' ? `${event.lost} lost` : null,
    typeof event.kept === 'number' ? `${event.kept} kept` : null,
    event.reason,
  ];
  known.events.unshift({
    key: `${known.eventsSeen}`,
    at: timeOf(new Date(event.ts)),
    name: shown(event.event).replaceAll('_', ' '),
    subject: shown(subject),
    detail: shown(details.filter(Boolean).join(', ')),
    memberId: event.member?.member_id ?? event.member_id ?? null,
  });
  known.events.length = Math.min(known.events.length, EVENTS_MAX);
}

const memberName = (id) => known.members.get(id)?.name ?? id ?? null;

// ---------------------------------------------------------------------------------------------------------------------
// Asking the agent.

const TOKEN = 'tidings-token';

const link = { word: 'connecting', heardAt: null, retryAt: null, failed: 0, trouble: '' };

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function token() {
  try {
    return sessionStorage.getItem(TOKEN) ?? '';
  } catch {
    return token.inMemory ?? '';
  }
}

function keepToken(text) {
  token.inMemory = text;
  try {
    sessionStorage.setItem(TOKEN, text);
  } catch {
    // A browser that keeps nothing keeps it for as long as the page is open.
  }
}

async function ask(path, { signal, accept = 'application/json' } = {}) {
  const headers = { accept };
  if (token()) headers.authorization = `Bearer ${token()}`;
  const response = await fetch(`${API}${path}`, { headers, signal, cache: 'no-store', credentials: 'same-origin' });
  heard();
  if (response.ok) return response;
  const told = await response.json().catch(() => null);
  throw new Refused(response.status, shown(told?.error?.message ?? `the agent answers ${response.status}`));
}

async function read(path) {
  const response = await ask(path, { signal: AbortSignal.timeout(ANSWER_MAX) });
  return JSON.parse(await response.text());
}

function heard() {
  link.heardAt = performance.now();
}

/** The agent itself; one whose member has stopped says only why. */
async function readAgent() {
  try {
    known.agent = await read('/agent');
    known.stopped = null;
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== 503) throw error;
    known.stopped = error.message;
  }
}

/** Events that came while everything was being read: they are newer than what is read, or in it already. */
let waiting = null;

async function readAll() {
  if (waiting) {
    waiting.again = true;
    return;
  }
  const mine = { events: [], again: false };
  waiting = mine;
  try {
    const response = ask('/view', { signal: AbortSignal.timeout(ANSWER_MAX * 3) });
    const [text] = await Promise.all([response.then((answer) => answer.text()), readAgent()]);
    if (!first.isDone) performance.mark('tidings-answered');
    takeView(JSON.parse(text));
  } finally {
    waiting = null;
    for (const event of mine.events) takeEvent(event);
  }
  draw.soon();
  if (mine.again) soonAll();
}

let timerAll = 0;

/** Reads everything once what happens has calmed down a little. */
function soonAll() {
  if (timerAll) return;
  timerAll = setTimeout(() => {
    timerAll = 0;
    if (link.word === 'live') readAll().catch(lose);
  }, 300);
}

/** Ages of the evidence, and a word of life from the agent. */
async function readMembers() {
  const before = known.eventsSeen;
  const answer = await read('/members');
  if (known.eventsSeen === before && !waiting) {
    known.members.clear();
    for (const member of answer.members ?? []) takeMember(member);
    known.isStale = answer.stale === true;
  } else {
    // Something happened meanwhile, and is newer than this: only the ages count.
    for (const member of answer.members ?? []) {
      const mine = known.members.get(member.member_id);
      if (mine && typeof member.evidence_ms === 'number') mine.heard = member.evidence_ms;
    }
  }
  known.readAt = performance.now();
  draw.soon();
  if (chosen.kind === 'member') readStory();
}

/** The stream that is open, to be given up. */
let open = null;

/** Reads the events until the stream ends; it never ends well. */
async function follow() {
  const given = new AbortController();
  open = given;
  const began = setTimeout(() => given.abort(), ANSWER_MAX);
  const response = await ask('/events', { signal: given.signal, accept: 'text/event-stream' });
  clearTimeout(began);
  // What happens from here on is told: now everything can be read.
  let failed = null;
  readAll().then(() => {
    if (open !== given) return;
    link.word = 'live';
    link.failed = 0;
    draw.soon();
  }, (error) => {
    failed = error;
    given.abort();
  });
  try {
    await listen(response);
  } catch (error) {
    // Why it could not be read says more than that the stream was given up.
    throw failed ?? error;
  }
}

/** Takes in what is told, until the stream ends. */
async function listen(response) {
  const stream = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { value, done } = await stream.read();
    if (done) break;
    heard();
    rest += value;
    const lines = rest.split('\n');
    rest = lines.pop();
    if (rest.length > EVENT_CHARS_MAX) throw new Error('an event is too long');
    for (const line of lines) {
      if (line.startsWith('data:')) happened(JSON.parse(line.slice(5)));
    }
  }
  throw new Error('the agent ended the stream of events');
}

function happened(event) {
  note(event);
  if (waiting) waiting.events.push(event);
  const again = takeEvent(event);
  if (again) soonAll();
  const id = event.member?.member_id ?? event.member_id;
  if (chosen.kind === 'member' && id === chosen.key) readStory();
  draw.soon();
}

/** What went wrong, in words; those of browsers differ, and say little. */
function why(error) {
  if (error instanceof Refused) return error.message;
  if (error?.name === 'TimeoutError' || error?.name === 'AbortError') return 'it took too long to answer';
  if (error instanceof TypeError) return 'nobody answers there';
  return shown(error?.message);
}

function lose(error) {
  link.trouble = why(error);
  open?.abort();
}

async function stayConnected() {
  for (;;) {
    let trouble = null;
    try {
      await follow();
    } catch (error) {
      trouble = error;
    }
    open?.abort();
    open = null;
    if (trouble instanceof Refused && trouble.status === 401) {
      await wantToken(trouble.message);
      continue;
    }
    if (!link.trouble || trouble instanceof Refused) link.trouble = why(trouble);
    link.word = 'lost';
    const pause = Math.min(RETRY_MAX, RETRY_MIN * 2 ** link.failed) * (0.75 + Math.random() / 2);
    link.failed += 1;
    link.retryAt = performance.now() + pause;
    draw.soon();
    await new Promise((done) => {
      link.hurry = done;
      setTimeout(done, pause);
    });
    link.retryAt = null;
    link.trouble = '';
    if (link.word === 'lost' && known.readAt === null) link.word = 'connecting';
  }
}

/** A page that nobody looks at asks nothing; one that is looked at again asks at once. */
function lookAgain() {
  if (document.hidden) return;
  draw.soon();
  if (link.word === 'lost') link.hurry?.();
  else if (link.word === 'live') readMembers().catch(lose);
}

function keepReading() {
  setInterval(() => {
    if (link.word === 'live' && !document.hidden) readMembers().catch(lose);
  }, MEMBERS_EVERY);
  setInterval(() => {
    if (link.word === 'live' && !document.hidden) readAll().catch(lose);
  }, VIEW_EVERY);
  setInterval(drawLink, 1000);
  document.addEventListener('visibilitychange', lookAgain);
  window.addEventListener('online', lookAgain);
}

/** Shows the dialog until there is a token to try. */
function wantToken(reason) {
  const dialog = byId('ask');
  const input = byId('ask-token');
  setText(byId('ask-wrong'), token() ? reason : '');
  keepToken('');
  input.value = '';
  link.word = 'token';
  draw.soon();
  if (!dialog.open) dialog.showModal();
  input.focus();
  return new Promise((done) => {
    byId('ask-form').onsubmit = (submitted) => {
      submitted.preventDefault();
      const text = input.value.trim();
      // Others no header can carry, and no token file has them.
      if (!/^[\x21-\x7e]+$/.test(text)) {
        setText(byId('ask-wrong'), 'A token has no such characters.');
        return;
      }
      keepToken(text);
      dialog.close();
      link.word = 'connecting';
      done();
    };
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// What follows from what is known: counts, services, zones.

function facts() {
  const states = Object.fromEntries(STATES.map((state) => [state, 0]));
  const zones = new Map();
  for (const member of known.members.values()) {
    states[member.state] += 1;
    const zone = zones.get(member.zone) ?? { name: member.zone, members: [], lost: 0 };
    zone.members.push(member);
    zone.lost += member.state === 'reachable' ? 0 : 1;
    zones.set(member.zone, zone);
  }
  const services = new Map();
  const instances = [];
  let healthy = 0;
  for (const instance of known.instances.values()) {
    const member = known.members.get(instance.memberId);
    // Of a member that nobody knows nothing is shown: its word comes first.
    if (!member) continue;
    const out = whyOut(instance, member);
    const isKept = instance.isKept && out !== null && out !== instance.status;
    const state = out === null ? instance.status : isKept ? 'kept' : STATE_WORDS.has(out) ? out : 'critical';
    const row = { ...instance, member, out, isKept, state };
    instances.push(row);
    healthy += out === null ? 1 : 0;
    const service = services.get(row.service)
      ?? { key: row.service, name: row.service, all: 0, healthy: 0, kept: 0, tags: new Set(), versions: new Set() };
    service.all += 1;
    service.healthy += out === null ? 1 : 0;
    service.kept += isKept ? 1 : 0;
    row.tags.forEach((tag) => service.tags.add(tag));
    if (row.version) service.versions.add(row.version);
    services.set(row.service, service);
  }
  const ofMember = new Map();
  for (const row of instances) {
    const of = ofMember.get(row.memberId) ?? { all: 0, healthy: 0 };
    of.all += 1;
    of.healthy += row.out === null ? 1 : 0;
    ofMember.set(row.memberId, of);
  }
  return { states, zones, services: [...services.values()], instances, healthy, ofMember };
}

function list(names) {
  const some = names.slice(0, NAMED_MAX);
  const more = names.length - some.length;
  if (more > 0) return `${some.join(', ')} and ${number(more)} more`;
  return some.length > 1 ? `${some.slice(0, -1).join(', ')} and ${some.at(-1)}` : some.join('');
}

/** Whether what is shown is only the last that was known. */
const isOld = () => known.readAt !== null && (link.word !== 'live' || known.isStale || known.stopped !== null);

const begun = (sentence) => sentence[0].toUpperCase() + sentence.slice(1);

/** The state of the cluster in one sentence. */
function headline(now) {
  const all = known.members.size;
  if (known.readAt === null) {
    return { connecting: 'Asking the agent', token: 'Waiting for a token', lost: 'The agent cannot be reached' }[link.word] ?? '';
  }
  const off = STATES.slice(1).filter((state) => now.states[state] > 0).map((state) => `${number(now.states[state])} ${state}`);
  const were = isOld() ? 'were' : 'are';
  const members = (isOld() ? 'When last known: ' : '') + (off.length > 0
    ? `${list(off)} of ${count(all, 'member', 'members')}`
    : all === 1 ? 'one member, reachable' : `all ${number(all)} members ${were} reachable`);
  const total = now.instances.length;
  if (total === 0) return begun(`${members}; no service ${isOld() ? 'was' : 'is'} offered.`);
  const share = now.healthy === total
    ? (total === 1 ? `the only instance ${isOld() ? 'got' : 'gets'} calls` : `all ${number(total)} instances ${isOld() ? 'got' : 'get'} calls`)
    : `${number(now.healthy)} of ${count(total, 'instance', 'instances')} ${isOld() ? 'got' : 'get'} calls`;
  const without = now.services.filter((service) => service.healthy === 0).map((service) => service.name).sort(order);
  const none = without.length > 0 ? `; none of ${list(without)}` : '';
  return begun(`${members}; ${share}${none}.`);
}

// ---------------------------------------------------------------------------------------------------------------------
// The filter: words, all of which must be somewhere; `zone:eu` only there.

const FIELDS = ['state', 'zone', 'tag', 'service', 'member', 'version', 'status', 'id', 'name'];

function wanted(text) {
  const terms = text.toLowerCase().match(/\S+/g) ?? [];
  const split = terms.map((term) => {
    const at = term.indexOf(':');
    const field = term.slice(0, at);
    return at > 0 && FIELDS.includes(field) ? [field, term.slice(at + 1)] : [null, term];
  });
  return (fields) => split.every(([field, text]) => {
    const values = field === null ? Object.values(fields).flat() : [fields[field] ?? []].flat();
    const exact = field === 'state' || field === 'status';
    return values.some((value) => {
      const low = String(value).toLowerCase();
      return exact ? low === text : low.includes(text);
    });
  });
}

// ---------------------------------------------------------------------------------------------------------------------
// The lists: which columns each has. `sort` compares, the worst or the first first.

const RANKS = new Map(WORST.map((state, rank) => [state, rank]));
const worst = (state) => RANKS.get(state) ?? WORST.length;

const text = (value, more = {}) => ({ ...more, draw: 'text', value });

const LISTS = {
  members: {
    word: 'Members',
    nothing: 'No member is known yet.',
    columns: [
      { title: 'State', width: 'c-state', cell: (m) => ({ draw: 'state', value: m.state }), sort: (a, b) => worst(a.state) - worst(b.state) },
      { title: 'Member', cell: (m) => ({ draw: 'pick', value: m.isSelf ? `${m.name} (asked)` : m.name }), sort: (a, b) => order(a.name, b.name) },
      { title: 'Zone', width: 'c-mid', near: true, cell: (m) => text(m.zone), sort: (a, b) => order(a.zone, b.zone) },
      { title: 'Heard', width: 'c-age', isNumber: true, cell: (m) => text(age(m)), sort: (a, b) => (a.heard ?? -1) - (b.heard ?? -1) },
      { title: 'Instances', width: 'c-small', near: true, isNumber: true, cell: (m, now) => text(share(now.ofMember.get(m.id))), sort: (a, b, now) => (now.ofMember.get(b.id)?.all ?? 0) - (now.ofMember.get(a.id)?.all ?? 0) },
      { title: 'Address', width: 'c-address', far: true, isCode: true, cell: (m) => text(m.addr), sort: (a, b) => order(a.addr, b.addr) },
      { title: 'Software', width: 'c-small', far: true, cell: (m) => text(m.software), sort: (a, b) => order(a.software, b.software) },
    ],
    rows: () => [...known.members.values()],
    key: (m) => m.id,
    fields: (m) => ({ state: m.state, name: m.name, member: m.name, zone: m.zone, id: m.id, version: m.software, addr: m.addr }),
    choose: (m) => choose('member', m.id),
    chosen: (m) => chosen.kind === 'member' && chosen.key === m.id,
  },
  services: {
    word: 'Services',
    nothing: 'No service is offered yet.',
    columns: [
      { title: 'Healthy', width: 'c-meter', cell: (s) => ({ draw: 'meter', value: s.healthy, of: s.all }), sort: (a, b) => a.healthy / a.all - b.healthy / b.all },
      { title: 'Service', cell: (s) => ({ draw: 'pick', value: s.name }), sort: (a, b) => order(a.name, b.name) },
      { title: 'Kept', width: 'c-small', near: true, isNumber: true, cell: (s) => text(s.kept ? number(s.kept) : ''), sort: (a, b) => b.kept - a.kept },
      { title: 'Versions', width: 'c-mid', near: true, cell: (s) => text([...s.versions].sort(order).join(', ')), sort: (a, b) => b.versions.size - a.versions.size },
      { title: 'Tags', width: 'c-wide', far: true, cell: (s) => text([...s.tags].sort(order).join(', ')), sort: (a, b) => b.tags.size - a.tags.size },
    ],
    rows: (now) => now.services,
    key: (s) => s.key,
    fields: (s) => ({ name: s.name, service: s.name, tag: [...s.tags], version: [...s.versions], state: s.healthy === 0 ? 'none' : s.healthy < s.all ? 'some' : 'healthy' }),
    choose: (s) => choose('service', s.key),
    chosen: (s) => chosen.kind === 'service' && chosen.key === s.key,
  },
  instances: {
    word: 'Instances',
    nothing: 'No instance is offered yet.',
    columns: [
      { title: 'Status', width: 'c-status', cell: (i) => ({ draw: 'state', value: i.state, word: instanceWord(i) }), sort: (a, b) => worst(a.state) - worst(b.state) },
      { title: 'Instance', cell: (i) => ({ draw: 'pick', value: i.id }), sort: (a, b) => order(a.id, b.id) },
      { title: 'Service', width: 'c-mid', near: true, cell: (i) => text(i.service), sort: (a, b) => order(a.service, b.service) },
      { title: 'Address', width: 'c-address', near: true, isCode: true, cell: (i) => text(i.address), sort: (a, b) => order(a.address, b.address) },
      { title: 'Member', width: 'c-mid', far: true, cell: (i) => text(i.member.name), sort: (a, b) => order(a.member.name, b.member.name) },
      { title: 'Heard', width: 'c-age', isNumber: true, cell: (i) => text(age(i.member)), sort: (a, b) => (a.member.heard ?? -1) - (b.member.heard ?? -1) },
      { title: 'Weight', width: 'c-small', far: true, isNumber: true, cell: (i) => text(number(i.weight)), sort: (a, b) => b.weight - a.weight },
      { title: 'Version', width: 'c-small', far: true, cell: (i) => text(i.version), sort: (a, b) => order(a.version, b.version) },
    ],
    rows: (now) => now.instances,
    key: (i) => i.key,
    fields: (i) => ({ state: [i.state, i.out ? 'out' : 'healthy', i.member.state], status: i.status, id: i.id, name: i.id, service: i.service, member: i.member.name, zone: [i.zone, i.member.zone], tag: i.tags, version: i.version, address: i.address, meta: metaOf(i).map((pair) => pair.join('=')) }),
    choose: (i) => choose('instance', i.key),
    chosen: (i) => chosen.kind === 'instance' && chosen.key === i.key,
  },
  events: {
    word: 'Events',
    nothing: 'Nothing has happened since this page was opened.',
    columns: [
      { title: 'Time', width: 'c-time', cell: (e) => text(e.at) },
      { title: 'What', width: 'c-wide', cell: (e) => text(e.name) },
      { title: 'Who', cell: (e) => (e.memberId && known.members.has(e.memberId) ? { draw: 'pick', value: e.subject } : text(e.subject)) },
      { title: 'More', width: 'c-wide', near: true, cell: (e) => text(e.detail) },
    ],
    rows: () => known.events,
    key: (e) => e.key,
    fields: (e) => ({ name: e.name, member: e.subject, detail: e.detail }),
    choose: (e) => { if (e.memberId) choose('member', e.memberId); },
    chosen: () => false,
  },
};

/** How long ago it was heard when that was last read; once nothing is read any more, how long that is by now. */
function age(member) {
  if (member.isSelf) return 'self';
  if (member.heard === null) return 'never';
  const since = link.word === 'live' ? 0 : performance.now() - known.readAt;
  return span(member.heard + since);
}

const share = (of) => (of ? (of.healthy === of.all ? number(of.all) : `${number(of.healthy)} of ${number(of.all)}`) : '');

function instanceWord(instance) {
  if (instance.isKept) return 'last known good';
  return instance.out && instance.out !== instance.status ? `member ${instance.out}` : instance.status;
}

// ---------------------------------------------------------------------------------------------------------------------
// A list of any length: only the rows near the screen are there.

const rows = {
  table: byId('table'),
  /** What is listed, sorted and filtered. */
  items: [],
  list: null,
  shape: '',
  pool: [],
  height: 34,
  /** Which row the keys are at. */
  active: null,

  build(name) {
    const list = LISTS[name];
    this.list = list;
    this.pool = [];
    const classOf = (column) => [column.width, column.near ? 'c-near' : '', column.far ? 'c-far' : '', column.isNumber ? 'is-number' : ''].filter(Boolean).join(' ');
    const head = el('tr', '');
    list.columns.forEach((column, index) => {
      const cell = el('th', classOf(column));
      cell.scope = 'col';
      if (column.sort) {
        const button = el('button', '', column.title);
        button.type = 'button';
        button.addEventListener('click', () => sortBy(index));
        cell.append(button);
      } else {
        cell.append(column.title);
      }
      head.append(cell);
    });
    const space = () => {
      // One cell: with more, columns that are hidden on a small screen would take their room again.
      const cell = el('td', '');
      const body = el('tbody', 'space', el('tr', '', cell));
      body.setAttribute('aria-hidden', 'true');
      return body;
    };
    this.head = el('thead', '', head);
    this.above = space();
    this.body = el('tbody', '');
    this.below = space();
    this.caption = el('caption', 'unseen', list.word);
    this.classes = list.columns.map((column) => [classOf(column), column.isCode ? 'is-code' : ''].filter(Boolean).join(' '));
    this.table.replaceChildren(this.caption, this.head, this.above, this.body, this.below);
  },

  /** A row with a place for whatever each column shows. */
  row() {
    const row = el('tr', '');
    const cells = this.list.columns.map((column, index) => {
      const isName = column.title === this.list.columns[1].title && this.list !== LISTS.events;
      const cell = el(isName ? 'th' : 'td', this.classes[index]);
      if (isName) cell.scope = 'row';
      row.append(cell);
      return { cell, draw: null };
    });
    return { row, cells, key: null, pick: null };
  },

  fill(line, item, index, now) {
    line.key = this.list.key(item);
    line.item = item;
    setAttribute(line.row, 'aria-rowindex', `${index + 2}`);
    setClass(line.row, this.list.chosen(item) ? 'is-chosen' : '');
    this.list.columns.forEach((column, at) => {
      const place = line.cells[at];
      const shape = column.cell(item, now);
      if (place.draw !== shape.draw) this.shapeCell(line, place, shape.draw);
      this.fillCell(place, shape);
    });
    if (line.pick) line.pick.tabIndex = -1;
  },

  shapeCell(line, place, draw) {
    place.draw = draw;
    place.cell.replaceChildren();
    if (draw === 'pick') {
      const button = el('button', 'pick');
      button.type = 'button';
      button.addEventListener('click', (clicked) => {
        this.active = line.key;
        this.list.choose(line.item);
        // From the keyboard one wants to read on there; with a mouse one sees it.
        if (clicked.detail === 0) byId('detail').querySelector('h2')?.focus();
      });
      place.cell.append(button);
      place.text = button;
      line.pick = button;
    } else if (draw === 'state') {
      place.mark = el('i', 'dot');
      place.mark.setAttribute('aria-hidden', 'true');
      place.text = el('span', '');
      place.whole = el('span', 'state', place.mark, place.text);
      place.cell.append(place.whole);
    } else if (draw === 'meter') {
      place.mark = el('i', '');
      place.mark.setAttribute('aria-hidden', 'true');
      place.text = el('b', '');
      place.whole = el('span', 'meter', place.mark, place.text);
      place.cell.append(place.whole);
    } else {
      place.text = place.cell;
    }
  },

  fillCell(place, shape) {
    if (shape.draw === 'state') {
      const state = STATE_WORDS.has(shape.value) ? shape.value : 'left';
      setClass(place.mark, `dot is-${state}`);
      setClass(place.whole, `state word-${state}`);
      setText(place.text, shape.word ?? shape.value);
      place.cell.title = shape.word ?? '';
    } else if (shape.draw === 'meter') {
      place.mark.style.setProperty('--part', `${shape.of ? shape.value / shape.of : 0}`);
      setClass(place.whole, `meter${shape.value === 0 ? ' is-none' : shape.value < shape.of ? ' is-some' : ''}`);
      setText(place.text, `${number(shape.value)} of ${number(shape.of)}`);
    } else {
      setText(place.text, shape.value);
      if (place.cell.title !== shape.value) place.cell.title = shape.value;
    }
  },

  /** Draws the rows that can be seen. */
  draw(now) {
    const hadFocus = this.body.contains(document.activeElement);
    const top = this.above.getBoundingClientRect().top;
    const n = this.items.length;
    const visible = Math.ceil(window.innerHeight / this.height);
    let begin = Math.floor(-top / this.height) - ROWS_AHEAD;
    begin = Math.max(0, Math.min(begin, n - visible));
    const end = Math.min(n, Math.max(begin, Math.floor(-top / this.height)) + visible + ROWS_AHEAD);
    while (this.pool.length < end - begin) {
      const line = this.row();
      this.pool.push(line);
      this.body.append(line.row);
    }
    while (this.pool.length > end - begin) this.pool.pop().row.remove();
    for (let at = begin; at < end; at += 1) this.fill(this.pool[at - begin], this.items[at], at, now);
    this.begin = begin;
    this.above.firstChild.firstChild.style.height = `${begin * this.height}px`;
    this.below.firstChild.firstChild.style.height = `${(n - end) * this.height}px`;
    setAttribute(this.table, 'aria-rowcount', `${n + 1}`);
    const at = this.pool.find((line) => line.key === this.active && line.pick) ?? this.pool.find((line) => line.pick);
    if (at) {
      at.pick.tabIndex = 0;
      // The row may be another's now; whoever reads stays with the one that was read.
      if (hadFocus && document.activeElement !== at.pick && at.key === this.active) at.pick.focus({ preventScroll: true });
    }
    const measured = this.pool[0]?.row.getBoundingClientRect().height;
    if (measured && Math.abs(measured - this.height) > 0.5) {
      this.height = measured;
      draw.soon();
    }
  },

  move(to, now) {
    if (this.items.length === 0) return;
    const index = Math.max(0, Math.min(this.items.length - 1, to));
    this.active = this.list.key(this.items[index]);
    const head = this.head.getBoundingClientRect();
    const covered = head.height + byId('lists').querySelector('.bar').getBoundingClientRect().height;
    const at = this.above.getBoundingClientRect().top + index * this.height;
    if (at < covered) window.scrollBy({ top: at - covered, behavior: 'instant' });
    else if (at + this.height > window.innerHeight) {
      window.scrollBy({ top: at + this.height - window.innerHeight, behavior: 'instant' });
    }
    this.draw(now);
    this.pool.find((line) => line.key === this.active)?.pick?.focus({ preventScroll: true });
  },

  keys(pressed) {
    if (pressed.ctrlKey || pressed.metaKey || pressed.altKey) return;
    const here = this.items.findIndex((item) => this.list.key(item) === this.active);
    const page = Math.max(1, Math.floor(window.innerHeight / this.height) - 4);
    const to = {
      ArrowDown: here + 1,
      ArrowUp: here - 1,
      PageDown: here + page,
      PageUp: here - page,
      Home: 0,
      End: this.items.length - 1,
    }[pressed.key];
    if (to === undefined || !this.body.contains(pressed.target)) return;
    pressed.preventDefault();
    this.move(to, draw.now);
  },
};

// ---------------------------------------------------------------------------------------------------------------------
// What is being looked at: the list, the filter, the order, and one thing.

const look = { list: 'members', filter: '', sort: null, isBack: false };
const chosen = { kind: null, key: null, story: null, of: null };

function readHash() {
  const [name, query] = location.hash.slice(1).split('?');
  if (Object.hasOwn(LISTS, name)) look.list = name;
  const given = new URLSearchParams(query ?? '');
  look.filter = given.get('q') ?? '';
  const kind = ['member', 'service', 'instance'].find((kind) => given.has(kind));
  chosen.kind = kind ?? null;
  chosen.key = kind ? given.get(kind) : null;
  chosen.story = null;
  if (kind === 'member' && link.word === 'live') readStory();
}

function writeHash() {
  const given = new URLSearchParams();
  if (look.filter) given.set('q', look.filter);
  if (chosen.kind) given.set(chosen.kind, chosen.key);
  const query = `${given}`;
  const hash = `#${look.list}${query ? `?${query}` : ''}`;
  if (location.hash !== hash) history.replaceState(null, '', hash);
}

function show(name) {
  look.list = name;
  look.sort = null;
  look.isBack = false;
  rows.active = null;
  writeHash();
  draw.at('look');
}

function filterBy(text) {
  look.filter = text;
  byId('filter').value = text;
  writeHash();
  draw.at('look');
}

function sortBy(index) {
  if (look.sort === index) look.isBack = !look.isBack;
  else [look.sort, look.isBack] = [index, false];
  draw.at('look');
}

function choose(kind, key) {
  [chosen.kind, chosen.key, chosen.story] = [kind, key, null];
  if (kind === 'member') readStory();
  writeHash();
  draw.at('look');
}

function unchoose() {
  const hadFocus = byId('detail').contains(document.activeElement);
  [chosen.kind, chosen.key, chosen.story] = [null, null, null];
  writeHash();
  draw.at('look');
  if (hadFocus) (rows.pool.find((line) => line.pick?.tabIndex === 0)?.pick ?? byId('filter')).focus();
}

let storyAsked = 0;

async function readStory() {
  const of = chosen.key;
  storyAsked += 1;
  const mine = storyAsked;
  let story;
  try {
    story = await read(`/members/${encodeURIComponent(of)}/explain`);
  } catch (error) {
    story = { trouble: why(error) };
  }
  if (chosen.kind === 'member' && chosen.key === of && mine === storyAsked) {
    // What was told stays, if only the last question failed.
    if (!story.trouble || !chosen.story?.story) chosen.story = story;
    draw.soon();
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Drawing.

const first = { isDone: false };

const draw = {
  timer: 0,
  last: 0,
  now: facts(),

  /** Draws when there is time, and not more often than anybody can read. */
  soon() {
    if (draw.timer) return;
    const wait = Math.max(0, draw.last + DRAW_EVERY - performance.now());
    draw.timer = setTimeout(() => {
      draw.timer = 0;
      // A page that nobody sees is drawn when it is seen.
      if (!document.hidden) draw.at('change');
    }, wait);
  },

  /** After a change of what is known everything follows anew; after one of what is looked at only the lists. */
  at(cause) {
    draw.last = performance.now();
    if (cause === 'change') draw.now = facts();
    const now = draw.now;
    drawLink();
    setText(byId('headline'), headline(now));
    drawTitle(now);
    drawNotices(now);
    drawTiles(now);
    drawMap(now);
    drawTabs(now);
    drawRows(now);
    drawDetail(now);
    say(headline(now));
    if (!first.isDone && known.readAt !== null) {
      first.isDone = true;
      performance.mark('tidings-drawn');
      requestAnimationFrame(() => setTimeout(() => performance.mark('tidings-seen')));
    }
  },
};

function drawTitle(now) {
  const off = known.members.size - now.states.reachable;
  const name = known.agent ? shown(known.agent.cluster) : 'tidings';
  const mark = link.word === 'lost' ? 'lost · ' : off > 0 ? `${number(off)} of ${number(known.members.size)} away · ` : '';
  const title = `${mark}${name}${known.agent ? ' · tidings' : ''}`;
  if (document.title !== title) document.title = title;
  setText(byId('cluster'), name);
  if (known.agent) {
    const own = known.agent.member;
    const zone = own.zone ? ` in ${shown(own.zone)}` : '';
    setText(byId('via'), `as ${shown(own.member)} sees it, at ${shown(own.addr)}${zone}`);
  }
}

function drawLink() {
  const word = { live: 'Live', lost: 'Lost', connecting: 'Connecting', token: 'Locked' }[link.word];
  setText(byId('link-word'), word);
  const since = link.heardAt === null ? null : performance.now() - link.heardAt;
  let words = '';
  if (link.word === 'live') {
    words = since < 1500 ? 'heard just now' : `heard ${span(since)} ago`;
  } else if (since !== null) {
    words = `last heard ${span(since)} ago`;
  }
  if (link.retryAt !== null && link.word === 'lost') {
    words += `${words ? ', ' : ''}next try in ${Math.max(1, Math.ceil((link.retryAt - performance.now()) / 1000))} s`;
  }
  setText(byId('link-age'), words);
  setClass(document.body, [`is-${link.word}`, isOld() ? 'is-stale' : '', chosen.kind ? 'has-detail' : ''].filter(Boolean).join(' '));
  const stamp = document.querySelector('[data-old]');
  if (stamp && known.readAt !== null) setText(stamp, span(performance.now() - known.readAt));
}

/** Each a key, by which one that is drawn already is known, and what it says. */
function notices(now) {
  const all = [];
  if (known.readAt !== null && link.word === 'lost') {
    all.push({ key: `lost ${link.trouble}`, grade: 'bad', title: 'The agent is lost: all of this is old', build: (box) => {
      const age = el('b', '', span(performance.now() - known.readAt));
      age.dataset.old = '';
      box.append(el('p', '', 'What stands here is what the agent knew ', age, ` ago. ${link.trouble ? `Last: ${link.trouble}.` : ''}`));
    } });
  } else if (known.readAt === null && link.word === 'lost') {
    all.push({ key: `never ${link.trouble}`, grade: 'bad', title: 'The agent does not answer', words: link.trouble ? `Last: ${link.trouble}.` : '' });
  }
  if (known.stopped !== null) {
    all.push({ key: `stopped ${known.stopped}`, grade: 'bad', title: 'The agent’s member has stopped', words: `${known.stopped}. What stands here is the last that it knew.` });
  } else if (known.agent?.isolated) {
    all.push({ key: 'isolated', grade: 'bad', title: 'This member is cut off from all others', words: 'Nobody answers it. What stands here is the last that it knew; it accuses nobody, and its last known good instances are kept for use.' });
  } else if (known.isStale) {
    all.push({ key: 'joining', grade: 'warn', title: 'This member has not joined yet', words: 'What it knows may lack a lot.' });
  }
  if (known.agent?.partition) {
    const split = sidesOf(now);
    all.push({ key: `split ${JSON.stringify(split)}`, grade: 'bad', title: 'A split of the network is suspected', build: (box) => buildSplit(box, split), beside: () => halves(split) });
  }
  const kept = now.services.filter((service) => service.kept > 0).map((service) => service.name).sort(order);
  if (kept.length > 0) {
    const total = now.services.reduce((sum, service) => sum + service.kept, 0);
    all.push({ key: `kept ${total} ${kept.join()}`, grade: 'warn', title: `${count(total, 'instance is', 'instances are')} kept as the last known good`, words: `So many were lost at once, without a word, that it is likelier that they cannot be seen from here: ${list(kept)}. Calls go to them once no healthy one is left.` });
  }
  if (known.agent?.draining) {
    all.push({ key: 'draining', grade: 'note', title: 'This member is draining', words: 'It takes nothing new, and leaves when its work has ended.' });
  }
  return all;
}

/** Who is on which side now: what the agent told of it is how it was when it first suspected it. */
function sidesOf(now) {
  const lost = [...known.members.values()].filter((member) => member.state !== 'reachable').map((member) => member.name).sort(order);
  const zones = [...now.zones.values()].map((zone) => [zone.name, { lost: zone.lost, kept: zone.members.length - zone.lost }]);
  zones.sort(([a], [b]) => order(a, b));
  return { lost: lost.length, kept: known.members.size - lost.length, names: lost.slice(0, NAMED_MAX), zones };
}

function buildSplit(box, split) {
  const names = split.lost > 0 ? ` (${split.names.join(', ')}${split.names.length < split.lost ? ', …' : ''})` : '';
  box.append(el('p', '',
    `${count(split.lost, 'member', 'members')} cannot be reached${names}; ${number(split.kept)} on this side can. `
    + 'Nobody is taken to be gone meanwhile, and both sides find each other again.'));
}

function halves(split) {
  const table = el('table', 'halves');
  const head = el('tr', '');
  for (const title of ['Zone', 'This side', 'Other side', '']) {
    const cell = el(title ? 'th' : 'td', '', title);
    if (title) cell.scope = 'col';
    head.append(cell);
  }
  const body = el('tbody', '');
  const line = (name, sides) => {
    const bar = el('span', 'sides');
    bar.setAttribute('aria-hidden', 'true');
    for (const side of ['kept', 'lost']) {
      if (!sides[side]) continue;
      const part = el('i', side);
      part.style.flexGrow = `${sides[side]}`;
      bar.append(part);
    }
    const row = el('th', '', name);
    row.scope = 'row';
    body.append(el('tr', '', row, el('td', '', number(sides.kept ?? 0)), el('td', '', number(sides.lost ?? 0)), el('td', '', bar)));
  };
  for (const [zone, sides] of split.zones) line(zone || '(no zone)', sides);
  if (split.zones.length !== 1) line('All', split);
  table.append(el('caption', 'unseen', 'The two sides by zone'), el('thead', '', head), body);
  return table;
}

function drawNotices(now) {
  const place = byId('notices');
  const wanted = notices(now);
  const there = new Map([...place.children].map((box) => [box.dataset.key, box]));
  const boxes = wanted.map((one) => {
    const box = there.get(one.key);
    if (box) return box;
    const words = el('div', '', el('h2', '', one.title));
    const fresh = el('section', `notice is-${one.grade}`, words);
    if (one.build) one.build(words);
    else if (one.words) words.append(el('p', '', one.words));
    if (one.beside) fresh.append(one.beside());
    fresh.dataset.key = one.key;
    return fresh;
  });
  if (boxes.length !== place.children.length || boxes.some((box, index) => place.children[index] !== box)) {
    place.replaceChildren(...boxes);
  }
}

const TILES = [
  { name: 'reachable', word: 'reachable', state: 'reachable', list: 'members', filter: 'state:reachable', value: (now) => now.states.reachable },
  { name: 'suspect', word: 'suspect', state: 'suspect', list: 'members', filter: 'state:suspect', value: (now) => now.states.suspect },
  { name: 'unreachable', word: 'unreachable', state: 'unreachable', list: 'members', filter: 'state:unreachable', value: (now) => now.states.unreachable },
  { name: 'down', word: 'down', state: 'down', list: 'members', filter: 'state:down', value: (now) => now.states.down },
  { name: 'services', word: 'services', list: 'services', filter: '', value: (now) => now.services.length },
  { name: 'out', word: 'instances out', list: 'instances', filter: 'state:out', value: (now) => now.instances.length - now.healthy },
];

function drawTiles(now) {
  const place = byId('tiles');
  if (place.children.length === 0) {
    for (const tile of TILES) {
      const button = el('button', 'tile', el('b', ''), el('span', '', tile.state ? dot(tile.state) : null, tile.word));
      button.type = 'button';
      button.addEventListener('click', () => {
        const isOn = look.list === tile.list && look.filter === tile.filter && tile.filter !== '';
        look.list = tile.list;
        look.sort = null;
        rows.active = null;
        filterBy(isOn ? '' : tile.filter);
      });
      place.append(el('li', '', button));
    }
  }
  TILES.forEach((tile, index) => {
    const button = place.children[index].firstChild;
    const value = tile.value(now);
    setText(button.firstChild, known.readAt === null ? '–' : number(value));
    setClass(button, `tile${value === 0 ? ' is-none' : ''}`);
    if (tile.filter) setAttribute(button, 'aria-pressed', `${look.list === tile.list && look.filter === tile.filter}`);
  });
}

function drawMap(now) {
  const place = byId('zones');
  const size = known.members.size;
  byId('map').hidden = size === 0;
  setClass(byId('map'), `map${size > 400 ? ' is-crowd' : size > 80 ? ' is-many' : ''}`);
  const zones = [...now.zones.values()].sort((a, b) => (a.name === '') - (b.name === '') || order(a.name, b.name));
  while (place.children.length > zones.length) place.lastChild.remove();
  while (place.children.length < zones.length) {
    const name = el('th', '', el('b', ''), el('span', ''));
    name.scope = 'row';
    const dots = el('div', 'dots');
    // The list below says the same in words; here it is only to be seen, and to be clicked.
    dots.setAttribute('aria-hidden', 'true');
    place.append(el('tr', '', name, el('td', '', el('span', 'unseen'), dots)));
  }
  zones.forEach((zone, index) => {
    const row = place.children[index];
    setText(row.firstChild.firstChild, zone.name || '(no zone)');
    const away = zone.lost > 0 ? `, ${number(zone.lost)} away` : '';
    setText(row.firstChild.lastChild, `${count(zone.members.length, 'member', 'members')}${away}`);
    setClass(row.firstChild.lastChild, zone.lost > 0 ? 'bad' : '');
    const [words, dots] = row.lastChild.children;
    const states = STATES.map((state) => [state, zone.members.filter((member) => member.state === state).length]);
    setText(words, states.filter(([, many]) => many > 0).map(([state, many]) => `${many} ${state}`).join(', '));
    zone.members.sort((a, b) => order(a.name, b.name));
    while (dots.children.length > zone.members.length) dots.lastChild.remove();
    while (dots.children.length < zone.members.length) dots.append(el('i', 'dot'));
    let at = dots.firstChild;
    for (const member of zone.members) {
      const isChosen = chosen.kind === 'member' && chosen.key === member.id;
      setClass(at, `dot is-${member.state}${member.isSelf ? ' is-self' : ''}${isChosen ? ' is-chosen' : ''}`);
      if (at.dataset.id !== member.id) at.dataset.id = member.id;
      const title = `${member.name}, ${member.state}`;
      if (at.title !== title) at.title = title;
      at = at.nextSibling;
    }
  });
}

function drawTabs(now) {
  const place = byId('tabs');
  if (place.children.length === 0) {
    for (const [name, list] of Object.entries(LISTS)) {
      const tab = el('button', '', list.word, el('span', ''));
      tab.type = 'button';
      tab.id = `tab-${name}`;
      tab.setAttribute('role', 'tab');
      tab.setAttribute('aria-controls', 'panel');
      tab.addEventListener('click', () => show(name));
      place.append(tab);
    }
    place.addEventListener('keydown', (pressed) => {
      const tabs = [...place.children];
      const here = tabs.indexOf(document.activeElement);
      const to = { ArrowRight: here + 1, ArrowLeft: here - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[pressed.key];
      if (here < 0 || to === undefined) return;
      pressed.preventDefault();
      const tab = tabs[to % tabs.length];
      tab.focus();
      tab.click();
    });
  }
  const sizes = { members: known.members.size, services: now.services.length, instances: now.instances.length, events: known.events.length };
  for (const tab of place.children) {
    const name = tab.id.slice(4);
    setAttribute(tab, 'aria-selected', `${name === look.list}`);
    tab.tabIndex = name === look.list ? 0 : -1;
    setText(tab.lastChild, known.readAt === null ? '' : ` ${number(sizes[name])}`);
  }
  setAttribute(byId('panel'), 'aria-labelledby', `tab-${look.list}`);
}

function drawRows(now) {
  const list = LISTS[look.list];
  if (rows.list !== list) rows.build(look.list);
  const isWanted = wanted(look.filter);
  const all = list.rows(now);
  const items = look.filter ? all.filter((item) => isWanted(list.fields(item))) : [...all];
  if (look.list !== 'events') {
    const column = look.sort === null ? list.columns[0] : list.columns[look.sort];
    const back = look.isBack ? -1 : 1;
    const byName = list.columns[1].sort;
    items.sort((a, b) => back * column.sort(a, b, now) || byName(a, b) || (list.key(a) < list.key(b) ? -1 : 1));
  }
  const cut = items.length > ROWS_MAX;
  rows.items = cut ? items.slice(0, ROWS_MAX) : items;
  [...rows.head.firstChild.children].forEach((cell, index) => {
    const isSorted = look.list !== 'events' && index === (look.sort ?? 0);
    setAttribute(cell, 'aria-sort', isSorted ? (look.isBack ? 'descending' : 'ascending') : null);
  });
  const found = look.filter ? `${number(items.length)} of ${number(all.length)}` : '';
  setText(byId('found'), cut ? `${found || number(items.length)}, the first ${number(ROWS_MAX)} shown` : found);
  const empty = byId('empty');
  empty.hidden = items.length > 0;
  rows.table.hidden = items.length === 0;
  if (items.length === 0) {
    setText(empty, known.readAt === null ? 'Waiting for the agent.' : all.length > 0 ? 'Nothing meets the filter.' : list.nothing);
  } else {
    rows.draw(now);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// One thing: a member with its story, a service, or an instance.

function pairs(all) {
  const place = el('dl', 'facts');
  for (const [name, value, className] of all) {
    if (value === '' || value === null || value === undefined) continue;
    place.append(el('dt', '', name), el('dd', className ?? '', value));
  }
  return place;
}

function reference(text, act) {
  const button = el('button', 'plain', text);
  button.type = 'button';
  button.addEventListener('click', act);
  return button;
}

function offers(all, label) {
  const place = el('ul', 'offers');
  for (const instance of all.slice(0, OFFERS_MAX)) {
    place.append(el('li', '', reference(label(instance), () => choose('instance', instance.key)), stateWord(instance.state, instanceWord(instance))));
  }
  return place;
}

function more(all, filter) {
  if (all.length <= OFFERS_MAX) return null;
  return reference(`All ${number(all.length)} in the list`, () => {
    look.list = 'instances';
    filterBy(filter);
  });
}

const byWorst = (a, b) => worst(a.state) - worst(b.state) || order(a.id, b.id);

function detailOfMember(now) {
  const member = known.members.get(chosen.key);
  if (!member) return { title: 'Gone', parts: [el('p', 'sum', 'This member has left, or was forgotten.')] };
  const told = chosen.story;
  const mine = now.instances.filter((instance) => instance.memberId === member.id).sort(byWorst);
  const heard = member.isSelf ? 'it is the one that is asked' : member.heard === null ? 'never heard directly' : `heard ${age(member)} ago`;
  const parts = [el('p', 'sum', stateWord(member.state), el('span', 'quiet', ` ${heard}`))];
  parts.push(pairs([
    ['Address', member.addr, 'is-code'],
    ['Zone', member.zone],
    ['Round trip', typeof told?.rtt_us === 'number' ? `${(told.rtt_us / 1000).toFixed(told.rtt_us < 10000 ? 2 : 0)} ms` : ''],
    ['Verdict', told?.finding ? shown(told.finding) + (told.by ? ` by ${shown(told.by)}` : '') : ''],
    ['Witnesses', told?.by && typeof told.witnesses === 'number' ? number(told.witnesses) : ''],
    ['Id', member.id, 'is-code'],
    ['Life', member.generation],
    ['Software', member.software],
  ]));
  parts.push(el('h3', '', 'How it came to that'));
  if (!told) parts.push(el('p', 'quiet', 'Asking'));
  else if (told.trouble) parts.push(el('p', 'quiet', shown(told.trouble)));
  else if ((told.story ?? []).length === 0) parts.push(el('p', 'quiet', 'Nothing else was seen of it.'));
  else {
    const story = el('ol', 'story');
    for (const step of [...told.story].reverse()) {
      story.append(el('li', '', el('span', '', `${span(Number(step.ago_ms) || 0)} ago`), el('span', '', shown(step.what))));
    }
    parts.push(story);
  }
  parts.push(el('h3', '', mine.length > 0 ? `Its instances, ${number(mine.length)}` : 'It offers nothing'));
  if (mine.length > 0) parts.push(offers(mine, (instance) => instance.id), more(mine, `member:${member.name}`));
  return { title: member.name, parts };
}

function detailOfService(now) {
  const service = now.services.find((service) => service.key === chosen.key);
  if (!service) return { title: 'Gone', parts: [el('p', 'sum', 'Nobody offers this service any more.')] };
  const mine = now.instances.filter((instance) => instance.service === service.name).sort(byWorst);
  const grade = service.healthy === 0 ? 'critical' : service.healthy < service.all ? 'warning' : 'passing';
  const parts = [el('p', 'sum', stateWord(grade, `${number(service.healthy)} of ${number(service.all)} get calls`))];
  parts.push(pairs([
    ['Kept', service.kept ? `${number(service.kept)} as the last known good` : ''],
    ['Versions', [...service.versions].sort(order).join(', ')],
  ]));
  if (service.tags.size > 0) parts.push(el('h3', '', 'Tags'), chips([...service.tags].sort(order)));
  parts.push(el('h3', '', 'Its instances'), offers(mine, (instance) => `${instance.address} on ${instance.member.name}`), more(mine, `service:${service.name}`));
  return { title: service.name, parts };
}

const chips = (all) => el('ul', 'chips', ...all.map((text) => el('li', '', text)));

function detailOfInstance(now) {
  const instance = now.instances.find((instance) => instance.key === chosen.key);
  if (!instance) return { title: 'Gone', parts: [el('p', 'sum', 'This instance is not offered any more.')] };
  const parts = [el('p', 'sum', stateWord(instance.state, instanceWord(instance)), el('span', 'quiet', instance.out === null ? ' gets calls' : instance.isKept ? ' gets calls once no healthy one is left' : ' gets none'))];
  parts.push(pairs([
    ['Service', reference(instance.service, () => choose('service', instance.service))],
    ['Member', reference(instance.member.name, () => choose('member', instance.memberId))],
    ['Heard', instance.member.isSelf ? '' : instance.member.heard === null ? 'never directly' : `${age(instance.member)} ago`],
    ['Address', instance.address, 'is-code'],
    ['Status', instance.status + (instance.reason ? `: ${instance.reason}` : '')],
    ['Weight', number(instance.weight)],
    ['Version', instance.version],
    ['Zone', instance.zone || instance.member.zone],
    ['Group', instance.group],
    ['Namespace', instance.namespace],
    ['Protocol', instance.protocol],
  ]));
  if (instance.tags.length > 0) parts.push(el('h3', '', 'Tags'), chips(instance.tags));
  const meta = metaOf(instance);
  if (meta.length > 0) parts.push(el('h3', '', 'Metadata'), pairs(meta.map(([key, value]) => [key, value || '(empty)', 'is-code'])));
  return { title: instance.id, parts };
}

function drawDetail(now) {
  const place = byId('detail');
  place.hidden = chosen.kind === null;
  if (chosen.kind === null) {
    place.replaceChildren();
    chosen.drawn = null;
    return;
  }
  const { title, parts } = { member: detailOfMember, service: detailOfService, instance: detailOfInstance }[chosen.kind](now);
  const body = el('div', '', ...parts);
  const same = `${chosen.kind} ${chosen.key}`;
  if (chosen.drawn === same) {
    setText(byId('detail-title'), title);
    // Whoever reads in it, or stands on a button of it, is not disturbed by what did not change.
    const old = place.lastChild;
    if (old.isEqualNode(body)) return;
    const focused = [...old.querySelectorAll('button')].indexOf(document.activeElement);
    place.replaceChild(body, old);
    if (focused >= 0) body.querySelectorAll('button')[focused]?.focus({ preventScroll: true });
    return;
  }
  chosen.drawn = same;
  const heading = el('h2', '', title);
  heading.id = 'detail-title';
  heading.tabIndex = -1;
  const close = el('button', 'close', 'Close');
  close.type = 'button';
  close.addEventListener('click', unchoose);
  place.replaceChildren(el('div', 'detail-head', heading, close), body);
  place.scrollTop = 0;
}

// ---------------------------------------------------------------------------------------------------------------------
// What is said aloud: how the cluster stands, when that has changed, and not every moment.

const said = { last: '', at: -Infinity, timer: 0 };

function say(sentence) {
  const now = `${link.word === 'lost' ? 'The agent is lost. ' : ''}${sentence}`;
  if (known.readAt === null || now === said.last || said.timer) return;
  const wait = Math.max(1000, said.at + SAY_EVERY - performance.now());
  said.timer = setTimeout(() => {
    said.timer = 0;
    const latest = `${link.word === 'lost' ? 'The agent is lost. ' : ''}${headline(draw.now)}`;
    if (latest === said.last) return;
    said.last = latest;
    said.at = performance.now();
    setText(byId('said'), latest);
  }, wait);
}

// ---------------------------------------------------------------------------------------------------------------------

function begin() {
  readHash();
  byId('filter').value = look.filter;
  byId('filter').addEventListener('input', (typed) => filterBy(typed.target.value));
  byId('zones').addEventListener('click', (clicked) => {
    const id = clicked.target.dataset?.id;
    if (id) choose('member', id);
  });
  rows.table.addEventListener('keydown', (pressed) => rows.keys(pressed));
  rows.table.addEventListener('focusin', (entered) => {
    const line = rows.pool.find((line) => line.pick === entered.target);
    if (line) rows.active = line.key;
  });
  document.addEventListener('keydown', (pressed) => {
    const inText = pressed.target.matches?.('input');
    if (pressed.key === '/' && !inText && !pressed.ctrlKey && !pressed.metaKey && !byId('ask').open) {
      pressed.preventDefault();
      byId('filter').focus();
    } else if (pressed.key === 'Escape' && !byId('ask').open) {
      if (inText && look.filter) filterBy('');
      else if (chosen.kind) unchoose();
    }
  });
  // There is nothing to see without one.
  byId('ask').addEventListener('cancel', (cancelled) => cancelled.preventDefault());
  let scrolled = false;
  const scroll = () => {
    if (scrolled) return;
    scrolled = true;
    requestAnimationFrame(() => {
      scrolled = false;
      if (rows.list && rows.items.length > 0) rows.draw(draw.now);
    });
  };
  // The head of the list stands below the bar, whose height is the browser's to say.
  const bar = document.querySelector('.bar');
  new ResizeObserver(() => byId('lists').style.setProperty('--bar', `${bar.offsetHeight}px`)).observe(bar);
  window.addEventListener('scroll', scroll, { passive: true });
  window.addEventListener('resize', scroll);
  window.addEventListener('hashchange', () => {
    readHash();
    byId('filter').value = look.filter;
    draw.at('look');
  });
  draw.at('change');
  keepReading();
  stayConnected();
}

begin();
