// The histogram log that loadgen writes, read with two readers that others wrote: `hdr-histogram-js` (npm) and `hdrhistogram` (PyPI).

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import hdr from 'hdr-histogram-js';

import { startWsd } from './wsd.mjs';

const here = (file) => fileURLToPath(new URL(file, import.meta.url));
const LOADGEN_BIN = process.env.LOADGEN_BIN ?? here('../../target/debug/loadgen');
/** A Python that has the packages of `python/requirements.txt`. */
const WSD_PYTHON = process.env.WSD_PYTHON ?? here('../../.cache/venv/bin/python');

/** loadgen's exit code where it could not keep up with its own schedule; its files are written all the same. */
const INVALID = 97;

/** Percentages, and what loadgen calls them in its JSON result. */
const QUANTILES = [
  [50, 'p50'],
  [90, 'p90'],
  [99, 'p99'],
  [99.9, 'p999'],
];

const dir = mkdtempSync(join(tmpdir(), 'wsd-hlog-'));
const hlog = join(dir, 'run.hlog');
let result;

before(async () => {
  const wsd = await startWsd(['--app', 'echo']);
  const json = join(dir, 'run.json');
  const times = ['--duration', '1s', '--warmup', '0s', '--settle', '0s'];
  const args = [`${wsd.url}echo`, '--conns', '10', '--rate', '2000', ...times, '--json', json, '--hlog', hlog];
  // A machine that is busy with other tests makes the figures useless for a comparison, but not for this.
  await run(LOADGEN_BIN, args, { allowed: [0, INVALID] });
  assert.equal(await wsd.stop(), 0);
  result = JSON.parse(readFileSync(json, 'utf8'));
});
after(() => rmSync(dir, { recursive: true, force: true }));

test('both readers find the same tags, counts and quantiles', async () => {
  const javascript = readWithJavaScript();
  assert.deepEqual(javascript, await readWithPython());
  assert.deepEqual(Object.keys(javascript).sort(), ['response', 'service']);
  for (const [tag, { count }] of Object.entries(javascript)) assert.ok(count > 0, tag);
});

test('the log says what the JSON result says', () => {
  for (const [tag, { count, max, quantiles }] of Object.entries(readWithJavaScript())) {
    const figures = result[`${tag}_us`];
    assert.equal(count, figures.n);
    assertClose(max / 1000, figures.max, `${tag} max`);
    for (const [i, [, name]] of QUANTILES.entries()) {
      // Null where there are too few samples beyond it.
      if (figures[name] !== null) assertClose(quantiles[i] / 1000, figures[name], `${tag} ${name}`);
    }
    assert.notEqual(figures.p50, null, tag);
  }
});

/** Equal within the three significant digits that the histograms keep. */
function assertClose(actual, expected, what) {
  assert.ok(Math.abs(actual - expected) <= expected / 1000, `${what}: ${actual} in the log, ${expected} in the result`);
}

/** `{tag: {count, max, quantiles}}`, all intervals of a tag added up. */
function readWithJavaScript() {
  const reader = new hdr.HistogramLogReader(readFileSync(hlog, 'utf8'), 64);
  const totals = new Map();
  for (let interval; (interval = reader.nextIntervalHistogram()) !== null; ) {
    const total = totals.get(interval.tag);
    if (total) total.add(interval);
    else totals.set(interval.tag, interval);
  }
  return Object.fromEntries(
    [...totals].map(([tag, total]) => [
      tag,
      {
        count: total.totalCount,
        max: total.maxValue,
        quantiles: QUANTILES.map(([percent]) => total.getValueAtPercentile(percent)),
      },
    ]),
  );
}

async function readWithPython() {
  return JSON.parse(await run(WSD_PYTHON, [here('python/read_hlog.py'), hlog, ...QUANTILES.map(([percent]) => percent)]));
}

/** Runs a program that must end with one of the `allowed` exit codes: its standard output. */
async function run(program, args, { allowed = [0] } = {}) {
  try {
    return (await promisify(execFile)(program, args, { timeout: 60_000 })).stdout;
  } catch (error) {
    if (allowed.includes(error.code)) return error.stdout;
    throw error;
  }
}
