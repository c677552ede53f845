// The tutorials' pages and browser code in Chromium, exactly as the documents have them, with wsd in place of the tutorial's server:
// opened, typed into, clicked and read as a person would. Their other programs: `tutorial-clients.test.mjs`.

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { pathToFileURL } from 'node:url';

import { launch, newPage, watch } from './browser.mjs';
import { codeBlock } from './tutorials.mjs';
import { startWsd } from './wsd.mjs';

const WELCOME = '{"type":"welcome","message":"Welcome to the chat!"}';

/** Starts wsd, and a browser for which it is at `address`, the one written into the page. */
async function serve(t, { address = 'localhost:8080', args }) {
  const wsd = await startWsd(args);
  t.after(() => wsd.stop('SIGKILL'));
  const browser = await launch(t, { resolve: { [address]: wsd.port } });
  return { wsd, browser };
}

/** Saves a page to a file of its own: its file:// address. */
function saved(t, html) {
  const folder = mkdtempSync(join(tmpdir(), 'wsd-page-'));
  t.after(() => rmSync(folder, { recursive: true }));
  const file = join(folder, 'client.html');
  writeFileSync(file, html);
  return pathToFileURL(file).href;
}

/** Serves a page over HTTP from a port of its own: its address. */
async function hosted(t, html) {
  const server = createServer((_, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html', Connection: 'close' }).end(html);
  });
  server.listen(0, 'localhost');
  await once(server, 'listening');
  t.after(() => server.close());
  return `http://localhost:${server.address().port}/`;
}

/** Opens a page and waits for its console lines; then wsd stops, and the page says `last`. */
async function consoleOf(t, { wsd, browser, url, lines, last }) {
  const page = await newPage(browser);
  const watched = watch(page);
  await page.goto(url);
  for (const line of lines) await watched.sees(line);
  assert.equal(await wsd.stop(), 0);
  await watched.sees(last);
  assert.deepEqual(watched.lines, [...lines, last]);
}

const scriptOnly = (code) => `<!DOCTYPE html><meta charset="utf-8"><script>${code}</script>`;

test('000: the page, opened from a file', async (t) => {
  const reply = 'Hello from server, you said: "{}"';
  const args = ['--app', 'echo', '--greeting', 'Welcome to the WebSocket server!', '--reply', reply];
  await consoleOf(t, {
    ...(await serve(t, { args })),
    url: saved(t, codeBlock('000', 'html', /Client Code/)),
    lines: [
      'Connected to server',
      'Message from server: Welcome to the WebSocket server!',
      'Message from server: Hello from server, you said: "Hello from client!"',
    ],
    last: 'Disconnected from server',
  });
});

test('001: the browser client', async (t) => {
  await consoleOf(t, {
    ...(await serve(t, { args: ['--app', 'echo', '--reply', 'Received {}'] })),
    url: saved(t, scriptOnly(codeBlock('001', 'javascript', /Running from Browser/))),
    lines: ['✅ Connected to local server', '📨 Server says: Received Hello from browser!'],
    last: '❌ Disconnected',
  });
});

test('002: the browser client', async (t) => {
  const args = ['--app', 'sink', '--greeting', 'Hello Client!', '--path', '/socket'];
  await consoleOf(t, {
    ...(await serve(t, { address: 'example.com:80', args })),
    url: saved(t, scriptOnly(codeBlock('002', 'javascript', /Client-Side/))),
    lines: ['WebSocket connection established', 'Message from server: Hello Client!'],
    last: 'WebSocket connection closed',
  });
});

for (const [how, addressOf] of [['over http', hosted], ['from a file', saved]]) {
  test(`004: two people chat, the page opened ${how}`, async (t) => {
    const { wsd, browser } = await serve(t, { args: ['--app', 'chat', '--threads', '2'] });
    const url = await addressOf(t, codeBlock('004', 'html', /Setting Up the WebSocket Client/));
    const ann = await chatPage(browser, url);
    const ben = await chatPage(browser, url);

    const said = [];
    for (const [speaker, text] of [[ann, 'Hello, is anyone there?'], [ben, '<b>x</b> & <img src=x>'], [ann, 'Grüße, 世界 👋']]) {
      await speaker.page.fill('#messageInput', text);
      await speaker.page.click('#sendButton');
      assert.equal(await speaker.page.inputValue('#messageInput'), '');
      said.push(text);
      for (const { page } of [ann, ben]) await page.locator('#messages > div').nth(said.length).waitFor();
    }
    for (const { page } of [ann, ben]) {
      assert.deepEqual(await page.locator('#messages > div').allTextContents(), [WELCOME, ...said]);
      assert.equal(await page.locator('#messages > div *').count(), 0, 'what looks like markup is text');
    }

    assert.equal(await wsd.stop(), 0);
    for (const { watched } of [ann, ben]) {
      await watched.sees('Disconnected from WebSocket server');
      assert.deepEqual(watched.errors, []);
    }
  });
}

async function chatPage(browser, url) {
  const page = await newPage(browser);
  const watched = watch(page);
  await page.goto(url);
  await watched.sees('Connected to WebSocket server');
  await page.locator('#messages > div').first().waitFor();
  return { page, watched };
}
