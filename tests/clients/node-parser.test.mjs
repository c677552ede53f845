// wsd never upgrades what both httparse and Node's HTTP parser reject. Here: what the corpus says about Node is true.
// tests/corpus.rs has the other half: wsd's answers, and httparse.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';

import { judge, readCorpus } from './node-parser.mjs';

const { llhttp, variants } = readCorpus();
let verdicts;

before(async () => {
  verdicts = await judge(variants.map(({ bytes }) => bytes));
});

test('Node rejects nothing that wsd upgrades', () => {
  assert.ok(variants.length >= 200, `${variants.length} variants`);
  const refused = variants.filter(({ answer }, index) => answer === 101 && verdicts[index] === 'rejects');
  assert.deepEqual(refused.map(({ name }) => name), []);
});

test('the column of the corpus is what Node says', (t) => {
  const wrong = variants.flatMap(({ name, node }, index) => {
    return node === verdicts[index] ? [] : [`${name}: ${node}, but Node says ${verdicts[index]}`];
  });
  // Another version of the parser may be stricter or laxer about what is refused anyway.
  if (process.versions.llhttp === llhttp) assert.deepEqual(wrong, []);
  else wrong.forEach((line) => t.diagnostic(line));
});
