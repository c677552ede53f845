// bun bun.mjs echo|broadcast PORT: Bun's own server; its publish/subscribe for the broadcast, as its documentation
// recommends. No compression, no idle timeout, and no limit on what a slow reader may be owed: none is slow here.

const [mode, port] = process.argv.slice(2);

const server = Bun.serve({
  hostname: '127.0.0.1',
  port: Number(port),
  fetch(request, server) {
    return server.upgrade(request) ? undefined : new Response('WebSocket only\n', { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    sendPings: false,
    open(socket) {
      if (mode === 'broadcast') socket.subscribe('room');
    },
    message(socket, message) {
      if (mode === 'echo') socket.send(message);
      else server.publish('room', message);
    },
  },
});

console.log(`listening on 127.0.0.1:${server.port}`);
