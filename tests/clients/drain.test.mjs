// A deploy as clients see it: wsd lets them go with a hint, another one takes its place, and they are back, but not before the hint.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import WebSocket from 'ws';

import { reconnecting, wait } from '../../examples/reconnecting.mjs';
import { within } from './deadline.mjs';
import { launch, newPage } from './browser.mjs';
import { startWsd } from './wsd.mjs';

const DRAIN = ['--drain-grace', '0', '--drain-spread', '0', '--drain-retry', '1500ms'];

// Timers count in whole milliseconds, and begin a little after the event that is noted down.
const CLOCK_MS = 3;

/** Whoever was told to come back came, and not too early: `tale` has what happened to the sockets of one client, in order. */
function assertCameBack(tale) {
  const [first, told, second] = tale;
  assert.deepEqual([first.event, told.event, second.event], ['connect', 'close', 'connect']);
  assert.equal(told.code, 1012, told.reason);
  const hint = Number(/^server is restarting, retry=(\d+)$/.exec(told.reason)[1]);
  assert.ok(hint >= 750 && hint <= 2250, told.reason);
  const waited = second.at - told.at;
  assert.ok(waited >= hint - CLOCK_MS, `back after ${waited} ms, told to wait ${hint} ms`);
}

/** Drains wsd and puts another one in its place. */
async function deploy(t, wsd) {
  assert.equal(await wsd.stop('SIGTERM'), 0);
  const next = await startWsd(DRAIN, { port: wsd.port });
  t.after(() => next.stop('SIGKILL'));
}

test('the chat page comes back after a drain, not before the hint, and goes on', async (t) => {
  const wsd = await startWsd(DRAIN);
  t.after(() => wsd.stop('SIGKILL'));
  const page = await newPage(await launch(t));
  await page.addInitScript(() => {
    window.tale = [];
    const note = (event, more) => window.tale.push({ event, at: performance.now(), ...more });
    window.WebSocket = class extends WebSocket {
      constructor(...args) {
        note('connect');
        super(...args);
        this.addEventListener('close', ({ code, reason }) => note('close', { code, reason }));
      }
    };
  });
  await page.goto(`http://localhost:${wsd.port}/`);
  await page.fill('#name', 'Ann');
  await page.click('#enter');
  const online = () => page.locator('#status[data-state=online]').waitFor({ timeout: 20_000 });
  await online();
  await deploy(t, wsd);
  await page.locator('#bar').waitFor();
  await online();
  assertCameBack(await page.evaluate(() => window.tale));
  await page.fill('#message', 'after the deploy');
  await page.click('#send');
  await page.locator('.msg.own[data-state=delivered]', { hasText: 'after the deploy' }).waitFor();
});

test('the reconnecting client of the examples comes back after a drain, not before the hint', async (t) => {
  const wsd = await startWsd(DRAIN);
  t.after(() => wsd.stop('SIGKILL'));
  const tale = [];
  const note = (event, more) => tale.push({ event, at: performance.now(), ...more });
  class Socket extends WebSocket {
    constructor(url) {
      note('connect');
      super(url);
    }
  }
  let opened;
  const opens = () => within(new Promise((resolve) => (opened = resolve)), 'connection of the client');
  const first = opens();
  let heard;
  const client = reconnecting(`${wsd.url}echo`, {
    Socket,
    onopen: () => opened(),
    onmessage: (event) => heard(event.data),
    onclose: ({ code, reason }) => note('close', { code, reason }),
  });
  t.after(() => client.close());
  await first;
  const second = opens();
  await deploy(t, wsd);
  assert.equal(client.send('too early'), false);
  await second;
  assertCameBack(tale);
  const echo = within(new Promise((resolve) => (heard = resolve)), 'echo');
  assert.equal(client.send('after the deploy'), true);
  assert.equal(await echo, 'after the deploy');
});

test('waits grow, are random, and are never shorter than the hint of a code that may give one', () => {
  const waits = (attempt, close) => Array.from({ length: 1000 }, () => wait(attempt, close));
  for (const [attempt, most] of [[0, 1000], [3, 8000], [10, 30_000]]) {
    const some = waits(attempt, { code: 1006, reason: '' });
    assert.ok(Math.max(...some) < most && Math.max(...some) > most / 2 && Math.min(...some) < most / 2);
    assert.ok(Math.min(...waits(attempt, { code: 1012, reason: 'retry=60000' })) >= 60_000);
    assert.ok(Math.max(...waits(attempt, { code: 1011, reason: 'retry=60000' })) < most);
  }
});
