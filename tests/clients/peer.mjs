// One connection of npm's `ws`, an implementation that shares nothing with wsd, with a queue of what has come in.

import { once } from 'node:events';

import { WebSocket } from 'ws';

import { within } from './deadline.mjs';

/** Opens a connection; `options` are those of `ws`, and `protocols` the subprotocols to offer. */
export async function connect(url, { protocols = [], ...options } = {}) {
  const peer = new Peer(new WebSocket(url, protocols, options));
  await within(once(peer.ws, 'open'), `connection to ${url}`);
  return peer;
}

/** An open connection; `ws` is the bare one, for sending. */
class Peer {
  #inbox = [];
  #arrived = () => {};
  #closed;
  #end; // {code, reason} once it is closed

  constructor(ws) {
    this.ws = ws;
    // A test that fails must not keep the runner waiting for the connection.
    ws.once('upgrade', (response) => response.socket.unref());
    // Before the connection is open: a greeting may come together with the server's handshake.
    ws.on('message', (data, binary) => this.#put(binary ? data : data.toString()));
    ws.on('pong', (payload) => this.#put({ pong: payload.toString() }));
    // A connection that fails is seen by `once(ws, 'open')` or by its close code.
    ws.on('error', () => {});
    this.#closed = new Promise((resolve) => {
      ws.once('close', (code, reason) => {
        this.#end = { code, reason: reason.toString() };
        resolve(this.#end);
        this.#arrived();
      });
    });
  }

  /** The next thing to come: a string for a text message, a Buffer for a binary one, `{pong: payload}` for a pong. */
  async next() {
    const arrival = new Promise((resolve, reject) => {
      this.#arrived = () => {
        if (this.#inbox.length > 0) resolve();
        else if (this.#end) reject(new Error(`closed instead of a message: ${this.#end.code} "${this.#end.reason}"`));
      };
      this.#arrived();
    });
    await within(arrival, 'message');
    return this.#inbox.shift();
  }

  /** The next `count` things to come. */
  async take(count) {
    const taken = [];
    while (taken.length < count) taken.push(await this.next());
    return taken;
  }

  /** What has come in and was not taken. */
  rest() {
    return this.#inbox.splice(0);
  }

  /** Waits for the end of the connection: `{code, reason}`, 1006 when it broke without a Close frame. */
  closed() {
    return within(this.#closed, 'end of the connection');
  }

  /** Closes with the handshake: `{code, reason}` as the server answered. */
  close(code = 1000, reason = '') {
    this.ws.close(code, reason);
    return this.closed();
  }

  #put(item) {
    this.#inbox.push(item);
    this.#arrived();
  }
}
