// The chat page of wsd in Chromium: what people do with it, what other programs may send to it, and what it does when the server goes.

import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';

import { launch, newPage, watch } from './browser.mjs';
import { connect } from './peer.mjs';
import { startWsd } from './wsd.mjs';

const FILE = new URL('../../src/http/chat.html', import.meta.url);

// 2 x 1 pixels, where it is an image.
const PNG = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAIAAAABCAIAAAB7QOjdAAAAD0lEQVR4nGP438HA0PEfAAq4Aw9TXMNRAAAAAElFTkSuQmCC', 'base64');
const GIF = Buffer.from('R0lGODlhAgABAIAAAP8AAAAA/yH5BAAAAAAALAAAAAACAAEAAAICRAoAOw==', 'base64');
const SVG = Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="2" height="1"><script>document.title = "run"</script></svg>');

/** What the page calls its messages. */
const ID = /^[0-9a-f]{24}$/;

/** wsd, a browser, and the address of the page. */
async function serve(t) {
  const wsd = await startWsd(['--threads', '2']);
  t.after(() => wsd.stop('SIGKILL'));
  const browser = await launch(t);
  return { wsd, browser, url: `http://localhost:${wsd.port}/` };
}

/** Opens the page as somebody new and waits until it is online. */
async function join(browser, url, name, options) {
  const page = await newPage(browser, options);
  const watched = watch(page);
  await page.goto(url);
  await page.fill('#name', name);
  await page.click('#enter');
  await state(page, 'online');
  // The lobby greets; rooms do not.
  if (!url.includes('?')) await page.locator('[data-kind=system]').first().waitFor();
  return Object.assign(page, { watched });
}

/** Another program in the lobby, greeted. */
async function program(wsd) {
  const peer = await connect(`${wsd.url}chat`);
  assert.equal(await peer.next(), '{"type":"welcome","message":"Welcome to the chat!"}');
  return peer;
}

// The page itself waits for up to 30 seconds between two tries.
const state = (page, name) => page.locator(`#status[data-state=${name}]`).waitFor({ timeout: 45_000 });

async function say(page, text) {
  await page.fill('#message', text);
  await page.click('#send');
}

/** The message with exactly this text; waits for it. */
async function message(page, text) {
  const found = page.locator('.msg', { has: page.getByText(text, { exact: true }) });
  await found.waitFor();
  return found;
}

const named = (page, name) => page.locator('#me-name').getByText(name, { exact: true }).waitFor();

const delivered = (page) => page.locator('.msg.own[data-state=delivered]');

/** Waits until an image is shown, decoded: `{width, height, src}`. */
async function shown(image) {
  await image.waitFor();
  return image.evaluate(async (node) => {
    await node.decode();
    return { width: node.naturalWidth, height: node.naturalHeight, src: node.src };
  });
}

/** An image message taken apart: its header and the image's bytes. */
function unpack(bytes) {
  assert.equal(bytes.subarray(0, 4).toString(), 'wsd1');
  const end = 6 + bytes.readUInt16BE(4);
  return { header: JSON.parse(bytes.subarray(6, end).toString()), image: bytes.subarray(end) };
}

