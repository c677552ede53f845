// Chromium for the tests, driven by playwright-core, and what a page says and asks for while it runs.
// It is the system's browser (Debian's package `chromium`), or the one CHROMIUM names; nothing is downloaded.

import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';

import { chromium } from 'playwright-core';

import { DEADLINE_MS, within } from './deadline.mjs';

const ARGS = [
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--no-proxy-server',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/**
 * Starts a browser that ends with test `t`.
 *
 * `resolve` sends host:port pairs of a page to another port of this machine: `{'localhost:8080': 40123}`. The page does not notice: its
 * origin, its Host header and what it shows stay as they are.
 *
 * `pin` is the key of an authority to trust, as `certificates` gives it.
 */
export async function launch(t, { resolve = {}, pin } = {}) {
  const rules = Object.entries(resolve).map(([from, port]) => `MAP ${from} localhost:${port}`);
  const browser = await chromium.launch({
    executablePath: executable(),
    // Chromium refuses to run its sandbox as root.
    chromiumSandbox: process.getuid() !== 0,
    args: [
      ...ARGS,
      ...(rules.length > 0 ? [`--host-resolver-rules=${rules.join(', ')}`] : []),
      // Heeded only beside a profile of one's own.
      ...(pin ? [`--ignore-certificate-errors-spki-list=${pin}`] : []),
    ],
  });
  t.after(() => browser.close());
  return browser;
}

/** A page in a context (storage, cookies) of its own; `options` are those of playwright's `newContext`. */
export async function newPage(browser, options = {}) {
  const context = await browser.newContext({ locale: 'en-GB', ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  return page;
}

/** Records what a page does from now on. */
export function watch(page) {
  const watched = new Watched();
  page.on('console', (message) => watched.line(message.type(), message.text()));
  page.on('pageerror', (error) => watched.line('error', String(error)));
  page.on('request', (request) => watched.urls.push(request.url()));
  page.on('websocket', (socket) => watched.urls.push(socket.url()));
  return watched;
}

class Watched {
  /** The console's lines, in order. */
  lines = [];
  /** Those that are errors or warnings, and exceptions nobody caught. */
  errors = [];
  /** Every address that was asked for, WebSockets included. */
  urls = [];
  #changed = () => {};

  line(type, text) {
    this.lines.push(text);
    if (type === 'error' || type === 'warning') this.errors.push(text);
    this.#changed();
  }

  /** Waits for a line in the console. */
  sees(text) {
    const seen = new Promise((done) => {
      this.#changed = () => this.lines.includes(text) && done();
      this.#changed();
    });
    return within(seen, `console line "${text}"`, { detail: () => `; the console:\n${this.lines.join('\n')}` });
  }
}

function executable() {
  if (process.env.CHROMIUM) return process.env.CHROMIUM;
  for (const folder of process.env.PATH.split(delimiter)) {
    const file = join(folder, 'chromium');
    try {
      accessSync(file, constants.X_OK);
      return file;
    } catch {
      // Not in this folder.
    }
  }
  throw new Error('no chromium in PATH: apt-get install chromium, or set CHROMIUM');
}
