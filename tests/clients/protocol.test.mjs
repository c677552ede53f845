// wsd against npm's `ws`, which shares no code with it: messages, control frames, closing, limits; then plain HTTP, and the command line.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { request } from 'node:http';
import { after, before, describe, test } from 'node:test';
import { stripVTControlCharacters } from 'node:util';

import { WebSocket } from 'ws';

import { within } from './deadline.mjs';
import { connect } from './peer.mjs';
import { startWsd, WSD_BIN } from './wsd.mjs';

/** The largest message wsd takes by default, in bytes. */
const MESSAGE_BYTES_MAX = 1024 * 1024;

const BOTH_FAMILIES = ['127.0.0.1', '[::1]'];

describe('messages', () => {
  let wsd;
  let echo;
  before(async () => {
    wsd = await startWsd(['--app', 'echo', '--threads', '2']);
    echo = await connect(`${wsd.url}echo`);
  });
  after(() => wsd.stop());

  test('text comes back as text', async () => {
    for (const text of ['hello', '', 'Grüße, 世界 👋', '\u0000', 'x'.repeat(125), 'x'.repeat(126), 'x'.repeat(65_536)]) {
      echo.ws.send(text);
      assert.equal(await echo.next(), text);
    }
  });

  test('binary comes back as binary', async () => {
    for (const bytes of [0, 1, 125, 126, 65_535, 65_536]) {
      const sent = Buffer.alloc(bytes, 'wsd\xff', 'latin1');
      echo.ws.send(sent);
      assert.deepEqual(await echo.next(), sent);
    }
  });

  test('fragments are put together, with a ping between them', async () => {
    echo.ws.send('one ', { fin: false });
    echo.ws.ping('between');
    echo.ws.send('two ', { fin: false });
    echo.ws.send('', { fin: false });
    echo.ws.send('three', { fin: true });
    assert.deepEqual(await echo.take(2), [{ pong: 'between' }, 'one two three']);

    echo.ws.send(Buffer.from([1, 2]), { fin: false });
    echo.ws.send(Buffer.from([3]), { fin: true });
    assert.deepEqual(await echo.next(), Buffer.from([1, 2, 3]));
  });

  test('a character may be cut by a fragment boundary', async () => {
    const wave = Buffer.from('👋');
    echo.ws.send(wave.subarray(0, 1), { binary: false, fin: false });
    echo.ws.send(wave.subarray(1, 3), { binary: false, fin: false });
    echo.ws.send(wave.subarray(3), { binary: false, fin: true });
    assert.equal(await echo.next(), '👋');
  });

  test('a pong carries the payload of its ping', async () => {
    for (const payload of ['', 'p', 'x'.repeat(125)]) {
      echo.ws.ping(payload);
      assert.deepEqual(await echo.next(), { pong: payload });
    }
  });

  test('an unasked pong is taken in silence', async () => {
    echo.ws.pong('unasked');
    echo.ws.send('still here');
    assert.equal(await echo.next(), 'still here');
  });

  test('10,000 messages sent without waiting come back in order', async () => {
    const sent = Array.from({ length: 10_000 }, (_, i) => `message ${i}`);
    for (const text of sent) echo.ws.send(text);
    assert.deepEqual(await echo.take(sent.length), sent);
  });

  test('a client that is slow to take its answers is not read, rather than closed', async () => {
    // Each time some 20 MiB, far more than the server will queue and the kernel will keep. The sizes differ in how much is queued when
    // the next message is to be answered.
    for (const kib of [100, 150, 200, 250]) {
      const sent = Array.from({ length: 20_000 / kib }, (_, i) => Buffer.alloc(kib * 1024, i));
      const slow = await connect(`${wsd.url}echo`);
      slow.ws.pause();
      for (const bytes of sent) slow.ws.send(bytes);
      // Meanwhile others are served.
      for (let i = 0; i < 100; i += 1) {
        echo.ws.send(`${i}`);
        assert.equal(await echo.next(), `${i}`);
      }
      slow.ws.resume();
      for (const bytes of sent) assert.ok(bytes.equals(await slow.next()));
      assert.equal((await slow.close()).code, 1000);
    }
  });

  test('answers may be longer than the messages that were sent without waiting', async () => {
    const tail = ' is what you said, and it was well said, so that it is said again here'.repeat(10);
    const talkative = await startWsd(['--app', 'echo', '--reply', `{}${tail}`]);
    const peer = await connect(talkative.url);
    const sent = Array.from({ length: 10_000 }, (_, i) => `${i}`);
    for (const text of sent) peer.ws.send(text);
    assert.deepEqual(
      await peer.take(sent.length),
      sent.map((text) => `${text}${tail}`),
    );
    assert.equal(await talkative.stop(), 0);
  });

  test('a message of 1 MiB comes back', async () => {
    const sent = Buffer.alloc(MESSAGE_BYTES_MAX, 'x');
    echo.ws.send(sent);
    assert.ok(sent.equals(await echo.next()));
    // The same size in fragments, as text.
    echo.ws.send('x'.repeat(MESSAGE_BYTES_MAX - 1), { fin: false });
    echo.ws.send('y', { fin: true });
    assert.equal(await echo.next(), `${'x'.repeat(MESSAGE_BYTES_MAX - 1)}y`);
  });

  test('a message of 1 MiB and a byte is refused with 1009', async () => {
    const whole = await connect(`${wsd.url}echo`);
    whole.ws.send(Buffer.alloc(MESSAGE_BYTES_MAX + 1));
    assert.equal((await whole.closed()).code, 1009);

    const fragmented = await connect(`${wsd.url}echo`);
    fragmented.ws.send(Buffer.alloc(MESSAGE_BYTES_MAX), { fin: false });
    fragmented.ws.send(Buffer.alloc(1), { fin: true });
    assert.equal((await fragmented.closed()).code, 1009);
  });

  test('no extension is agreed on, though deflate is offered', () => {
    assert.equal(echo.ws.extensions, '');
  });
});