test('the page is one file, and its policy names the script and the style that are in it', async (t) => {
  const html = readFileSync(FILE, 'utf8');
  const policy = /http-equiv="Content-Security-Policy" content="([^"]*)"/.exec(html)[1];
  for (const kind of ['script', 'style']) {
    const blocks = [...html.matchAll(new RegExp(`<${kind}>(.*?)</${kind}>`, 'gs'))];
    assert.equal(blocks.length, 1);
    const hash = createHash('sha256').update(blocks[0][1]).digest('base64');
    assert.ok(policy.includes(`${kind}-src 'sha256-${hash}';`), `chat.html was changed: its policy needs ${kind}-src 'sha256-${hash}'`);
  }
  assert.match(policy, /default-src 'none';.*connect-src 'self';.*trusted-types 'none'/);
  assert.doesNotMatch(html, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(/);
  const references = [...html.matchAll(/\b(?:src|href)="([^"]*)"/g)].map((match) => match[1]);
  assert.deepEqual(references.filter((each) => !/^(#|data:image\/svg)/.test(each)), []);

  const wsd = await startWsd([]);
  t.after(() => wsd.stop('SIGKILL'));
  const response = await fetch(`http://localhost:${wsd.port}/`);
  assert.match(response.headers.get('content-type'), /^text\/html; *charset=utf-8$/i);
  assert.equal(await response.text(), html);
});

test('two people talk, and nothing leaves the page but to its own server', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const ann = await join(browser, url, 'Ann');
  assert.equal(await ann.locator('[data-kind=system]').textContent(), 'Welcome to the chat!');
  const ben = await join(browser, url, 'Ben');
  await message(ann, '\u2068Ben\u2069 joined');

  await say(ann, 'Hello <b>Ben</b> & <img src=x onerror="document.title=1"> see https://example.com/a?b=1.');
  await delivered(ann).waitFor();
  const received = ben.locator('.msg[data-kind=chat]');
  await received.waitFor();
  assert.equal(await received.locator('.who').textContent(), 'Ann');
  assert.equal(
    await received.locator('.text').textContent(),
    'Hello <b>Ben</b> & <img src=x onerror="document.title=1"> see https://example.com/a?b=1.',
  );
  assert.equal(await received.locator('b, img').count(), 0);
  const link = received.locator('.text a');
  assert.equal(await link.getAttribute('href'), 'https://example.com/a?b=1');
  assert.equal(await link.getAttribute('rel'), 'noopener noreferrer nofollow');
  assert.match(await received.locator('time').textContent(), /^\d{1,2}:\d\d$/);

  // Enter sends, Shift+Enter is a new line.
  await ben.locator('#message').pressSequentially('one');
  await ben.keyboard.press('Shift+Enter');
  await ben.locator('#message').pressSequentially('two');
  await ben.keyboard.press('Enter');
  await message(ann, 'one\ntwo');
  assert.equal(await ben.inputValue('#message'), '');
  assert.equal(await ann.locator('.msg:not(.own)[data-kind=chat]').count(), 1);
  assert.equal(await ann.locator('.msg.own').count(), 1, 'the echo is not shown again');

  for (const { watched } of [ann, ben]) {
    assert.deepEqual(watched.errors, []);
    const elsewhere = watched.urls.filter((each) => each !== url && each !== `ws://localhost:${wsd.port}/chat`);
    assert.deepEqual(elsewhere.filter((each) => !/^(data|blob):/.test(each)), []);
  }
});

test('the name is asked for once, remembered, and can be changed', async (t) => {
  const { browser, url } = await serve(t);
  const ann = await join(browser, url, '  Ann\u202e  Bo ');
  await named(ann, 'Ann Bo');
  await ann.reload();
  await state(ann, 'online');
  assert.equal(await ann.locator('#hello').isVisible(), false);
  await ann.click('#me');
  await ann.fill('#name', 'Anna');
  await ann.keyboard.press('Enter');
  await named(ann, 'Anna');
  await ann.click('#me');
  await ann.fill('#name', 'Nobody');
  await ann.keyboard.press('Escape');
  await ann.locator('#hello').waitFor({ state: 'hidden' });
  const watching = await join(browser, url, 'Ben');
  await say(ann, 'still me');
  assert.equal(await (await message(watching, 'still me')).locator('.who').textContent(), 'Anna');

  // Whoever wants no name gets one.
  const guest = await newPage(browser);
  await guest.goto(url);
  await guest.keyboard.press('Escape');
  await guest.locator('#hello').waitFor({ state: 'hidden' });
  await named(guest, /^Guest \d{3}$/);
});

test('it works where storage is blocked', async (t) => {
  const { browser, url } = await serve(t);
  const page = await newPage(browser);
  const watched = watch(page);
  await page.addInitScript(() => {
    Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('blocked', 'SecurityError'); } });
  });
  await page.goto(url);
  await page.fill('#name', 'Ann');
  await page.click('#enter');
  await state(page, 'online');
  await say(page, 'hello');
  await delivered(page).waitFor();
  // To another room and back, the name stays.
  await page.fill('#room', 'blue');
  await page.keyboard.press('Enter');
  await state(page, 'online');
  await named(page, 'Ann');
  assert.deepEqual(watched.errors, []);
});

