// wsd with TLS: node's `ws`, the chat page and tutorial 004's page in Chromium, with an authority of the test's own.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { once } from 'node:events';
import { test } from 'node:test';

import { WebSocket } from 'ws';

import { launch, newPage, watch } from './browser.mjs';
import { certificates } from './certificates.mjs';
import { within } from './deadline.mjs';
import { codeBlock } from './tutorials.mjs';
import { startWsd } from './wsd.mjs';

async function serve(t, args = []) {
  const tls = certificates(t);
  const wsd = await startWsd(['--threads', '2', ...args], { tls });
  t.after(() => wsd.stop('SIGKILL'));
  return { wsd, tls };
}

for (const version of ['TLSv1.2', 'TLSv1.3']) {
  test(`ws over ${version}: every size comes back, and the Close`, async (t) => {
    const { wsd, tls } = await serve(t);
    const options = { ca: readFileSync(tls.ca), minVersion: version, maxVersion: version };
    const socket = new WebSocket(`${wsd.url}echo`, options);
    const opened = once(socket, 'open');
    const [response] = await within(once(socket, 'upgrade'), 'the upgrade');
    assert.equal(response.socket.getProtocol(), version);
    assert.equal(response.socket.authorized, true);
    await within(opened, 'the open socket');
    for (const size of [0, 1, 125, 126, 16_384, 65_536, 1_048_576]) {
      const sent = Buffer.alloc(size, 'x');
      socket.send(sent);
      const [got] = await within(once(socket, 'message'), `an echo of ${size} bytes`);
      assert.ok(sent.equals(got));
    }
    socket.close(1000, 'enough');
    const [code] = await within(once(socket, 'close'), 'the close');
    assert.equal(code, 1000);
  });
}

test('ws refuses a certificate that it does not know', async (t) => {
  const { wsd } = await serve(t);
  const socket = new WebSocket(wsd.url);
  const [error] = await within(once(socket, 'error'), 'the refusal');
  assert.match(error.code, /UNABLE_TO_VERIFY|SELF_SIGNED/);
});

test('the chat page over https: two people', async (t) => {
  const { wsd, tls } = await serve(t);
  const browser = await launch(t, { pin: tls.pin });
  const people = [];
  for (const name of ['Ann', 'Ben']) {
    const page = await newPage(browser);
    const watched = watch(page);
    await page.goto(`https://localhost:${wsd.port}/`);
    await page.fill('#name', name);
    await page.click('#enter');
    await page.locator('#status[data-state=online]').waitFor();
    people.push({ page, watched });
  }
  for (const [{ page }, text] of [[people[0], 'Hello, is anyone there?'], [people[1], 'Grüße, 世界 👋']]) {
    await page.fill('#message', text);
    await page.click('#send');
    for (const each of people) await each.page.locator('.msg', { has: each.page.getByText(text, { exact: true }) }).waitFor();
  }
  for (const { watched } of people) {
    assert.ok(watched.urls.some((url) => url.startsWith(`wss://localhost:${wsd.port}/`)), watched.urls.join(' '));
    assert.deepEqual(watched.errors, []);
  }
});

test('004: the page over https, two people', async (t) => {
  const { wsd, tls } = await serve(t, ['--app', 'chat']);
  // The page is the tutorial's own but for the scheme, without which a page from https may not connect.
  const html = codeBlock('004', 'html', /Setting Up the WebSocket Client/);
  const secured = html.replaceAll('ws://localhost:8080', `wss://localhost:${wsd.port}`);
  assert.notEqual(secured, html);
  const server = createServer({ cert: readFileSync(tls.cert), key: readFileSync(tls.key) }, (_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html', Connection: 'close' }).end(secured);
  });
  server.listen(0, 'localhost');
  await once(server, 'listening');
  t.after(() => server.close());
  const browser = await launch(t, { pin: tls.pin });
  const pages = [];
  for (let count = 0; count < 2; count += 1) {
    const page = await newPage(browser);
    const watched = watch(page);
    await page.goto(`https://localhost:${server.address().port}/`);
    await watched.sees('Connected to WebSocket server');
    await page.locator('#messages > div').first().waitFor();
    pages.push(page);
  }
  await pages[0].fill('#messageInput', 'Hello, is anyone there?');
  await pages[0].click('#sendButton');
  for (const page of pages) {
    await page.locator('#messages > div').nth(1).waitFor();
    assert.deepEqual(await page.locator('#messages > div').allTextContents(), [
      '{"type":"welcome","message":"Welcome to the chat!"}',
      'Hello, is anyone there?',
    ]);
  }
  assert.equal(await wsd.stop(), 0);
});