describe('paths', () => {
  let wsd;
  // Who does not read is told of its end only when it reads again, and must not be cut before that on a busy machine.
  const patient = ['--close-timeout', '10m'];
  before(async () => (wsd = await startWsd(['--app', 'echo', '--reply', 'app: {}', '--threads', '2', ...patient])));
  after(() => wsd.stop());

  test('/ runs --app and /echo stays as it is', async () => {
    const root = await connect(wsd.url);
    root.ws.send('a');
    assert.equal(await root.next(), 'app: a');
    root.ws.send(Buffer.from('a')); // no text: it has no place in a sentence, and comes back as it came
    assert.deepEqual(await root.next(), Buffer.from('a'));
    const echo = await connect(`${wsd.url}echo`);
    echo.ws.send('a');
    assert.equal(await echo.next(), 'a');
  });

  test('/sink answers nothing', async () => {
    const sink = await connect(`${wsd.url}sink`);
    sink.ws.send('anyone?');
    sink.ws.send(Buffer.from('anyone?'));
    sink.ws.ping('after');
    // An answer would have come before the pong.
    assert.deepEqual(await sink.next(), { pong: 'after' });
  });

  test('/rooms/{room} reaches those in the same room, and no other', async () => {
    const [ann, ben] = [await connect(`${wsd.url}rooms/tea`), await connect(`${wsd.url}rooms/tea`)];
    const other = await connect(`${wsd.url}rooms/coffee`);
    ann.ws.send('tea?');
    assert.equal(await ben.next(), 'tea?');
    other.ws.send('coffee?');
    assert.equal(await other.next(), 'coffee?');
    ben.ws.send('yes');
    assert.equal(await ann.next(), 'tea?');
    assert.deepEqual([await ann.next(), await ben.next()], ['yes', 'yes']);
    assert.deepEqual([...ann.rest(), ...ben.rest(), ...other.rest()], []);
  });

  test('a member of a room that does not read is closed with 1013 and holds up nobody', async () => {
    const [slow, fast] = [await connect(`${wsd.url}rooms/slow`), await connect(`${wsd.url}rooms/slow`)];
    slow.ws.pause();
    // 64 MiB: far beyond what the kernel keeps for a connection on both sides.
    const bytes = Buffer.alloc(512 * 1024, 'x');
    for (let i = 0; i < 128; i += 1) {
      fast.ws.send(bytes);
      assert.ok(bytes.equals(await fast.next()));
    }
    slow.ws.resume();
    assert.equal((await slow.closed()).code, 1013);
  });

  test('/chat is there beside --app', async () => {
    const chat = await connect(`${wsd.url}chat`);
    assert.equal(await chat.next(), '{"type":"welcome","message":"Welcome to the chat!"}');
  });

  test('a WebSocket at an unknown path is answered with 404', async () => {
    const [error] = await once(new WebSocket(`${wsd.url}nope`), 'error');
    assert.equal(error.message, 'Unexpected server response: 404');
  });
});