test('images go as one binary message: chosen, pasted, or dropped', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const peer = await program(wsd);
  const ann = await join(browser, url, 'Ann');
  const ben = await join(browser, url, 'Ben');
  for (const name of ['Ann', 'Ben']) {
    const { id, ...notice } = JSON.parse(await peer.next());
    assert.match(id, ID);
    assert.deepEqual(notice, { type: 'join', name });
  }

  await ann.setInputFiles('#file', { name: 'two.png', mimeType: 'image/png', buffer: PNG });
  await ann.locator('#tray img').waitFor();
  await say(ann, 'and a word');
  const { src, ...size } = await shown(ben.locator('.msg[data-kind=image] img'));
  assert.deepEqual(size, { width: 2, height: 1 });
  assert.match(src, /^blob:/);
  assert.equal(await ben.locator('.msg[data-kind=image] .who').textContent(), 'Ann');
  await message(ben, 'and a word');
  const { header, image } = unpack(await peer.next());
  assert.deepEqual(Object.keys(header), ['id', 'name', 'type', 'time']);
  assert.deepEqual([header.name, header.type], ['Ann', 'image/png']);
  assert.deepEqual(image, PNG);
  await peer.next(); // the word

  for (const event of ['paste', 'drop']) {
    await ann.evaluate(([type, bytes]) => {
      const transfer = new DataTransfer();
      transfer.items.add(new File([new Uint8Array(bytes)], 'two.gif', { type: 'image/gif' }));
      const init = { bubbles: true, cancelable: true };
      const pasted = () => new ClipboardEvent(type, { ...init, clipboardData: transfer });
      const dropped = () => new DragEvent(type, { ...init, dataTransfer: transfer });
      document.getElementById('message').dispatchEvent(type === 'paste' ? pasted() : dropped());
    }, [event, [...GIF]]);
    await ann.locator('#tray img').waitFor();
    await ann.click('#send');
    assert.equal(unpack(await peer.next()).header.type, 'image/gif');
  }
  await ann.locator('.msg.own[data-state=delivered]').nth(3).waitFor();

  // In full size, and back.
  await ben.locator('.msg[data-kind=image] button').first().click();
  assert.equal((await shown(ben.locator('#view'))).width, 2);
  assert.match(await ben.getAttribute('#save', 'download'), /^image\.png$/);
  await ben.keyboard.press('Escape');
  await ben.locator('#viewer').waitFor({ state: 'hidden' });
  assert.deepEqual([...ann.watched.errors, ...ben.watched.errors], []);
});

test('a large photo is made to fit, and what is no image is refused', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const peer = await program(wsd);
  const ann = await join(browser, url, 'Ann');
  await peer.next(); // Ann joins

  // Noise is the worst case for every encoder.
  const size = await ann.evaluate(async () => {
    const canvas = new OffscreenCanvas(1800, 1200);
    const context = canvas.getContext('2d');
    const pixels = context.createImageData(1800, 1200);
    for (let at = 0; at < pixels.data.length; at += 65_536) crypto.getRandomValues(pixels.data.subarray(at, at + 65_536));
    context.putImageData(pixels, 0, 0);
    const blob = await canvas.convertToBlob({ type: 'image/jpeg', quality: 0.95 });
    const transfer = new DataTransfer();
    transfer.items.add(new File([blob], 'noise.jpg', { type: 'image/jpeg' }));
    document.getElementById('message').dispatchEvent(new ClipboardEvent('paste', { bubbles: true, cancelable: true, clipboardData: transfer }));
    return blob.size;
  });
  assert.ok(size > 1024 * 1024, `${size} bytes`);
  await ann.locator('#tray img').waitFor({ timeout: 30_000 });
  await ann.click('#send');
  const { header, image } = unpack(await peer.next());
  assert.ok(image.length <= 900 * 1024, `${image.length} bytes`);
  assert.equal(header.type, 'image/webp');
  const ben = await join(browser, url, 'Ben');
  peer.ws.send(image); // as another program would send it
  const { width, height } = await shown(ben.locator('.msg[data-kind=image] img'));
  assert.ok(width <= 1600 && Math.abs(width / height - 1.5) < 0.01, `${width} x ${height}`);

  await ann.setInputFiles('#file', { name: 'notes.png', mimeType: 'image/png', buffer: Buffer.from('no picture') });
  await ann.getByText('notes.png: not an image this browser can read.').waitFor();
  assert.equal(await ann.locator('#tray img').count(), 0);
});

