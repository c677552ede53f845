// A WebSocket that comes back, for browsers and Node.js: what a client of a server that is deployed now and then needs.
//
//   const chat = reconnecting('wss://chat.example.com/', { onmessage: (event) => show(event.data) });
//   chat.send('hello'); // false while there is no connection
//   chat.close();       // for good
//
// The wait before it comes back grows from try to try and is random below its bound, so that a crowd spreads out by
// itself. A server that lets its clients go says in the reason when it wants each of them back (`retry=3120`,
// milliseconds): never earlier than that.

const FIRST_MS = 1000;
const MOST_MS = 30_000;
const STABLE_MS = 10_000; // a connection that lasted so long starts the waits anew
const HINT_CODES = [1001, 1012, 1013]; // going away, restart, try again later

/** How long to wait after a close: at random below a bound that doubles with each attempt, and at least the hint. */
export function wait(attempt, { code, reason }) {
  const hint = HINT_CODES.includes(code) ? Number(/\bretry=(\d{1,6})\b/.exec(reason)?.[1] ?? 0) : 0;
  return Math.max(hint, Math.random() * Math.min(MOST_MS, FIRST_MS * 2 ** attempt));
}

/** Opens `url`, and again whenever the connection is lost. The options are called with the events of each socket. */
export function reconnecting(url, { onopen, onmessage, onclose, Socket = globalThis.WebSocket } = {}) {
  let socket;
  let timer;
  let attempt = 0;
  let over = false;

  const connect = () => {
    let stable;
    socket = new Socket(url);
    socket.onopen = (event) => {
      stable = setTimeout(() => (attempt = 0), STABLE_MS);
      onopen?.(event);
    };
    socket.onmessage = (event) => onmessage?.(event);
    socket.onerror = () => {}; // a close follows
    socket.onclose = (event) => {
      clearTimeout(stable);
      if (!over) timer = setTimeout(connect, wait(attempt++, event));
      onclose?.(event);
    };
  };
  connect();

  return {
    /** Sends, if there is a connection; whether it did. */
    send(data) {
      const open = socket.readyState === Socket.OPEN;
      if (open) socket.send(data);
      return open;
    },
    close(code = 1000, reason = '') {
      over = true;
      clearTimeout(timer);
      socket.close(code, reason);
    },
  };
}
