// Runs a tutorial's client code as it stands, as a Node program of its own, and reads what a person would see.

import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { stripVTControlCharacters } from 'node:util';

import { within } from './deadline.mjs';

const here = (file) => fileURLToPath(new URL(file, import.meta.url));
const running = new Set();

/**
 * Starts `code` in a directory of its own, with `ws` installed, connecting to `port` where it says 8080 (or 80).
 *
 * `browser` gives it the global WebSocket of a page. `terminal` runs it in a pseudo-terminal, where `type()` is a keyboard; otherwise
 * its standard input is a pipe.
 */
export function runClient(code, { port, browser = false, terminal = false }) {
  const dir = mkdtempSync(join(tmpdir(), 'wsd-client-'));
  symlinkSync(here('node_modules'), join(dir, 'node_modules'));
  writeFileSync(join(dir, 'client.js'), code);

  const preloads = [here('remap-port.cjs'), ...(browser ? [here('global-websocket.cjs')] : [])];
  const command = [process.execPath, ...preloads.flatMap((file) => ['--require', file]), 'client.js'];
  // `script` is part of every Debian: it gives its command a terminal, and passes on the exit code.
  const [program, ...args] = terminal
    ? ['script', '--quiet', '--return', '--flush', '--command', command.map(shellQuoted).join(' '), '/dev/null']
    : command;
  const child = spawn(program, args, {
    cwd: dir,
    env: { PATH: process.env.PATH, TERM: 'xterm', WSD_PORT: String(port) },
    stdio: ['pipe', 'pipe', 'pipe', ...(browser ? ['ipc'] : [])],
  });
  running.add(child);
  // A test that fails must not keep the runner waiting for the program.
  for (const handle of [child, child.channel, ...child.stdio]) handle?.unref();
  return new Client(child, dir);
}

class Client {
  #child;
  #stdout = '';
  #stderr = '';
  #opens = 0;
  #exited;
  #changed = () => {};

  constructor(child, dir) {
    this.#child = child;
    child.stdout.setEncoding('utf8').on('data', (text) => {
      this.#stdout += text;
      this.#changed();
    });
    child.on('message', () => {
      this.#opens += 1;
      this.#changed();
    });
    child.stderr.setEncoding('utf8').on('data', (text) => (this.#stderr += text));
    // Writing to a client that has just ended is not what a test is about.
    child.stdin.on('error', () => {});
    this.#exited = new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('close', (code, signal) => {
        running.delete(child);
        rmSync(dir, { recursive: true, force: true });
        resolve(code ?? signal);
      });
    });
    this.#exited.catch(() => {});
  }

  /** The whole lines on standard output so far, as they look on a screen. */
  lines() {
    const whole = this.#stdout.slice(0, this.#stdout.lastIndexOf('\n') + 1);
    return stripVTControlCharacters(whole).split(/\r*\n/).slice(0, -1);
  }

  /** What has come on standard error so far. */
  stderr() {
    return this.#stderr;
  }

  /** Waits until there are `count` lines equal to `line`. */
  async sees(line, { count = 1 } = {}) {
    await this.#until(() => this.lines().filter((each) => each === line).length >= count, `line "${line}"`);
  }

  /** Waits until code for a browser has opened its `count`th connection. */
  async opens(count) {
    await this.#until(() => this.#opens >= count, `connection ${count}`);
  }

  /** Types a line and presses Enter (a carriage return is what the Enter key of a terminal sends). */
  type(text, { enter = '\n' } = {}) {
    this.#child.stdin.write(text + enter);
  }

  /** Waits for the program to end by itself: its exit code. */
  exit() {
    return within(this.#exited, 'exit of the client', { detail: () => this.#screen() });
  }

  /** Ends it, where the code would run for ever. */
  async kill() {
    this.#child.kill('SIGKILL');
    await this.exit();
  }

  async #until(holds, what) {
    const arrived = new Promise((resolve) => {
      this.#changed = () => holds() && resolve();
      this.#changed();
    });
    const over = this.#exited.then((code) => {
      if (!holds()) throw new Error(`the client exited with ${code}: no ${what}${this.#screen()}`);
    });
    await within(Promise.race([arrived, over]), what, { detail: () => this.#screen() });
  }

  #screen() {
    return `\n--- its stdout\n${this.#stdout}\n--- its stderr\n${this.#stderr}`;
  }
}

function shellQuoted(word) {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