describe('closing', () => {
  let wsd;
  before(async () => (wsd = await startWsd(['--app', 'echo'])));
  after(() => wsd.stop());

  test('the code and the reason of a Close come back', async () => {
    for (const code of [1000, 1001, 1003, 1011, 3000, 4999]) {
      const peer = await connect(wsd.url);
      assert.deepEqual(await peer.close(code, 'good-bye, 再见'), { code, reason: 'good-bye, 再见' });
    }
  });

  test('a Close without a code is answered without one', async () => {
    const peer = await connect(wsd.url);
    peer.ws.close();
    assert.deepEqual(await peer.closed(), { code: 1005, reason: '' });
  });

  test('messages before the Close are answered before it', async () => {
    const peer = await connect(wsd.url);
    for (let i = 0; i < 100; i += 1) peer.ws.send(`${i}`);
    assert.equal((await peer.close(4000)).code, 4000);
    assert.deepEqual(peer.rest(), Array.from({ length: 100 }, (_, i) => `${i}`));
  });

  test('text that is not UTF-8 is closed with 1007 and a reason', async () => {
    const peer = await connect(wsd.url);
    peer.ws.send(Buffer.from([0x68, 0x69, 0xff]), { binary: false });
    const { code, reason } = await peer.closed();
    assert.equal(code, 1007);
    assert.match(reason, /UTF-8/i);
  });

  test('an unmasked frame is closed with 1002 and a reason', async () => {
    const peer = await connect(wsd.url);
    peer.ws.send('unmasked', { mask: false });
    const { code, reason } = await peer.closed();
    assert.equal(code, 1002);
    assert.match(reason, /mask/i);
  });

  test('a client that vanishes disturbs nobody', async () => {
    const [gone, stays] = [await connect(wsd.url), await connect(wsd.url)];
    gone.ws.terminate();
    assert.equal((await gone.closed()).code, 1006);
    stays.ws.send('still there?');
    assert.equal(await stays.next(), 'still there?');
  });
});

