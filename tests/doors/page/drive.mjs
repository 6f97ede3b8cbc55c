// What the page must show, in a browser. Every check is a sentence that can be false.

import { chromium } from 'playwright-core';
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';
import { StandIn, madeUp } from './stand-in.mjs';

const { TIDINGS, WORK, SHOTS, CHROMIUM, PAGE } = process.env;
const FIRST = Number(process.env.TIDINGS_TEST_PORT ?? 18700);
const HOSTILE = '<img src=x onerror=alert(1)>';
const AXE = fs.readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
/** A crash is on the page within this time, in milliseconds. */
const SEEN_WITHIN = 2000;
/** A thousand members are drawn within this time. */
const DRAWN_WITHIN = 200;
const DESK = { width: 1440, height: 900 };
const PHONE = { width: 390, height: 844 };

const running = [];
const figures = {};

function check(isTrue, sentence) {
  if (!isTrue) throw new Error(`NOT TRUE: ${sentence}`);
  console.log(`ok: ${sentence}`);
}

async function until(what, within, sentence) {
  const began = performance.now();
  for (;;) {
    const found = await what();
    if (found) return performance.now() - began;
    if (performance.now() - began > within) throw new Error(`NOT TRUE within ${within} ms: ${sentence}`);
    await new Promise((done) => setTimeout(done, 15));
  }
}

function agent(n, more = [], name = `node-${n}`) {
  const args = ['node', '--name', name, '--cluster', 'page', '--zone', `z${n % 2}`, '--bind', `127.0.0.1:${FIRST + 100 + n}`, '--http', `127.0.0.1:${FIRST + n}`, '--output', 'jsonl', ...more];
  const log = fs.openSync(path.join(WORK, `node-${n}.log`), 'a');
  const child = spawn(TIDINGS, args, { stdio: ['ignore', log, log] });
  running.push(child);
  return { child, url: `http://127.0.0.1:${FIRST + n}` };
}

const kill = (node) => new Promise((done) => {
  node.child.once('exit', done);
  node.child.kill('SIGKILL');
});

async function json(url) {
  try {
    return await (await fetch(url)).json();
  } catch {
    return null;
  }
}

/** A page of its own browser context, with whatever went wrong in it. */
async function open(browser, url, { dark = false, size = DESK, bypass = false } = {}) {
  const context = await browser.newContext({ viewport: size, colorScheme: dark ? 'dark' : 'light', bypassCSP: bypass, hasTouch: size === PHONE, isMobile: size === PHONE, deviceScaleFactor: size === PHONE ? 2 : 1 });
  const page = await context.newPage();
  page.wrong = [];
  await page.addInitScript(() => {
    globalThis.notReloaded = Math.random();
    document.addEventListener('securitypolicyviolation', (told) => console.error(`policy: ${told.violatedDirective} ${told.blockedURI}`));
  });
  page.on('console', (line) => line.type() === 'error' && page.wrong.push(line.text()));
  page.on('pageerror', (error) => page.wrong.push(String(error)));
  page.on('dialog', (dialog) => {
    page.wrong.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  await page.goto(`${url}/ui/`);
  return page;
}

const live = (page) => page.waitForFunction(() => document.body.classList.contains('is-live'), null, { timeout: 10000 });
const headline = (page) => page.locator('#headline').textContent();

async function accessible(page, what) {
  await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] }));
  const told = violations.map((one) => `${one.id}: ${one.nodes.slice(0, 3).map((node) => `${node.html} (${node.failureSummary})`).join(' | ')}`);
  check(told.length === 0, `axe finds nothing wrong with ${what}${told.length ? `: ${told.join('; ')}` : ''}`);
}

