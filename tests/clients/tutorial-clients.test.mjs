// The clients of the tutorials, exactly as the documents have them, each as a Node program, with wsd in place of the tutorial's server.
// What is compared is the whole of what a person would see on the screen. The pages in a browser: `tutorial-pages.test.mjs`.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { runClient } from './client.mjs';
import { connect } from './peer.mjs';
import { codeBlock, codeBlocks, document, pageScript } from './tutorials.mjs';
import { startWsd } from './wsd.mjs';

test('the code blocks are the documents\' own text', () => {
  const counts = ['000', '001', '002', '003', '004'].map((name) => codeBlocks(name).length);
  assert.deepEqual(counts, [4, 3, 3, 3, 4]);
  for (const name of ['000', '001', '002', '003', '004']) {
    const text = document(name).replace(/^ +/gm, '');
    for (const { code } of codeBlocks(name)) assert.ok(text.includes(code.replace(/^ +/gm, '')), `${name}.md: ${code}`);
  }
});

test('000: the page greets, is greeted and answered', async () => {
  const reply = 'Hello from server, you said: "{}"';
  const wsd = await startWsd(['--app', 'echo', '--greeting', 'Welcome to the WebSocket server!', '--reply', reply]);
  const script = pageScript(codeBlock('000', 'html', /Client Code/));
  const client = runClient(script, { port: wsd.port, browser: true });
  await client.sees('Message from server: Hello from server, you said: "Hello from client!"');
  assert.equal(await wsd.stop(), 0);
  assert.equal(await client.exit(), 0);
  assert.deepEqual(client.lines(), [
    'Connected to server',
    'Message from server: Welcome to the WebSocket server!',
    'Message from server: Hello from server, you said: "Hello from client!"',
    'Disconnected from server',
  ]);
  assert.equal(client.stderr(), '');
});

/** 001's program for the terminal: two lines are typed; returns the screen after the server has gone. */
async function chatFromTerminal({ terminal, enter }) {
  const wsd = await startWsd(['--app', 'echo', '--reply', 'Received {}']);
  const code = codeBlock('001', 'javascript', /^Client Side Code$/);
  const client = runClient(code, { port: wsd.port, terminal });
  // It reads the keyboard only once it is connected.
  await client.sees('Please enter user name:');
  client.type('Ann', { enter });
  await client.sees('Message from server: Received Ann: Ann');
  client.type('Grüße, 世界 👋', { enter });
  await client.sees('Message from server: Received Ann: Grüße, 世界 👋');
  assert.equal(await wsd.stop(), 0);
  assert.equal(await client.exit(), 0);
  assert.equal(client.stderr(), '');
  return client.lines();
}

test('001: the terminal client, fed through a pipe', async () => {
  assert.deepEqual(await chatFromTerminal({ terminal: false, enter: '\n' }), [
    'Connected to server',
    'Please enter user name:',
    'Welcome Ann! You can start chatting now.',
    'Type your message and press Enter to send:',
    'Message from server: Received Ann: Ann',
    'Message from server: Received Ann: Grüße, 世界 👋',
    'Disconnected from server',
  ]);
});

test('001: the terminal client, fed through a pseudo-terminal', async () => {
  assert.deepEqual(await chatFromTerminal({ terminal: true, enter: '\r' }), [
    'Connected to server',
    'Please enter user name:',
    'Ann', // what is typed is on the screen too
    'Welcome Ann! You can start chatting now.',
    'Type your message and press Enter to send:',
    'Message from server: Received Ann: Ann',
    'Grüße, 世界 👋',
    'Message from server: Received Ann: Grüße, 世界 👋',
    'Disconnected from server',
  ]);
});

test('001: the browser client', async () => {
  const wsd = await startWsd(['--app', 'echo', '--reply', 'Received {}']);
  const code = codeBlock('001', 'javascript', /Running from Browser/);
  const client = runClient(code, { port: wsd.port, browser: true });
  await client.sees('📨 Server says: Received Hello from browser!');
  assert.equal(await wsd.stop(), 0);
  assert.equal(await client.exit(), 0);
  assert.deepEqual(client.lines(), [
    '✅ Connected to local server',
    '📨 Server says: Received Hello from browser!',
    '❌ Disconnected',
  ]);
  assert.equal(client.stderr(), '');
});

