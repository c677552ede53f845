// node ws.mjs echo|broadcast PORT: the server with `ws`, as its README has it, with its native module for masks
// (bufferutil) and without compression, which is its default.

import { WebSocket, WebSocketServer } from 'ws';

const [mode, port] = process.argv.slice(2);
const server = new WebSocketServer({ host: '127.0.0.1', port: Number(port), backlog: 4096 });

server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, isBinary) => {
    if (mode === 'echo') {
      socket.send(data, { binary: isBinary });
      return;
    }
    for (const client of server.clients) {
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
    }
  });
});

server.on('listening', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