async function aCluster(browser) {
  const join = ['--join', `127.0.0.1:${FIRST + 100}`];
  const nodes = [
    agent(0, ['--service', 'name=web,addr=127.0.0.1:8080,tag=v1']),
    agent(1, [...join, '--service', `name=${HOSTILE},addr=127.0.0.1:8081,tag=${HOSTILE},meta.x=${HOSTILE}`], HOSTILE),
    agent(2, [...join, '--service', 'name=web,addr=127.0.0.1:8082,tag=v1']),
  ];
  await until(async () => (await json(`${nodes[0].url}/v2/view`))?.instances?.length === 3, 20000, 'three agents find each other');
  const answer = await fetch(`${nodes[0].url}/`, { headers: { accept: 'text/html' }, redirect: 'manual' });
  check(answer.status === 307 && answer.headers.get('location') === 'ui/', 'a browser that asks for / is sent to the page');
  check((await fetch(`${nodes[0].url}/`)).status === 404, 'anybody else finds nothing at /');
  const files = await fetch(`${nodes[0].url}/ui/`);
  check(files.headers.get('content-security-policy').startsWith("default-src 'none'"), 'the page comes with its policy');
  const again = await fetch(`${nodes[0].url}/ui/page.js`, { headers: { 'if-none-match': (await fetch(`${nodes[0].url}/ui/page.js`)).headers.get('etag') } });
  check(again.status === 304, 'a file that is known is not sent again');

  const page = await open(browser, nodes[0].url);
  await live(page);
  await page.waitForFunction(() => document.querySelectorAll('#table tbody:not(.space) tr').length === 3);
  check((await headline(page)).startsWith('All 3 members are reachable; all 3 instances get calls'), 'the headline tells how three members stand');
  const marker = await page.evaluate(() => globalThis.notReloaded);
  check((await page.locator('#table').textContent()).includes(HOSTILE), 'a hostile name stands there as text');
  check(await page.evaluate(() => document.querySelectorAll('img').length) === 1, 'a hostile name makes no element');

  // The kill: from the signal to the row.
  const began = performance.now();
  await kill(nodes[2]);
  await page.waitForFunction(() => [...document.querySelectorAll('#table tbody:not(.space) tr')].some((row) => /node-2/.test(row.textContent) && /suspect|unreachable|down/.test(row.textContent)), null, { timeout: 10000, polling: 20 });
  figures['a kill is seen after, ms'] = Math.round(performance.now() - began);
  check(figures['a kill is seen after, ms'] < SEEN_WITHIN, `a kill is on the page within ${SEEN_WITHIN} ms`);
  check(await page.evaluate(() => globalThis.notReloaded) === marker, 'the page was not loaded again for that');

  await page.locator('.pick', { hasText: 'node-2' }).click();
  await page.waitForFunction(() => document.querySelectorAll('#detail .story li').length > 0);
  check((await page.locator('#detail').textContent()).includes('How it came to that'), 'a member that is chosen tells its story');
  await page.locator('#tab-instances').click();
  await page.locator('.pick', { hasText: HOSTILE }).first().click();
  check((await page.locator('#detail .chips').textContent()) === HOSTILE, 'a hostile tag stands there as text');
  await page.locator('#tab-events').click();
  check((await page.locator('#table').textContent()).includes('member changed'), 'the events are listed');
  check(page.wrong.length === 0, `no error and no breach of the policy: ${page.wrong.join('; ')}`);

  // The agent itself goes, and comes back.
  await kill(nodes[0]);
  await page.waitForFunction(() => document.body.classList.contains('is-stale') && /The agent is lost/.test(document.getElementById('notices').textContent), null, { timeout: 5000 });
  check(true, 'a page whose agent is gone says so, and that all is old');
  check((await headline(page)).startsWith('When last known: '), 'nor does the headline speak of now');
  agent(0, ['--join', `127.0.0.1:${FIRST + 101}`]);
  await page.waitForFunction(() => document.body.classList.contains('is-live') && !document.body.classList.contains('is-stale') && document.getElementById('notices').children.length === 0, null, { timeout: 20000 });
  check(await page.evaluate(() => globalThis.notReloaded) === marker, 'it goes on by itself once the agent is back');
  const other = page.wrong.filter((line) => !/ERR_(CONNECTION|INCOMPLETE|EMPTY)|net::/.test(line));
  check(other.length === 0, `nothing but the lost connection was an error: ${other.join('; ')}`);
  await page.context().close();
}

