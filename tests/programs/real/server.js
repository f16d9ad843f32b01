// A server with timers, memory and a thread of its own: server.js PORT
'use strict';

const http = require('node:http');
const { Worker, isMainThread, parentPort } = require('node:worker_threads');

if (!isMainThread) {
  let sum = 0;
  parentPort.on('message', (number) => parentPort.postMessage((sum += number)));
  return;
}

const memory = new Map();
let ticks = 0;
setInterval(() => ticks++, 20);
const worker = new Worker(__filename);

const answers = {
  put: (key, value) => (memory.set(key, value), 'ok'),
  get: (key) => memory.get(key) ?? 'nothing',
  ticks: () => ticks,
  later: (ms) => new Promise((done) => setTimeout(() => done('later'), Number(ms))),
  add: (number) =>
    new Promise((done) => {
      worker.once('message', done);
      worker.postMessage(Number(number));
    }),
  // Machine code that was made before the dump, and more that is made now.
  compute: (n) => {
    let x = 1;
    for (let i = 0; i < Number(n); i++) x = (Math.imul(x, 1103515245) + 12345) >>> 0;
    return x;
  },
  garbage: () => {
    let kept = [];
    for (let i = 0; i < 200; i++) kept = [...kept.slice(-3), new Array(10000).fill(i)];
    gc();
    return kept.length;
  },
  quit: () => {
    setTimeout(() => process.exit(0), 50);
    return 'bye';
  },
};

http
  .createServer(async (request, response) => {
    const [, what, ...rest] = request.url.split('/');
    const answer = answers[what];
    response.statusCode = answer ? 200 : 404;
    response.end(String(answer ? await answer(...rest) : 'what?'));
  })
  .listen(Number(process.argv[2]), '127.0.0.1');
