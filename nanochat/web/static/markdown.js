// Markdown as a model writes it, turned into elements. Nothing is ever parsed as HTML and nothing is loaded: text
// becomes text nodes, a link leads only to http, https or mailto, an image is shown as a link to it. Formulas and code
// are drawn as soon as they are complete; see drawing.js.
//
// Every step reads each character a bounded number of times and depth is limited, so that no text can hang the page.

import { copyButton, h } from "./dom.js";
import { colour, formula, MAX_TEX } from "./drawing.js";

const MAX_DEPTH = 16; // of blocks within blocks, and of emphasis within emphasis

/** Shows a text that grows: only blocks that changed are made anew, so a selection above survives. */
export class Markdown {
  constructor() {
    this.element = h("div", { class: "markdown" });
    this.shown = [];
  }

  update(source) {
    const blocks = parse(source.split("\n"), 0);
    const written = blocks.map((block) => JSON.stringify(block));
    let same = 0;
    while (same < written.length && written[same] === this.shown[same]) same++;
    while (this.element.children.length > same) this.element.lastChild.remove();
    this.element.append(...blocks.slice(same).map(blockElement));
    this.shown = written;
  }
}

// Blocks: {type, ...} as plain data, made line by line.

const FENCE = /^ {0,3}(`{3,}(?=[^`]*$)|~{3,})\s*(\S*)/; // backticks after backticks are inline code
const HEADING = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)(?:[-*+]|(\d{1,9})[.)])( +|$)/;
const TASK = /^\[([ xX])\](?:\s+|$)/; // at the beginning of an item
const MATH = /^ {0,3}(\$\$|\\\[)/; // a formula on lines of its own
const MATH_LINES = 60;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;
const withoutIndent = (line, most) => line.slice(Math.min(most, indentOf(line)));

function parse(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const [block, end] = parseOne(lines, at, depth);
    blocks.push(block);
    at = end;
  }
  return blocks;
}

/** The block that starts at this line, and the line after it. */
function parseOne(lines, at, depth) {
  const fence = FENCE.exec(lines[at]);
  if (fence) return parseCode(lines, at, fence[1], fence[2]);
  const heading = HEADING.exec(lines[at]);
  if (heading) {
    const text = (heading[2] ?? "").trim().replace(/(^|\s)#+$/, "");
    return [{ type: "heading", level: heading[1].length, text: text.trim() }, at + 1];
  }
  if (RULE.test(lines[at])) return [{ type: "rule" }, at + 1];
  if (isTable(lines, at)) return parseTable(lines, at);
  const math = parseMath(lines, at);
  if (math) return math;
  if (depth < MAX_DEPTH && QUOTE.test(lines[at])) {
    const end = after(lines, at, (line) => QUOTE.test(line));
    const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
    return [{ type: "quote", blocks: parse(inner, depth + 1) }, end];
  }
  if (depth < MAX_DEPTH && ITEM.test(lines[at])) return parseList(lines, at, depth);
  const end = after(lines, at + 1, (line, i) => !isBlank(line) && !startsBlock(lines, i));
  const text = lines.slice(at, end).map((line) => line.trim());
  return [{ type: "paragraph", text: text.join("\n") }, end];
}

/** The first line from here on that is not `wanted`. */
function after(lines, at, wanted) {
  while (at < lines.length && wanted(lines[at], at)) at++;
  return at;
}

/** Does this line end the paragraph before it? A number other than 1 does not: "in\n1986. Then" is no list. */
function startsBlock(lines, at) {
  const item = ITEM.exec(lines[at]);
  if (item && (item[2] === undefined || Number(item[2]) === 1)) return true;
  return (
    [FENCE, HEADING, RULE, QUOTE].some((start) => start.test(lines[at])) || isTable(lines, at) || !!parseMath(lines, at)
  );
}

/** Without a closing fence it is code to the end: it is still being written. */
function parseCode(lines, at, marks, language) {
  const closes = (line) => line.startsWith(marks) && line === marks[0].repeat(line.length);
  const end = after(lines, at + 1, (line) => !closes(line.trim()));
  const code = lines.slice(at + 1, end).map((line) => withoutIndent(line, indentOf(lines[at])));
  return [{ type: "code", language, text: code.join("\n"), closed: end < lines.length }, end + 1];
}

/** $$ or \[ to its counterpart at the end of a line, without a blank line; or to the end: it is still being written. */
function parseMath(lines, at) {
  const opens = MATH.exec(lines[at])?.[1];
  if (!opens) return null;
  const closes = opens === "$$" ? "$$" : "\\]";
  const start = lines[at].indexOf(opens) + opens.length;
  for (let end = at; end < Math.min(lines.length, at + MATH_LINES); end++) {
    const line = (end === at ? lines[at].slice(start) : lines[end]).trimEnd();
    const place = line.indexOf(closes);
    if (place >= 0 && place < line.length - closes.length) return null; // text follows: it is part of a paragraph
    if (place >= 0) {
      const text = [...(end > at ? [lines[at].slice(start)] : []), ...lines.slice(at + 1, end), line.slice(0, place)];
      return [{ type: "math", source: lines.slice(at, end + 1).join("\n"), text: text.join("\n").trim() }, end + 1];
    }
    if (end > at && end < lines.length - 1 && isBlank(line)) return null;
  }
  const isOpen = lines.length - at <= MATH_LINES;
  return isOpen ? [{ type: "math", source: lines.slice(at).join("\n"), text: "" }, lines.length] : null;
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || !lines[at + 1]?.includes("-")) return false;
  const dashes = cells(lines[at + 1]);
  return dashes.every((cell) => /^:?-+:?$/.test(cell)) && dashes.length === cells(lines[at]).length;
}