async function aSplit(browser) {
  const nodes = [10, 11, 12, 13, 14, 15].map((n) => agent(n, ['--join', `127.0.0.1:${FIRST + 110}`, '--service', `name=web,addr=127.0.0.1:${9000 + n}`]));
  await until(async () => (await json(`${nodes[0].url}/v2/view`))?.instances?.length === 6, 20000, 'six agents find each other');
  const page = await open(browser, nodes[0].url);
  await live(page);
  // The other zone falls silent at once, as behind a cable that is cut.
  const other = nodes.filter((_, n) => n % 2 === 1);
  other.forEach((node) => node.child.kill('SIGSTOP'));
  await page.waitForFunction(() => [...document.querySelectorAll('.halves tbody tr')].map((row) => row.textContent).join() === 'z030,z103,All33', null, { timeout: 20000 });
  check(true, 'a split between two zones is shown with its sides');
  await page.waitForFunction(() => /last known good/.test(document.getElementById('notices').textContent));
  check(true, 'instances that are kept as the last known good are shown as such');
  await page.screenshot({ path: path.join(SHOTS, 'real-split.png') });
  other.forEach((node) => node.child.kill('SIGCONT'));
  await page.waitForFunction(() => document.getElementById('notices').children.length === 0 && /^All 6 members/.test(document.getElementById('headline').textContent), null, { timeout: 60000 });
  check(true, 'and that it is over');
  check(page.wrong.length === 0, `no error and no breach of the policy: ${page.wrong.join('; ')}`);
  await page.context().close();
  await Promise.all(nodes.map(kill));
}

async function aToken(browser) {
  const file = path.join(WORK, 'tokens');
  fs.writeFileSync(file, '0123456789abcdef read\n', { mode: 0o600 });
  const node = agent(5, ['--http-tokens', file]);
  await until(async () => (await json(`${node.url}/livez`)) === null && (await fetch(`${node.url}/livez`).catch(() => null))?.ok, 20000, 'an agent with tokens starts');
  check((await fetch(`${node.url}/v2/view`)).status === 401, 'the interface wants a token');
  check((await fetch(`${node.url}/ui/`)).status === 200, 'the page itself wants none');
  check((await fetch(`${node.url}/ui/`, { headers: { origin: 'https://evil.example' } })).status === 403, 'a page of somebody else cannot have it');
  const page = await open(browser, node.url);
  await page.waitForSelector('#ask[open]');
  await page.screenshot({ path: path.join(SHOTS, 'token.png') });
  await page.fill('#ask-token', 'a token that is wrong'.replaceAll(' ', '-'));
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => /not known/.test(document.getElementById('ask-wrong').textContent));
  await page.fill('#ask-token', '0123456789abcdef');
  await page.keyboard.press('Enter');
  await live(page);
  check(await page.evaluate(() => localStorage.length === 0 && document.cookie === '' && sessionStorage.length === 1), 'the token is kept in this tab alone');
  const other = page.wrong.filter((line) => !line.includes('401'));
  check(other.length === 0, `nothing but the refusals was an error: ${other.join('; ')}`);
  await page.context().close();
}