test('what other programs send is shown as what it is', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const peer = await program(wsd);
  const ann = await join(browser, url, 'Ann');

  /** Sends it, and reads the newest message: `[kind, author, text]`. */
  const show = async (data) => {
    const count = await ann.locator('.msg').count();
    peer.ws.send(data);
    const newest = ann.locator('.msg').nth(count);
    await newest.waitFor();
    const [kind, author, text] = [newest.getAttribute('data-kind'), newest.locator('.who bdi'), newest.locator('.text')];
    return [await kind, await author.textContent(), await text.textContent()];
  };
  assert.deepEqual(await show('alice: hello: you'), ['text', 'alice', 'hello: you']);
  assert.deepEqual(await show('just words, http://x'), ['text', 'Someone', 'just words, http://x']);
  assert.deepEqual(await show('{broken'), ['text', 'Someone', '{broken']);
  assert.deepEqual(await show('{"user":"bot","message":"<i>done</i>"}'), ['json', 'bot', '<i>done</i>']);
  assert.deepEqual(await show('{"n":[1]}'), ['json', 'Someone', '{\n  "n": [\n    1\n  ]\n}']);
  assert.deepEqual(await show('{"type":"chat","name":7,"text":{}}'), ['json', 'Someone', '{\n  "type": "chat",\n  "name": 7,\n  "text": {}\n}']);
  assert.deepEqual(await show('{"type":"chat","name":"Eve","text":"javascript:alert(1)"}'), ['chat', 'Eve', 'javascript:alert(1)']);
  assert.deepEqual(await show(Buffer.from('bytes: of text')), ['text', 'bytes', 'of text']);
  assert.deepEqual(await show(Buffer.from([0, 255, 1])), ['binary', 'Someone', '3 bytes\n00 ff 01']);
  const bomb = Buffer.from(PNG).fill(0x7f, 16, 24); // says that it is 2 million pixels wide and high
  assert.deepEqual((await show(bomb)).slice(0, 2), ['binary', 'Someone']);
  // The same again is a message again: an id means something only in the page's own.
  for (let n = 0; n < 2; n += 1) assert.deepEqual(await show('{"id":"7","text":"tick"}'), ['json', 'Someone', 'tick']);
  assert.deepEqual(await show(Buffer.from('wsd1\xff\xff{', 'latin1')), ['binary', 'Someone', '7 bytes\n77 73 64 31 ff ff 7b']);
  // An SVG is a program: it stays text, whatever it is called.
  const disguised = Buffer.concat([Buffer.from('wsd1\0\x14{"type":"image/png"}'), SVG]);
  for (const data of [SVG, disguised]) await show(data);
  assert.equal(await ann.locator('.msg img').count(), 0);

  peer.ws.send(PNG);
  assert.equal((await shown(ann.locator('.msg[data-kind=image] img'))).width, 2);
  assert.equal(await ann.locator('.text a[href^="javascript"], .text i').count(), 0);
  assert.notEqual(await ann.title(), 'run');

  // And what the page sends is easy to read for them.
  await say(ann, 'over');
  let sent;
  do sent = await peer.next(); while (!sent.includes('"over"'));
  const { id, time, ...rest } = JSON.parse(sent);
  assert.deepEqual(rest, { type: 'chat', name: 'Ann', text: 'over' });
  assert.match(id, ID);
  assert.ok(Math.abs(Date.now() - time) < 60_000);
  assert.deepEqual(ann.watched.errors, []);
});

