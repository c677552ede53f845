// Starts and stops one wsd process. The program is WSD_BIN, by default the debug build of this repository.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { within } from './deadline.mjs';

/** The program that is tested. */
export const WSD_BIN = process.env.WSD_BIN ?? fileURLToPath(new URL('../../target/debug/wsd', import.meta.url));

/** wsd promises to be gone this soon after SIGINT or SIGQUIT; SIGTERM drains it, which takes its time. */
const STOP_MS = 5_000;

const running = new Set();

/**
 * Starts `wsd <args> --listen localhost:<port>` and resolves once it says that it is ready; port 0 lets the system choose.
 *
 * `tls`, as `certificates` makes it, has it speak TLS there instead.
 *
 * `ready` is its first line, `url` the WebSocket address of `/`. `stop(signal)` resolves to the exit code, and rejects when the process
 * is not gone after 5 s. `stderr()` is what it has written there so far.
 */
export async function startWsd(args, { port = 0, tls } = {}) {
  const listen = tls ? ['--tls-cert', tls.cert, '--tls-key', tls.key, '--tls-listen'] : ['--listen'];
  const child = spawn(WSD_BIN, [...args, ...listen, `localhost:${port}`], { stdio: ['ignore', 'pipe', 'pipe'] });
  running.add(child);
  // A test that fails before its `stop()` must not keep the runner waiting for the server.
  for (const handle of [child, child.stdout, child.stderr]) handle.unref();
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text) => (stderr += text));
  const exited = new Promise((resolve) => child.once('close', (code, signal) => resolve(code ?? signal)));
  exited.then(() => running.delete(child));

  const lines = createInterface({ input: child.stdout });
  const failed = once(child, 'error').then(([error]) => Promise.reject(error));
  const early = exited.then((code) => Promise.reject(new Error(`${WSD_BIN} exited with ${code}\n${stderr}`)));
  // Either may still happen once nobody waits for them any more.
  failed.catch(() => {});
  early.catch(() => {});

  const detail = () => `; its stderr:\n${stderr}`;
  let ready;
  try {
    [ready] = await within(Promise.race([once(lines, 'line'), failed, early]), 'first line from wsd', { detail });
    if (!ready.startsWith('wsd ready')) throw new Error(`wsd's first line is not "wsd ready ...": ${ready}${detail()}`);
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  }
  const bound = /\b127\.0\.0\.1:(\d+)/.exec(ready);
  if (!bound) {
    child.kill('SIGKILL');
    throw new Error(`wsd's first line names no 127.0.0.1:PORT: ${ready}`);
  }

  return {
    port: Number(bound[1]),
    host: 'localhost',
    url: `${tls ? 'wss' : 'ws'}://localhost:${bound[1]}/`,
    ready,
    stderr: () => stderr,
    async stop(signal = 'SIGINT') {
      child.kill(signal);
      try {
        return await within(exited, `exit of wsd after ${signal}`, { ms: STOP_MS, detail });
      } catch (error) {
        child.kill('SIGKILL');
        throw error;
      }
    },
  };
}

// Nor does it leave a server behind, or one that is interrupted.
process.on('exit', () => running.forEach((child) => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => process.exit(1));
