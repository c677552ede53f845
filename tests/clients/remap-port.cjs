// Preloaded (`node --require`) into the tutorials' clients, which have their server's address written into them: changes the TCP port they
// connect to, so that a test can use any free one. Nothing else is touched; `localhost` is still resolved by the system.
'use strict';

const net = require('node:net');

const port = Number(process.env.WSD_PORT);
if (!port) throw new Error('WSD_PORT is not set');

/** Address in the tutorial -> address in the test. */
const remapped = { 'localhost:8080': { host: 'localhost', port }, 'example.com:80': { host: 'localhost', port } };

for (const name of ['connect', 'createConnection']) {
  const original = net[name];
  net[name] = (options, ...rest) => {
    const target = remapped[`${options.host}:${options.port}`];
    if (!target) throw new Error(`a tutorial's client connects to ${options.host}:${options.port}`);
    return original({ ...options, ...target }, ...rest);
  };
}