test('002: the client at /socket is greeted and gets no answer', async () => {
  const wsd = await startWsd(['--app', 'sink', '--greeting', 'Hello Client!', '--path', '/socket']);
  const client = runClient(codeBlock('002', 'javascript', /Client-Side/), { port: wsd.port, browser: true });
  // That the sink answers nothing, however long one waits, is shown in `protocol.test.mjs`.
  await client.sees('Message from server: Hello Client!');
  assert.equal(await wsd.stop(), 0);
  assert.equal(await client.exit(), 0);
  assert.deepEqual(client.lines(), [
    'WebSocket connection established',
    'Message from server: Hello Client!',
    'WebSocket connection closed',
  ]);
  assert.equal(client.stderr(), '');
});

test('003: the others get the message, its sender does not', async () => {
  const connected = 'Connected to the WebSocket server';
  const hello = `Received message from server: <Buffer ${Buffer.from('Hello, WebSocket server!').toString('hex').match(/../g).join(' ')}>`;
  const disconnected = 'Disconnected from the WebSocket server';

  const wsd = await startWsd(['--app', 'broadcast', '--skip-sender', '--threads', '2']);
  const code = codeBlock('003', 'javascript', /Creating a WebSocket Client/);
  // Each sends once, when it connects; so they come one after the other.
  const first = runClient(code, { port: wsd.port });
  await first.sees(connected);
  const second = runClient(code, { port: wsd.port });
  await first.sees(hello);
  const third = runClient(code, { port: wsd.port });
  await Promise.all([first.sees(hello, { count: 2 }), second.sees(hello)]);

  assert.equal(await wsd.stop(), 0);
  for (const client of [first, second, third]) {
    assert.equal(await client.exit(), 0);
    assert.equal(client.stderr(), '');
  }
  assert.deepEqual(first.lines(), [connected, hello, hello, disconnected]);
  assert.deepEqual(second.lines(), [connected, hello, disconnected]);
  assert.deepEqual(third.lines(), [connected, disconnected]);
});

test('004: the chat greets in JSON and passes each message on to everyone, its sender too', async () => {
  const wsd = await startWsd(['--app', 'chat', '--threads', '2']);
  const welcome = '{"type":"welcome","message":"Welcome to the chat!"}';
  const ann = await connect(wsd.url);
  assert.equal(await ann.next(), welcome);
  const ben = await connect(wsd.url);
  assert.equal(await ben.next(), welcome);

  // A string is a text message, a Buffer a binary one: text stays text. Only one sender speaks at a time, so the order is certain.
  const image = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x00, 0xff]);
  ann.ws.send('<b>hi</b> & "bye" 👋');
  ann.ws.send(image);
  for (const peer of [ann, ben]) assert.deepEqual(await peer.take(2), ['<b>hi</b> & "bye" 👋', image]);
  ben.ws.send('back');
  for (const peer of [ann, ben]) assert.equal(await peer.next(), 'back');

  assert.equal(await wsd.stop(), 0);
  for (const peer of [ann, ben]) {
    assert.equal((await peer.closed()).code, 1001);
    assert.deepEqual(peer.rest(), []);
  }
});

test('004: the reconnecting client finds the server again on the same port', async () => {
  const lost = 'Connection lost. Reconnecting...';
  const before = await startWsd(['--app', 'chat']);
  const client = runClient(codeBlock('004', 'javascript', /Reconnection Logic/), { port: before.port, browser: true });
  await client.opens(1);
  assert.equal(await before.stop(), 0);
  await client.sees(lost);

  // It tries once a second; how often it finds nobody before the server is back, the code does not determine.
  const after = await startWsd(['--app', 'chat'], { port: before.port });
  await client.opens(2);
  const tries = client.lines().length;
  assert.equal(await after.stop(), 0);
  await client.sees(lost, { count: tries + 1 });
  assert.ok(client.lines().every((line) => line === lost), client.lines().join('\n'));
  assert.equal(client.stderr(), '');
  await client.kill();
});