describe('handshake and HTTP', () => {
  let wsd;
  before(async () => (wsd = await startWsd(['--app', 'chat'])));
  after(() => wsd.stop());

  test('both loopback addresses are served', async () => {
    for (const host of BOTH_FAMILIES) {
      const peer = await connect(`ws://${host}:${wsd.port}/`);
      assert.match(await peer.next(), /Welcome to the chat!/);
    }
  });

  test('no subprotocol is chosen when none is configured', async () => {
    // Which a client that insists on one must take as a failure (RFC 6455, section 4.1).
    const [error] = await once(new WebSocket(wsd.url, ['chat.v1', 'chat.v2']), 'error');
    assert.equal(error.message, 'Server sent no subprotocol');
  });

  test('the version must be 13', async () => {
    const upgrade = { Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==' };
    const response = await get(wsd, '/', { ...upgrade, 'Sec-WebSocket-Version': '8' });
    assert.equal(response.status, 426);
    assert.equal(response.headers['sec-websocket-version'], '13');
  });

  test('GET / is the chat page', async () => {
    for (const host of BOTH_FAMILIES) {
      const { status, headers, body } = await get({ ...wsd, host }, '/');
      assert.equal(status, 200);
      assert.match(headers['content-type'], /^text\/html\b/);
      assert.match(body, /^<!doctype html>/i);
    }
  });

  test('GET /healthz is ok', async () => {
    const { status, body } = await get(wsd, '/healthz');
    assert.deepEqual([status, body.trim()], [200, 'ok']);
  });

  test('GET of anything else is 404', async () => {
    for (const path of ['/nope', '/healthz/nope', '/rooms']) assert.equal((await get(wsd, path)).status, 404, path);
  });
});

describe('command line', () => {
  test('--listen may be repeated', async () => {
    const wsd = await startWsd(['--app', 'echo', '--listen', '127.0.0.2:0']);
    const second = /\b127\.0\.0\.2:(\d+)/.exec(wsd.ready);
    assert.ok(second, wsd.ready);
    for (const url of [wsd.url, `ws://127.0.0.2:${second[1]}/`]) {
      const peer = await connect(url);
      peer.ws.send(url);
      assert.equal(await peer.next(), url);
    }
    assert.equal(await wsd.stop(), 0);
  });

  for (const [name, args] of [
    ['--threads', ['--threads', 'nope']],
    ['--threads', ['--threads', '0']],
    ['--listen', ['--listen', 'nonsense']],
    ['--app', ['--app', 'nonsense']],
    ['--nonsense', ['--nonsense']],
  ]) {
    test(`a bad flag is named in one line: ${args.join(' ')}`, () => {
      const { status, stdout, lines } = runToEnd(args);
      assert.deepEqual([status, stdout, lines.length], [2, '', 1], lines.join('\n'));
      assert.ok(lines[0].includes(name), lines[0]);
    });
  }

  test('a bad value from the environment is named in one line too', () => {
    const { status, lines } = runToEnd([], { WSD_THREADS: 'nope' });
    assert.deepEqual([status, lines.length], [2, 1], lines.join('\n'));
    assert.match(lines[0], /threads/i);
  });

  test('a port in use is named in one line', async () => {
    const wsd = await startWsd([]);
    const { status, stdout, lines } = runToEnd(['--listen', `127.0.0.1:${wsd.port}`]);
    assert.deepEqual([status, stdout, lines.length], [1, '', 1], lines.join('\n'));
    assert.ok(lines[0].includes(`127.0.0.1:${wsd.port}`), lines[0]);
    assert.equal(await wsd.stop(), 0);
  });

  for (const signal of ['SIGINT', 'SIGQUIT']) {
    test(`${signal} closes every connection with 1001 and exits with 0`, async () => {
      const wsd = await startWsd(['--app', 'sink', '--threads', '2']);
      const peers = await Promise.all(Array.from({ length: 20 }, () => connect(wsd.url)));
      assert.equal(await wsd.stop(signal), 0); // which allows it 5 s
      for (const peer of peers) assert.deepEqual(await peer.closed(), { code: 1001, reason: 'server is stopping' });
    });
  }

  test('--log debug tells of connects, messages and closes', async () => {
    const wsd = await startWsd(['--app', 'sink', '--log', 'debug']);
    const peer = await connect(wsd.url);
    peer.ws.send('seven b');
    assert.equal((await peer.close(4001, 'good-bye')).code, 4001);
    assert.equal(await wsd.stop(), 0);
    const log = stripVTControlCharacters(wsd.stderr());
    for (const event of [/open .*path="\/"/, /message .*opcode=Text bytes=7/, /closed .*code=4001 reason="good-bye"/]) {
      assert.match(log, event);
    }
  });

  test('a client that does not answer the Close delays the exit by less than 5 s', async () => {
    const wsd = await startWsd(['--app', 'sink']);
    const silent = await connect(wsd.url);
    silent.ws.pause();
    assert.equal(await wsd.stop(), 0);
  });
});

/** A plain GET: `{status, headers, body}`. */
async function get({ host, port }, path, headers = {}) {
  const sent = request({ host: host.replace(/[[\]]/g, ''), port, path, headers, agent: false }).end();
  const [response] = await within(once(sent, 'response'), `answer to GET ${path}`);
  let body = '';
  for await (const text of response.setEncoding('utf8')) body += text;
  return { status: response.statusCode, headers: response.headers, body };
}

/** Runs wsd where it must fail: `{status, stdout, lines}`, the lines of its stderr. */
function runToEnd(args, env = {}) {
  const { status, stdout, stderr } = spawnSync(WSD_BIN, args, {
    encoding: 'utf8',
    env: { ...process.env, ...env },
    timeout: 10_000,
  });
  return { status, stdout, lines: stderr.split('\n').filter((line) => line !== '') };
}