test('rooms are apart, and one can change between them', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const ann = await join(browser, `${url}?room=blue%2Fsky%20%E2%98%80`, 'Ann');
  const ben = await join(browser, url, 'Ben');
  assert.equal(await ann.textContent('#title'), 'blue/sky ☀');
  assert.ok(ann.watched.urls.includes(`ws://localhost:${wsd.port}/rooms/blue%2Fsky%20%E2%98%80`));

  await say(ann, 'only blue');
  await delivered(ann).waitFor();
  await say(ben, 'only lobby');
  await delivered(ben).waitFor();
  assert.equal(await ben.getByText('only blue').count(), 0);

  await ben.fill('#room', '#blue/sky ☀');
  await ben.keyboard.press('Enter');
  await message(ann, '\u2068Ben\u2069 joined');
  assert.equal(await ben.getByText('only lobby').count(), 0, 'another room, another list');
  assert.equal(new URL(ben.url()).searchParams.get('room'), 'blue/sky ☀');
  await say(ann, 'welcome');
  await message(ben, 'welcome');
  assert.equal(await ann.getByText('only lobby').count(), 0);

  await ben.goBack();
  await state(ben, 'online');
  assert.equal(await ben.textContent('#title'), 'Lobby');
  await ann.click('#rooms button:has-text("Lobby")');
  await message(ben, '\u2068Ann\u2069 joined');
  assert.deepEqual([...ann.watched.errors, ...ben.watched.errors], []);
});

test('the server is stopped and started again: the page says so, comes back, and nothing written meanwhile is lost', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const ann = await join(browser, url, 'Ann');
  const ben = await join(browser, url, 'Ben');
  await say(ann, 'before');
  await message(ben, 'before');

  assert.equal(await wsd.stop(), 0);
  for (const page of [ann, ben]) await page.locator('#bar').waitFor();
  await ann.locator('#status', { hasText: /^Reconnecting in \d+ s · attempt [2-9]$/ }).waitFor({ timeout: 20_000 });
  await say(ann, 'in between');
  await ann.locator('.msg.own[data-state=queued]', { hasText: 'in between' }).waitFor();

  const again = await startWsd([], { port: wsd.port });
  t.after(() => again.stop('SIGKILL'));
  // One is in a hurry, the other waits its turn.
  await ben.locator('#retry').click({ timeout: 2_000 }).catch(() => {});
  for (const page of [ben, ann]) await state(page, 'online');
  await ann.locator('[data-kind=system]', { hasText: /^Back online\./ }).waitFor();
  await delivered(ann).nth(1).waitFor();
  assert.equal(await ann.locator('#bar').isVisible(), false);
  await say(ben, 'after');
  await message(ann, 'after');
  assert.equal(await ann.getByText('joined').count(), 1, 'who comes back has not joined anew');
});

test('the wait grows from try to try, at random, and is never shorter than the server asks for', async (t) => {
  const { browser, url } = await serve(t);
  const page = await newPage(browser);
  await page.clock.install({ time: 0 });
  await page.clock.pauseAt(1_000);
  let opens = 0;
  let answer = (socket) => socket.close({ code: 1012, reason: 'restart retry=3120' });
  await page.routeWebSocket('**/chat', (socket) => {
    opens += 1;
    answer(socket);
  });
  // The longest wait that chance allows; `random` stays below 1.
  await page.addInitScript(() => (Math.random = () => 0.999));
  await page.goto(url);
  await page.fill('#name', 'Ann');
  await page.click('#enter');

  await page.getByText('Reconnecting in 4 s', { exact: true }).waitFor();
  await page.clock.runFor(3_000);
  assert.equal(opens, 1);
  answer = (socket) => socket.close({ code: 1011, reason: 'retry=60000' }); // no code that may ask for it
  const waits = [2, 4, 8, 16, 30, 30];
  let elapsed = 120;
  for (const [index, seconds] of waits.entries()) {
    await page.clock.runFor(elapsed);
    await page.getByText(`Reconnecting in ${seconds} s · attempt ${index + 2}`, { exact: true }).waitFor();
    assert.equal(opens, index + 2);
    elapsed = seconds * 1000;
  }
  answer = () => {};
  await page.click('#retry');
  await state(page, 'online');
  // A connection that lasts makes it start anew.
  await page.clock.runFor(11_000);
  assert.equal(await page.locator('#bar').isVisible(), false);
});

