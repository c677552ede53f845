// The pages that loadgen writes, in a browser: on a phone, on a desk and on paper.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';

import { launch, newPage, watch } from './browser.mjs';
import { WSD_BIN } from './wsd.mjs';

const LOADGEN_BIN = process.env.LOADGEN_BIN ?? fileURLToPath(new URL('../../target/debug/loadgen', import.meta.url));
const dir = mkdtempSync(join(tmpdir(), 'wsd-report-'));
const page = (name) => join(dir, `${name}.html`);

/** What the pages show, and in which order. */
const SECTIONS = {
  run: ['Latency by quantile', 'Latency over time', 'Messages per second', 'Where the messages were', 'Configuration', 'Host'],
  ab: ['Metrics', 'B/A by quantile', 'Latency by quantile', 'Configuration', 'Host'],
};

before(async () => {
  const server = `${WSD_BIN} --listen 127.0.0.1:{port} --threads 1`;
  const load = ['--conns', '5', '--rate', '500', '--warmup', '0s', '--settle', '0s', '--no-progress', '--duration'];
  await loadgen(['--server-cmd', server, ...load, '2s', '--html', page('run')]);
  await loadgen(['ab', '--aa', '--a', server, '--pairs', '2', ...load, '300ms', '--html', page('ab')]);
});

after(() => rmSync(dir, { recursive: true }));

for (const name of ['run', 'ab']) {
  test(`the page of ${name} fits a phone and a desk, light and dark`, async (t) => {
    const browser = await launch(t);
    for (const width of [390, 1280]) {
      for (const colorScheme of ['light', 'dark']) {
        const tab = await newPage(browser, { viewport: { width, height: 800 }, colorScheme });
        const watched = watch(tab);
        await tab.goto(pathToFileURL(page(name)).href);
        const seen = await tab.evaluate(looks);
        assert.ok(seen.contentWidth <= width, `${seen.contentWidth} px wide on ${width}`);
        assert.deepEqual(seen.beyond, [], `beyond the edge at ${width}`);
        assert.ok(colorScheme === 'light' ? seen.paper > 200 : seen.paper < 60, `paper ${seen.paper} for ${colorScheme}`);
        inOrder(seen.sections, SECTIONS[name]);
        assert.deepEqual(watched.errors, []);
        assert.deepEqual(watched.urls, [pathToFileURL(page(name)).href], 'nothing from elsewhere');
      }
    }
  });

  test(`the page of ${name} is whole and light on paper, whatever the screen's colours`, async (t) => {
    const tab = await newPage(await launch(t), { viewport: { width: 700, height: 1000 }, colorScheme: 'dark' });
    await tab.goto(pathToFileURL(page(name)).href);
    await tab.emulateMedia({ media: 'print', colorScheme: 'dark' });
    const seen = await tab.evaluate(looks);
    assert.ok(seen.paper > 200, `paper ${seen.paper}`);
    assert.ok(seen.contentWidth <= 700, `${seen.contentWidth} px wide on 700`);
    assert.deepEqual(seen.beyond, []);
    assert.deepEqual(seen.scrolling, [], 'paper does not scroll');
    inOrder(seen.sections, SECTIONS[name]);
    assert.ok(seen.charts >= 2, 'charts are printed');
    const pdf = await tab.pdf({ format: 'A4', preferCSSPageSize: true });
    assert.equal(pdf.subarray(0, 5).toString(), '%PDF-');
  });
}

/** In the page: how it looks. */
function looks() {
  const visible = (element) => element.getClientRects().length > 0;
  const all = (selector) => [...document.querySelectorAll(selector)].filter(visible);
  const edge = document.documentElement.clientWidth;
  const [paper] = getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number);
  return {
    contentWidth: document.documentElement.scrollWidth,
    // The verdicts and the charts' own text are what nobody may have to scroll for.
    beyond: all('.verdict, .metrics b, figure svg, .tiles dd').filter((it) => it.getBoundingClientRect().right > edge + 1).map((it) => it.textContent),
    scrolling: all('.scroll').filter((it) => getComputedStyle(it).overflowX !== 'visible').length > 0 ? ['.scroll'] : [],
    sections: all('h2').map((it) => it.textContent),
    charts: all('figure svg').length,
    paper,
  };
}

function inOrder(sections, expected) {
  assert.deepEqual(sections.filter((it) => expected.includes(it)), expected, `of ${sections.join(', ')}`);
}

/** Its exit code is about the machine; the page is written all the same. */
async function loadgen(args) {
  try {
    await promisify(execFile)(LOADGEN_BIN, args);
  } catch (error) {
    if (error.code !== 97) throw error;
  }
}
