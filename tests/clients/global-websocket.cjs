// Preloaded (`node --require`) into code that was written for a browser: the one global it uses, made of npm's `ws`.
'use strict';

const { createRequire } = require('node:module');
const { join } = require('node:path');

// From the directory of the code that is run; its node_modules leads to the installed packages.
const ws = createRequire(join(process.cwd(), 'client.js'))('ws');

globalThis.WebSocket = class extends ws.WebSocket {
  constructor(...args) {
    super(...args);
    // In a browser an error that nobody listens for is dropped; in `ws` it would end the program.
    this.on('error', () => {});
    // For code that shows nothing when it has connected: the test is told behind its back.
    this.on('open', () => process.send?.('open'));
  }
};
