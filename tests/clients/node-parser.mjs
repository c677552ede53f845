// The handshakes of tests/corpus/handshakes.txt, and what Node's HTTP parser makes of them.
//
//   node tests/clients/node-parser.mjs           lists the lines whose column is not what this Node says
//   node tests/clients/node-parser.mjs --write   and fills the column in

import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { connect } from 'node:net';
import { fileURLToPath } from 'node:url';

import { within } from './deadline.mjs';

const CORPUS = fileURLToPath(new URL('../corpus/handshakes.txt', import.meta.url));

const LINES = {
  H: 'Host: localhost\r\n',
  U: 'Upgrade: websocket\r\n',
  C: 'Connection: Upgrade\r\n',
  K: 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n',
  V: 'Sec-WebSocket-Version: 13\r\n',
};

const ESCAPES = { r: '\r', n: '\n', t: '\t', 0: '\0', '\\': '\\' };

/** The parser's version for which the column was filled in, and the lines: `{name, answer, node, bytes}`. */
export function readCorpus() {
  const text = readFileSync(CORPUS, 'latin1');
  const variants = [];
  for (const line of text.split('\n')) {
    const match = /^([^\s#]+) +(\d{3}) (\S+) (.*)$/.exec(line);
    if (match) {
      const [, name, answer, node, request] = match;
      variants.push({ name, answer: Number(answer), node, bytes: Buffer.from(unescape(request), 'latin1') });
    }
  }
  return { llhttp: /^# node's parser: llhttp (\S+)$/m.exec(text)[1], variants };
}

function unescape(text) {
  return text.replace(/\{([^}]*)\}|\\(?:x([0-9a-f]{2})|(.))/g, (_, braces, hex, letter) => {
    if (braces !== undefined) {
      const repeat = /^(\d+)\*(.*)$/.exec(braces);
      return repeat ? unescape(repeat[2]).repeat(Number(repeat[1])) : [...braces].map((line) => LINES[line]).join('');
    }
    return hex ? String.fromCharCode(parseInt(hex, 16)) : ESCAPES[letter];
  });
}

/** What Node, in its strict mode, makes of each of these bytes first: 'upgrade', 'request' or 'rejects'. */
export async function judge(requests) {
  let decide;
  const server = createServer({ insecureHTTPParser: false, requireHostHeader: false });
  const verdict = (word) => (request) => {
    decide(word);
    (request.socket ?? request).destroy();
  };
  server.on('upgrade', verdict('upgrade'));
  for (const event of ['request', 'connect', 'checkContinue', 'checkExpectation']) server.on(event, verdict('request'));
  server.on('clientError', (_, socket) => verdict('rejects')(socket));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));

  const verdicts = [];
  for (const bytes of requests) {
    const decided = new Promise((resolve) => (decide = resolve));
    // The end of the stream: what is no whole request by now is none.
    const socket = connect(server.address().port, '127.0.0.1', () => socket.end(bytes));
    socket.on('error', () => {});
    verdicts.push(await within(decided, 'verdict', { detail: () => ` on ${JSON.stringify(bytes.toString('latin1'))}` }));
    socket.destroy();
  }
  server.close();
  return verdicts;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { variants } = readCorpus();
  const verdicts = await judge(variants.map(({ bytes }) => bytes));
  let text = readFileSync(CORPUS, 'latin1').replace(/^(# node's parser: llhttp ).*$/m, `$1${process.versions.llhttp}`);
  for (const [index, { name, answer, node }] of variants.entries()) {
    if (node === verdicts[index]) continue;
    console.log(`${name}: ${node} -> ${verdicts[index]}`);
    text = text.replace(new RegExp(`^(${name.replaceAll('.', '\\.')} +${answer} )\\S+`, 'm'), `$1${verdicts[index]}`);
  }
  if (process.argv.includes('--write')) writeFileSync(CORPUS, text, 'latin1');
}