test('what was not confirmed is sent again, under the same id; what was refused is not', async (t) => {
  const { browser, url } = await serve(t);
  const page = await newPage(browser);
  const received = [];
  // To each message the next one, so that it does not matter when the page is looked at.
  const echo = (socket, text) => socket.send(text);
  const answers = [(socket) => socket.close({ code: 1011 }), echo, (socket) => socket.close({ code: 1009 })];
  await page.routeWebSocket('**/chat', (socket) => {
    socket.onMessage((text) => {
      const value = JSON.parse(text);
      if (value.type !== 'chat') return;
      answers[received.push(value) - 1](socket, text);
    });
  });
  // The shortest waits between two tries.
  await page.addInitScript(() => (Math.random = () => 0));
  await page.goto(url);
  await page.fill('#name', 'Ann');
  await page.click('#enter');
  await state(page, 'online');
  await say(page, 'swallowed at first');
  await delivered(page).waitFor();
  assert.equal(received.length, 2);
  assert.deepEqual(received[0], received[1]);

  await say(page, 'too much');
  const failed = page.locator('.msg[data-state=failed]');
  await failed.getByText('The server refused it (1009).').waitFor();
  await state(page, 'online');
  assert.equal(received.length, 3);
  await failed.getByRole('button', { name: 'Delete' }).click();
  assert.equal(await page.getByText('too much').count(), 0);
});

test('the list is bounded, and does not move under those who read', async (t) => {
  const { wsd, browser, url } = await serve(t);
  const page = await join(browser, url, 'Ann');
  const peer = await program(wsd);
  for (let n = 1; n <= 700; n += 1) peer.ws.send(`ben: message ${n}`);
  await message(page, 'message 700');
  assert.ok((await page.locator('.msg').count()) <= 500);
  assert.equal(await page.locator('#newer').isVisible(), false);

  await page.locator('#messages').evaluate((list) => (list.scrollTop -= 600));
  await page.locator('#newer').waitFor();
  const before = await page.locator('#messages').evaluate((list) => list.scrollTop);
  peer.ws.send('ben: down here');
  await page.locator('#newer', { hasText: '1 new message' }).waitFor();
  assert.ok((await page.locator('#messages').evaluate((list) => list.scrollTop)) <= before);
  await page.click('#newer');
  await page.locator('#newer').waitFor({ state: 'hidden' });
  const rest = await page.locator('#messages').evaluate((list) => list.scrollHeight - list.scrollTop - list.clientHeight);
  assert.ok(rest < 2, `${rest} pixels from the end`);

  // Unread messages of a window in the background.
  const hide = (hidden) => page.evaluate((value) => {
    Object.defineProperty(document, 'hidden', { value, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'));
  }, hidden);
  await hide(true);
  peer.ws.send('ben: are you there?');
  await page.waitForFunction(() => document.title === '(1) Lobby · wsd chat');
  await hide(false);
  assert.equal(await page.title(), 'Lobby · wsd chat');
});

test('on a phone the rooms are behind the menu, and nothing is wider than the screen', async (t) => {
  const { browser, url } = await serve(t);
  const page = await join(browser, url, 'Ann', { viewport: { width: 360, height: 640 }, isMobile: true, hasTouch: true });
  assert.equal(await page.locator('#side').isVisible(), false);
  await page.tap('#menu');
  await page.fill('#room', 'x'.repeat(60));
  await page.keyboard.press('Enter');
  await state(page, 'online');
  assert.equal(await page.locator('#side').isVisible(), false);
  await say(page, 'w'.repeat(500));
  await delivered(page).waitFor();
  const wide = await page.evaluate(() => {
    const nodes = [...document.querySelectorAll('header > *, .bubble, #composer *')];
    return nodes.filter((node) => node.getBoundingClientRect().right > innerWidth).length;
  });
  assert.equal(wide, 0);
  for (const button of ['#menu', '#invite', '#attach', '#send']) {
    const { width, height } = await page.locator(button).boundingBox();
    assert.ok(Math.min(width, height) >= 42, `${button} is ${width} x ${height}`);
  }
});