/** The cells of a table's line; a bar after a backslash belongs to the text. */
function cells(line) {
  const found = line.trim().split(/(?<!\\)\|/);
  if (found[0] === "") found.shift();
  if (found.at(-1) === "") found.pop();
  return found.map((cell) => cell.replaceAll("\\|", "|").trim());
}

function parseTable(lines, at) {
  const end = after(lines, at + 2, (line) => line.includes("|"));
  const align = cells(lines[at + 1]).map((dashes) => {
    if (dashes.endsWith(":")) return dashes.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = lines.slice(at + 2, end).map(cells);
  return [{ type: "table", align, head: cells(lines[at]), rows }, end];
}

function parseList(lines, at, depth) {
  const [, { length: base }, number] = ITEM.exec(lines[at]);
  const items = [];
  let loose = false;
  let end = at;
  while (true) {
    const next = after(lines, end, isBlank);
    const match = ITEM.exec(lines[next] ?? "");
    if (!match || RULE.test(lines[next])) break;
    if ((match[2] === undefined) !== (number === undefined) || Math.abs(match[1].length - base) > 1) break;
    loose ||= next > end;
    end = after(lines, next + 1, (_, i) => belongs(lines, i, base));
    const indent = match[0].length;
    const inner = lines.slice(next, end).map((line, i) => (i === 0 ? line.slice(indent) : withoutIndent(line, indent)));
    loose ||= inner.slice(1).some(isBlank);
    items.push(parse(inner, depth + 1));
  }
  return [{ type: "list", start: number === undefined ? null : Number(number), loose, items }, end];
}

/** Does a line after an item's first one belong to it? Models often indent what does by two spaces only. */
function belongs(lines, at, base) {
  if (isBlank(lines[at])) return !isBlank(lines[at + 1] ?? "") && indentOf(lines[at + 1]) >= base + 2;
  if (indentOf(lines[at]) >= base + 2) return true;
  return !isBlank(lines[at - 1]) && !ITEM.test(lines[at]) && !startsBlock(lines, at);
}

// Elements from blocks. The page's own headings are h1 and h2; what is below them belongs to the message.

// Each runs from right to left where its first letter does.
const dir = "auto";

const RENDER = {
  heading: ({ level, text }) => h(`h${Math.min(level + 2, 6)}`, { class: `level-${level}`, dir }, inline(text)),
  rule: () => h("hr"),
  quote: ({ blocks }) => h("blockquote", { dir }, ...blocks.map(blockElement)),
  paragraph: ({ text }) => h("p", { dir }, inline(text)),
  math: ({ source, text }) => formula(source, text, true),
  code: codeElement,
  list: listElement,
  table: tableElement,
};

const blockElement = (block) => RENDER[block.type](block);

function codeElement({ language, text, closed }) {
  const code = h("code", {}, text);
  if (closed && language) colour(code, language, text);
  const copy = copyButton("Copy code", () => text);
  const name = language ? `Code: ${language}` : "Code";
  return h(
    "div",
    { class: "code" },
    h("div", { class: "code-head" }, h("span", {}, language || "code"), copy),
    h("pre", { tabindex: "0", role: "group", "aria-label": name, dir: "ltr" }, code),
  );
}

function listElement({ start, loose, items }) {
  const content = (block) => (block.type === "paragraph" && !loose ? inline(block.text) : blockElement(block));
  const entries = items.map((blocks) => {
    const [first, ...rest] = blocks;
    const task = first?.type === "paragraph" && TASK.exec(first.text);
    if (!task) return h("li", { dir }, ...blocks.map(content));
    const text = { ...first, text: first.text.slice(task[0].length) };
    return h("li", { dir, class: "task" }, box(task[1] !== " "), ...[text, ...rest].map(content));
  });
  return start === null ? h("ul", { dir }, ...entries) : h("ol", { dir, start: start === 1 ? null : start }, ...entries);
}

const box = (checked) =>
  h("input", { type: "checkbox", disabled: true, checked, "aria-label": checked ? "Done" : "To do" });

function tableElement({ align, head, rows }) {
  const row = (tag, texts, scope) =>
    h("tr", {}, ...align.map((name, column) => h(tag, { class: name, scope, dir }, inline(texts[column] ?? ""))));
  const body = rows.map((texts) => row("td", texts));
  const table = h("table", {}, h("thead", {}, row("th", head, "col")), h("tbody", {}, ...body));
  return h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
}

// Text within a block, from token to token. An emphasis mark that may open something becomes text and its place is
// remembered; when its counterpart comes, all nodes since then move into a new element.

const TOKEN = [
  /(?<math>\\[([]|\$\$?)/,
  /\\(?<escaped>[!-/:-@[-`{-~])/,
  /(?<newline>\n)/,
  /(?<ticks>`+)/,
  /(?<marks>\*+|_+|~+)/,
  // [label](address "title"); brackets may nest once in label and address, and a few kilobytes are enough for each
  /(?<bracket>!?\[)(?<label>(?:[^[\]]|\[[^[\]]*\]){1,2000})\]\(/,
  /<(?<pointed>(?:https?:\/\/|mailto:)[^\s<>]+)>/,
  /(?<!\w)(?<bare>https?:\/\/[^\s<>"'`]*[^\s<>"'`.,:;!?)\]*_~])/, // without the end of the sentence
]
  .map((part) => part.source)
  .join("|");
const TARGET = /\s?<?((?:[^\s()<>]|\([^\s()<>]*\)){1,2000})>?(?:\s[^()\n]{0,500})?\)/y;
const ELEMENTS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };

/** A fragment with the text, its emphasis, code and links. Within a link, other links are text. */
export function inline(source, inLink = false) {
  const token = new RegExp(TOKEN, "g");
  const nodes = []; // and texts
  const openers = []; // {mark, position in nodes}
  const unclosed = new Set(); // runs of backticks that do not come again
  const closers = {}; // where the end of a formula comes next, so that the text is searched once
  let at = 0;
  const text = (end) => end > at && nodes.push(source.slice(at, end));

  for (let found; (found = token.exec(source)); ) {
    const { math, escaped, newline, ticks, marks, bracket, label, pointed, bare } = found.groups;
    text(found.index);
    at = token.lastIndex;
    if (math) {
      const end = endOfMath(source, found.index, math, closers);
      const whole = source.slice(found.index, end);
      if (end) nodes.push(formula(whole, whole.slice(math.length, -math.length).trim(), /^(\$\$|\\\[)/.test(math)));
      else nodes.push(math[0] === "\\" ? math[1] : math); // a bracket after a backslash is one
      at = end || at;
    } else if (escaped) nodes.push(escaped);
    else if (newline) nodes.push(h("br")); // models mean the line breaks that they write
    else if (marks) emphasize(nodes, openers, marks, source[found.index - 1] ?? " ", source[at] ?? " ");
    else if (ticks) {
      const end = unclosed.has(ticks) ? -1 : closingRun(source, at, ticks.length);
      nodes.push(end < 0 ? ticks : codeSpan(source.slice(at, end)));
      if (end < 0) unclosed.add(ticks);
      else at = end + ticks.length;
    } else if (bracket) {
      TARGET.lastIndex = at;
      const target = inLink ? null : TARGET.exec(source);
      const link = target && anchor(target[1], () => inline(label, true));
      nodes.push(link || bracket);
      at = link ? at + target[0].length : found.index + bracket.length;
    } else nodes.push((!inLink && anchor(pointed ?? bare, () => pointed ?? bare)) || found[0]);
    token.lastIndex = at;
  }
  text(source.length);
  const fragment = document.createDocumentFragment();
  fragment.append(...nodes);
  return fragment;
}

const CLOSES = { "\\(": "\\)", "\\[": "\\]", $$: "$$", $: "$" };

/** Where the formula ends that begins here, or 0. A price is none: $5 and $6. */
function endOfMath(source, from, opens, closers) {
  const inside = from + opens.length;
  const closes = CLOSES[opens];
  if (!(closers[closes] >= inside || closers[closes] === -1)) closers[closes] = source.indexOf(closes, inside);
  const place = closers[closes];
  if (place <= inside || place - inside > MAX_TEX) return 0;
  const end = place + closes.length;
  if (opens !== "$") return end;
  const [before, first, last, after] = [from - 1, inside, place - 1, end].map((i) => source[i] ?? " ");
  const isText = /\w/.test(before) || /\s/.test(first) || /[\s\\]/.test(last) || /[\w$]/.test(after);
  return isText || source.slice(inside, place).includes("\n") ? 0 : end;
}

/** A run of marks, between two characters: each mark closes what it can, else opens what it may, else is text. */
function emphasize(nodes, openers, run, before, after) {
  const within = run[0] === "_" && /\w/.test(before) && /\w/.test(after); // snake_case
  const opens = !within && !/\s/.test(after);
  const closes = !within && !/\s/.test(before);
  const marks = Array(Math.floor(run.length / 2)).fill(run.slice(0, 2));
  if (run.length % 2) marks.unshift(run[0]);
  // What was opened last is closed first: ***a*** is * around **.
  if (closes && openers.findLast(({ mark }) => mark[0] === run[0])?.mark.length === 2) marks.reverse();
  for (const mark of marks) {
    const opener = closes ? openers.findLastIndex((each) => each.mark === mark) : -1;
    const position = openers[opener]?.position;
    if (opener >= 0 && position < nodes.length - 1) {
      const element = h(ELEMENTS[mark]);
      element.append(...nodes.splice(position).slice(1));
      nodes.push(element);
      openers.length = opener;
      continue;
    }
    if (opens && mark in ELEMENTS) openers.push({ mark, position: nodes.length });
    if (openers.length > MAX_DEPTH) openers.shift();
    nodes.push(mark);
  }
}

/** Where a run of exactly this many backticks starts, or -1. */
function closingRun(source, from, length) {
  for (const run of source.slice(from).matchAll(/`+/g)) if (run[0].length === length) return from + run.index;
  return -1;
}

function codeSpan(text) {
  const code = text.replaceAll("\n", " ");
  const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
  return h("code", {}, padded ? code.slice(1, -1) : code);
}

/** A link if it leads somewhere harmless, else null. A relative address would lead into this server. */
function anchor(href, content) {
  const isSafe = /^(https?:\/\/|mailto:)/i.test(href) && URL.canParse(href);
  return isSafe ? h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" }, content()) : null;
}