async function aThousand(browser) {
  const standIn = new StandIn(PAGE, madeUp(1000));
  const url = await standIn.listen();
  const times = [];
  for (let round = 0; round < 5; round += 1) {
    const page = await open(browser, url);
    await live(page);
    await page.waitForFunction(() => performance.getEntriesByName('tidings-seen').length > 0);
    times.push(await page.evaluate(() => {
      const at = (name) => performance.getEntriesByName(name)[0].startTime;
      return { drawn: at('tidings-drawn') - at('tidings-answered'), seen: at('tidings-seen') - at('tidings-answered') };
    }));
    await page.context().close();
  }
  const sorted = (name) => times.map((time) => Math.round(time[name])).sort((a, b) => a - b);
  figures['1,000 members drawn after, ms, five times'] = sorted('drawn').join(' ');
  figures['1,000 members on the screen after, ms, five times'] = sorted('seen').join(' ');
  // The middle one: others may be building on this machine.
  check(sorted('seen')[2] < DRAWN_WITHIN, `a thousand members, from the answer to the screen, take less than ${DRAWN_WITHIN} ms: ${JSON.stringify(times)}`);

  const page = await open(browser, url);
  await live(page);
  const drawn = () => page.evaluate(() => document.querySelectorAll('#table tbody:not(.space) tr').length);
  check(await drawn() < 100, 'only the rows near the screen are there');
  await page.evaluate(() => window.scrollTo(0, document.body.scrollHeight));
  await page.waitForFunction(() => /node-1000/.test(document.getElementById('table').textContent));
  figures['rows in the page at the end of the list'] = await drawn();
  const frames = await page.evaluate(async () => {
    const gaps = [];
    let last = performance.now();
    for (let at = document.body.scrollHeight; at > 0; at -= 900) {
      window.scrollTo(0, at);
      await new Promise((done) => requestAnimationFrame(done));
      gaps.push(performance.now() - last);
      last = performance.now();
    }
    return gaps.sort((a, b) => a - b);
  });
  figures['a frame while scrolling, ms, p95'] = Math.round(frames[Math.floor(frames.length * 0.95)]);
  await page.evaluate(() => window.scrollTo(0, 0));

  // By keyboard alone.
  await page.locator('#table .pick[tabindex="0"]').focus();
  await page.keyboard.press('End');
  check((await page.evaluate(() => document.activeElement.closest('tr').getAttribute('aria-rowindex'))) === '1001', 'End goes to the last of a thousand');
  await page.keyboard.press('Home');
  await page.keyboard.press('ArrowDown');
  check((await page.evaluate(() => document.activeElement.closest('tr').getAttribute('aria-rowindex'))) === '3', 'Home and Down go to the second');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => document.activeElement.id === 'detail-title');
  await page.keyboard.press('Escape');
  check((await page.evaluate(() => document.activeElement.className)) === 'pick', 'Escape goes back to where one was in the list');
  await page.keyboard.press('/');
  await page.keyboard.type('zone:us-east-1a state:reachable');
  check((await page.locator('#found').textContent()) === '200 of 1,000', 'the filter finds a zone');
  await page.keyboard.press('Escape');

  // A burst: every member changes twice.
  const began = performance.now();
  standIn.turn(standIn.members.slice(1), 'suspect');
  standIn.turn(standIn.members.slice(1), 'reachable');
  standIn.turn(standIn.members.slice(500, 520), 'unreachable');
  await page.waitForFunction(() => /^20 unreachable of 1,000/.test(document.getElementById('headline').textContent));
  figures['a burst of 2,018 events is shown after, ms'] = Math.round(performance.now() - began);
  check(page.wrong.length === 0, `no error and no breach of the policy: ${page.wrong.join('; ')}`);

  // Cut off from all others, and back; then the agent stands still, with every connection open.
  standIn.isolated = true;
  standIn.say('isolated', {});
  await page.waitForFunction(() => /cut off from all others/.test(document.getElementById('notices').textContent) && document.body.classList.contains('is-stale'));
  check(true, 'a member that is cut off is shown as such, and what it knows as old');
  standIn.isolated = false;
  standIn.say('rejoined', {});
  await page.waitForFunction(() => document.getElementById('notices').children.length === 0 && !document.body.classList.contains('is-stale'));
  standIn.isFrozen = true;
  await page.waitForFunction(() => document.body.classList.contains('is-lost'), null, { timeout: 20000 });
  await page.waitForFunction(() => /last heard \d+ s ago/.test(document.getElementById('link-age').textContent));
  check(true, 'an agent that stands still is lost, and it is told since when');
  standIn.isFrozen = false;
  await live(page);
  check(true, 'and found again when it goes on');
  await page.context().close();
  standIn.turn(standIn.members, 'reachable');
  await pictures(browser, standIn, url);
  standIn.close();
}

