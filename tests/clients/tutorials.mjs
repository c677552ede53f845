// The code blocks of the tutorials, taken from the documents as they stand there: nothing is trimmed, corrected or formatted.
// This file does not run them; see `client.mjs`.

import { readFileSync } from 'node:fs';

/** The text of one tutorial, `name` being `'000'` to `'004'`. */
export function document(name) {
  return readFileSync(new URL(`../tutorials/${name}.md`, import.meta.url), 'utf8');
}

/**
 * The fenced code blocks of one tutorial, in order: `[{lang, code, heading}]`.
 *
 * `lang` is the fence's first word in lower case (`''` without one), so that "``` Javascript" and "```javascript" are alike.
 * `code` is the block with every line ended by a newline; of a block inside a list only the list's indentation is taken off.
 * `heading` is the nearest heading above, or a line all in bold that serves as one, without its `#` and `*`; else undefined.
 */
export function codeBlocks(name) {
  const blocks = [];
  let heading;
  let open; // the block we are in: {indent, fence, lang, lines}
  for (const line of document(name).split('\n')) {
    if (open) {
      if (line.trim() === open.fence) {
        const code = open.lines.map((each) => `${each}\n`).join('');
        blocks.push({ lang: open.lang, code, heading: open.heading });
        open = undefined;
      } else {
        open.lines.push(withoutIndent(line, open.indent));
      }
      continue;
    }
    const fence = /^( *)(`{3,})([^`]*)$/.exec(line);
    if (fence) {
      const lang = (fence[3].trim().split(/\s+/)[0] ?? '').toLowerCase();
      open = { indent: fence[1].length, fence: fence[2], lang, heading, lines: [] };
    } else if (/^#{1,6} /.test(line) || /^\*\*.+\*\*\s*$/.test(line)) {
      heading = line.replace(/^#+ /, '').replaceAll('*', '').trim();
    }
  }
  if (open) throw new Error(`${name}.md: the code block under "${open.heading}" is never closed`);
  return blocks;
}

/** The one code block of tutorial `name` in language `lang` whose heading matches; an error when there is none or more. */
export function codeBlock(name, lang, heading) {
  const found = codeBlocks(name).filter((block) => block.lang === lang && heading.test(block.heading ?? ''));
  if (found.length !== 1) {
    throw new Error(`${name}.md: ${found.length} ${lang} blocks under a heading like ${heading}, not 1`);
  }
  return found[0].code;
}

/** What stands between `<script>` and `</script>` in a page. */
export function pageScript(html) {
  const scripts = [...html.matchAll(/<script>(.*?)<\/script>/gs)];
  if (scripts.length !== 1) throw new Error(`the page has ${scripts.length} scripts, not 1`);
  return scripts[0][1];
}

/** Takes off up to `indent` leading spaces, as Markdown does inside an indented fence. */
function withoutIndent(line, indent) {
  let spaces = 0;
  while (spaces < indent && line[spaces] === ' ') spaces += 1;
  return line.slice(spaces);
}