async function pictures(browser, standIn, url) {
  // Something is always a little wrong in a cluster of that size.
  const some = (from, to, state) => standIn.turn(standIn.members.slice(from, to), state);
  some(13, 14, 'suspect');
  some(407, 409, 'unreachable');
  some(630, 631, 'down');
  for (const instance of standIn.instances.filter((instance) => instance.record.service === 'thumbnails').slice(0, 9)) {
    instance.record.status = { state: 'critical' };
    instance.healthy = false;
    instance.out = 'critical';
  }
  for (const [scheme, dark] of [['light', false], ['dark', true]]) {
    const page = await open(browser, url, { dark, bypass: true });
    await live(page);
    await page.locator('.pick', { hasText: 'node-0408' }).click();
    await page.waitForSelector('#detail .story li');
    await accessible(page, `a member and its story, ${scheme}`);
    await page.screenshot({ path: path.join(SHOTS, `member-${scheme}.png`) });
    for (const tab of ['services', 'instances', 'events']) {
      await page.locator(`#tab-${tab}`).click();
      if (tab === 'events') {
        some(700, 702, 'suspect');
        some(700, 701, 'unreachable');
        some(700, 702, 'reachable');
      }
      if (tab === 'services') await page.locator('.pick', { hasText: 'thumbnails' }).click();
      await page.waitForTimeout(150);
      await accessible(page, `the list of ${tab}, ${scheme}`);
      await page.screenshot({ path: path.join(SHOTS, `${tab}-${scheme}.png`) });
    }
    await page.locator('.close').click();
    await page.locator('#tab-members').click();
    await page.screenshot({ path: path.join(SHOTS, `glance-${scheme}.png`) });
    standIn.split(['us-east-1a', 'us-east-1b']);
    await page.waitForSelector('.halves');
    await page.waitForFunction(() => /last known good/.test(document.getElementById('notices').textContent));
    await accessible(page, `a split, ${scheme}`);
    await page.screenshot({ path: path.join(SHOTS, `split-${scheme}.png`) });
    await page.context().close();
    const phone = await open(browser, url, { dark, size: PHONE, bypass: true });
    await live(phone);
    await phone.waitForSelector('.halves');
    check(await phone.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth), `nothing is wider than a phone, ${scheme}`);
    await accessible(phone, `a phone, ${scheme}`);
    await phone.screenshot({ path: path.join(SHOTS, `phone-${scheme}.png`) });
    await phone.evaluate(() => document.getElementById('lists').scrollIntoView());
    await phone.locator('.pick').nth(3).click();
    await phone.waitForSelector('#detail .story li');
    await phone.screenshot({ path: path.join(SHOTS, `phone-member-${scheme}.png`) });
    await phone.context().close();
    standIn.split([]);
    some(13, 14, 'suspect');
    some(407, 409, 'unreachable');
    some(630, 631, 'down');
  }
}

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });
const only = process.env.ONLY ?? 'cluster split token thousand';
try {
  if (only.includes('cluster')) await aCluster(browser);
  if (only.includes('split')) await aSplit(browser);
  if (only.includes('token')) await aToken(browser);
  if (only.includes('thousand')) await aThousand(browser);
  console.log(JSON.stringify(figures, null, 1));
  console.log('the page does what it must');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  await browser.close();
  running.forEach((child) => child.kill('SIGKILL'));
}
