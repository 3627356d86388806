// Markdown as a model writes it, turned into elements. Nothing is ever parsed as HTML and nothing is loaded: text
// becomes text nodes, a link leads only to http, https or mailto, an image is shown as a link to it.
//
// Every step reads each character a bounded number of times and depth is limited, so that no text can hang the page.

import { copyButton, h } from "./dom.js";

const MAX_DEPTH = 16;

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

const FENCE = /^ {0,3}(`{3,}|~{3,})(.*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t](.*))?$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;

const isBlank = (line) => line.trim() === "";
const indentOf = (line) => line.length - line.trimStart().length;

function parse(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at++;
      continue;
    }
    const [block, next] = parseOne(lines, at, depth);
    blocks.push(block);
    at = next;
  }
  return blocks;
}

/** The block that starts at this line, and the line after it. */
function parseOne(lines, at, depth) {
  const line = lines[at];
  const fence = fenceOf(line);
  if (fence) return parseCode(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading)
    return [{ type: "heading", level: heading[1].length, text: withoutClosingMarks(heading[2] ?? "") }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (isTable(lines, at)) return parseTable(lines, at);
  if (depth < MAX_DEPTH && QUOTE.test(line)) return parseQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return parseList(lines, at, depth);
  return parseParagraph(lines, at);
}

function fenceOf(line) {
  const match = FENCE.exec(line);
  // Backticks after backticks are inline code.
  return match && !(match[1][0] === "`" && match[2].includes("`"))
    ? { marks: match[1], language: match[2].trim().split(/\s/)[0] }
    : null;
}

function parseCode(lines, at, { marks, language }) {
  const indent = indentOf(lines[at]);
  const code = [];
  let end = at + 1;
  for (; end < lines.length; end++) {
    const line = lines[end].trim();
    if (line.startsWith(marks) && line === marks[0].repeat(line.length)) break;
    code.push(lines[end].slice(Math.min(indent, indentOf(lines[end]))));
  }
  // Without a closing fence it is code to the end: it is still being written.
  return [{ type: "code", language, text: code.join("\n") }, end + 1];
}

function withoutClosingMarks(text) {
  const trimmed = text.trim();
  let end = trimmed.length;
  while (trimmed[end - 1] === "#") end--;
  return end === 0 || /\s/.test(trimmed[end - 1] ?? " ") ? trimmed.slice(0, end).trim() : trimmed;
}

function isTable(lines, at) {
  if (!lines[at].includes("|") || at + 1 >= lines.length || !lines[at + 1].includes("-")) return false;
  const dashes = cells(lines[at + 1]);
  return dashes.every((cell) => /^:?-+:?$/.test(cell)) && dashes.length === cells(lines[at]).length;
}

/** The cells of a table's line; a bar after a backslash belongs to the text. */
function cells(line) {
  const found = [""];
  const text = line.trim();
  for (let i = text[0] === "|" ? 1 : 0; i < text.length; i++) {
    if (text[i] === "\\" && text[i + 1] === "|") found[found.length - 1] += text[++i];
    else if (text[i] !== "|") found[found.length - 1] += text[i];
    else if (i < text.length - 1) found.push("");
  }
  return found.map((cell) => cell.trim());
}

function parseTable(lines, at) {
  const align = cells(lines[at + 1]).map((dashes) => {
    if (dashes.endsWith(":")) return dashes.startsWith(":") ? "center" : "right";
    return "left";
  });
  const rows = [];
  let end = at + 2;
  for (; end < lines.length && lines[end].includes("|"); end++) {
    const row = cells(lines[end]);
    rows.push(align.map((_, column) => row[column] ?? ""));
  }
  return [{ type: "table", align, head: cells(lines[at]), rows }, end];
}

function parseQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end++;
  const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return [{ type: "quote", blocks: parse(inner, depth + 1) }, end];
}

function parseList(lines, at, depth) {
  const first = ITEM.exec(lines[at]);
  const ordered = /\d/.test(first[2]);
  const base = first[1].length;
  const items = [];
  let end = at;
  let loose = false;
  let gap = false; // a blank line before this item
  while (end < lines.length) {
    const match = ITEM.exec(lines[end]);
    if (!match || /\d/.test(match[2]) !== ordered || Math.abs(match[1].length - base) > 1 || RULE.test(lines[end]))
      break;
    // Models often indent what belongs to "1. " by two spaces only, which is therefore enough.
    const start = end++;
    while (end < lines.length && belongs(lines, end, base)) end++;
    while (isBlank(lines[end - 1])) end--;
    const text = match[0].length;
    const inner = lines
      .slice(start, end)
      .map((line, i) => (i === 0 ? line.slice(text) : line.slice(Math.min(text, indentOf(line)))));
    items.push(parse(inner, depth + 1));
    loose ||= gap || inner.some((line, i) => isBlank(line) && i > 0);
    let next = end;
    while (next < lines.length && isBlank(lines[next])) next++;
    gap = next > end && next < lines.length && ITEM.test(lines[next]);
    if (gap) end = next;
  }
  return [{ type: "list", ordered, start: ordered ? parseInt(first[2], 10) : null, loose, items }, end];
}

/** Does a line after an item's first one belong to that item? */
function belongs(lines, at, base) {
  if (isBlank(lines[at])) return !isBlank(lines[at + 1] ?? "") && indentOf(lines[at + 1]) >= base + 2;
  if (indentOf(lines[at]) >= base + 2) return true;
  return !isBlank(lines[at - 1]) && !ITEM.test(lines[at]) && !startsBlock(lines, at);
}

/** Does this line end the paragraph before it? A number other than 1 does not: "in\n1986. Then" is no list. */
function startsBlock(lines, at) {
  const item = ITEM.exec(lines[at]);
  if (item && (!/\d/.test(item[2]) || parseInt(item[2], 10) === 1)) return true;
  return (
    fenceOf(lines[at]) !== null || [HEADING, RULE, QUOTE].some((start) => start.test(lines[at])) || isTable(lines, at)
  );
}

function parseParagraph(lines, at) {
  let end = at + 1;
  while (end < lines.length && !isBlank(lines[end]) && !startsBlock(lines, end)) end++;
  return [
    {
      type: "paragraph",
      text: lines
        .slice(at, end)
        .map((line) => line.trim())
        .join("\n"),
    },
    end,
  ];
}

// Elements from blocks.

function blockElement(block) {
  switch (block.type) {
    case "heading": {
      // The page's own headings are h1 and h2; what is below them belongs to the message.
      return h(`h${Math.min(block.level + 2, 6)}`, { class: `level-${block.level}` }, inline(block.text));
    }
    case "rule":
      return h("hr");
    case "code":
      return codeElement(block);
    case "quote":
      return h("blockquote", {}, ...block.blocks.map(blockElement));
    case "list":
      return listElement(block);
    case "table":
      return tableElement(block);
    default:
      return h("p", {}, inline(block.text));
  }
}

function codeElement({ language, text }) {
  const name = language ? `Code: ${language}` : "Code";
  return h(
    "div",
    { class: "code" },
    h(
      "div",
      { class: "code-head" },
      h("span", {}, language || "code"),
      copyButton("Copy code", () => text),
    ),
    h("pre", { tabindex: "0", role: "group", "aria-label": name }, h("code", {}, text)),
  );
}

function listElement({ ordered, start, loose, items }) {
  return h(
    ordered ? "ol" : "ul",
    { start: ordered && start !== 1 ? start : null },
    ...items.map((blocks) =>
      h(
        "li",
        {},
        ...blocks.map((block) => (block.type === "paragraph" && !loose ? inline(block.text) : blockElement(block))),
      ),
    ),
  );
}

function tableElement({ align, head, rows }) {
  const row = (tag, texts) =>
    h(
      "tr",
      {},
      ...texts.map((text, column) =>
        h(tag, { class: align[column], scope: tag === "th" ? "col" : null }, inline(text)),
      ),
    );
  const table = h(
    "table",
    {},
    h("thead", {}, row("th", head)),
    h("tbody", {}, ...rows.map((texts) => row("td", texts))),
  );
  return h("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
}

// Text within a block, from left to right. What may open something (*, **, [ ...) becomes text and its place is
// remembered; when its counterpart comes, all nodes since then move into a new element.

const ESCAPABLE = /[!-/:-@[-`{-~]/;
const WEB_ADDRESS = /^https?:\/\/[^\s<>"'`]+/;
const LONGEST_ADDRESS = 2000;
const MOST_OPENERS = 100; // real text has few at a time; a wall of asterisks must not make the page slow

/** A fragment with the text, its emphasis, code and links. */
export function inline(source) {
  return new Inline(source).fragment();
}

class Inline {
  constructor(source) {
    this.source = source;
    this.at = 0;
    this.text = ""; // not yet in a node
    this.nodes = []; // {node, depth}
    this.openers = []; // {mark, position in nodes}
    this.unclosed = new Set(); // lengths of backtick runs that do not come again
  }

  fragment() {
    while (this.at < this.source.length) this.#step();
    this.#flush();
    const fragment = document.createDocumentFragment();
    fragment.append(...this.nodes.map(({ node }) => node));
    return fragment;
  }

  #step() {
    const { source, at } = this;
    const character = source[at];
    if (character === "\\" && ESCAPABLE.test(source[at + 1] ?? "")) {
      this.text += source[at + 1];
      this.at += 2;
    } else if (character === "\n") {
      // Models mean the line breaks that they write.
      this.#put(h("br"));
      this.at++;
    } else if (character === "`") this.#code();
    else if (character === "*" || character === "_" || character === "~") this.#emphasis();
    else if (character === "[") this.#open("[", "[");
    else if (character === "!" && source[at + 1] === "[") this.#open("[", "![");
    else if (character === "]") this.#link();
    else if (character === "<") this.#pointedAddress();
    else if (character === "h" && !/\w/.test(source[at - 1] ?? " ")) this.#bareAddress();
    else this.#literal(character);
  }

  #literal(text) {
    this.text += text;
    this.at += text.length;
  }

  #put(node, depth = 0) {
    this.#flush();
    this.nodes.push({ node, depth });
  }

  #flush() {
    if (this.text) this.nodes.push({ node: document.createTextNode(this.text), depth: 0 });
    this.text = "";
  }

  #open(mark, written) {
    this.#put(document.createTextNode(written));
    this.openers.push({ mark, position: this.nodes.length - 1 });
    if (this.openers.length > MOST_OPENERS) this.openers.shift();
    this.at += written.length;
  }

  /** Take the openers from this one on back; what is between the first and here goes into the element. */
  #close(opener, element) {
    this.#flush();
    const { position } = this.openers[opener];
    this.openers.length = opener;
    const inner = this.nodes.slice(position + 1);
    const depth = 1 + Math.max(0, ...inner.map((each) => each.depth));
    if (inner.length === 0 || depth > MAX_DEPTH) return false;
    element.append(...inner.map(({ node }) => node));
    this.nodes.splice(position, Infinity, { node: element, depth });
    return true;
  }

  #code() {
    const { source, at } = this;
    const length = runLength(source, at);
    const end = this.unclosed.has(length) ? -1 : closingRun(source, at + length, length);
    if (end < 0) {
      this.unclosed.add(length);
      this.#literal("`".repeat(length));
      return;
    }
    const code = source.slice(at + length, end).replaceAll("\n", " ");
    const padded = code.startsWith(" ") && code.endsWith(" ") && code.trim() !== "";
    this.#put(h("code", {}, padded ? code.slice(1, -1) : code));
    this.at = end + length;
  }

  #emphasis() {
    const { source, at } = this;
    const run = runLength(source, at);
    const before = source[at - 1] ?? " ";
    const after = source[at + run] ?? " ";
    const within = source[at] === "_" && /\w/.test(before) && /\w/.test(after); // snake_case
    const opens = !within && !/\s/.test(after);
    const closes = !within && !/\s/.test(before);
    const marks = marksOf(source[at], run);
    // What was opened last is closed first: ***a*** is * around **.
    if (closes && this.openers.findLast(({ mark }) => mark[0] === source[at])?.mark.length === 2) marks.reverse();
    for (const mark of marks) {
      const opener = closes ? this.openers.findLastIndex((other) => other.mark === mark) : -1;
      if (opener >= 0 && this.#close(opener, h(ELEMENTS[mark]))) this.at += mark.length;
      else if (opens && mark in ELEMENTS) this.#open(mark, mark);
      else this.#literal(mark);
    }
  }

  #link() {
    const opener = this.openers.findLastIndex(({ mark }) => mark === "[");
    const target = opener < 0 ? null : linkTarget(this.source.slice(this.at + 1, this.at + 1 + LONGEST_ADDRESS));
    const href = target && safeAddress(target.address);
    if (!href) {
      if (opener >= 0) this.openers.splice(opener, 1);
      this.#literal("]");
      return;
    }
    const element = anchor(href);
    if (!this.#close(opener, element)) {
      this.#literal("]");
      return;
    }
    for (const inner of element.querySelectorAll("a")) inner.replaceWith(inner.textContent);
    this.at += 1 + target.length;
  }

  #pointedAddress() {
    const rest = this.source.slice(this.at + 1, this.at + LONGEST_ADDRESS);
    const written = rest.slice(0, Math.max(0, rest.indexOf(">")));
    if (!this.#address(written)) this.#literal("<");
    else this.at += 2;
  }

  #bareAddress() {
    const found = WEB_ADDRESS.exec(this.source.slice(this.at, this.at + LONGEST_ADDRESS))?.[0] ?? "";
    // The end of the sentence is not part of the address.
    if (!this.#address(found.replace(/[.,:;!?)\]*_~]+$/, ""))) this.#literal("h");
  }

  #address(written) {
    const href = /\s/.test(written) ? null : safeAddress(written);
    if (!href) return false;
    const element = anchor(href);
    element.append(written);
    this.#put(element, 1);
    this.at += written.length;
    return true;
  }
}

const ELEMENTS = { "*": "em", _: "em", "**": "strong", __: "strong", "~~": "del" };

/** A run of marks as pairs, and a single one if the run is odd. */
function marksOf(character, run) {
  const marks = Array(Math.floor(run / 2)).fill(character.repeat(2));
  return run % 2 ? [character, ...marks] : marks;
}

function runLength(source, at) {
  let end = at;
  while (source[end] === source[at]) end++;
  return end - at;
}

/** Where a run of exactly this many backticks starts, or -1. */
function closingRun(source, from, length) {
  for (let at = source.indexOf("`", from); at >= 0; at = source.indexOf("`", at)) {
    const run = runLength(source, at);
    if (run === length) return at;
    at += run;
  }
  return -1;
}

/** The `(address "title")` at the start of a text: {address, length}, or null. Brackets may nest within the address. */
function linkTarget(text) {
  if (text[0] !== "(") return null;
  let depth = 0;
  for (let at = 0; at < text.length; at++) {
    if (text[at] === "(") depth++;
    else if (text[at] === ")" && --depth === 0) {
      const [address] = text.slice(1, at).trim().split(/\s/);
      return { address: address.replace(/^<|>$/g, ""), length: at + 1 };
    } else if (text[at] === "\n") return null;
  }
  return null;
}

const SAFE = new Set(["http:", "https:", "mailto:"]);

/** The address if it leads somewhere harmless, else null. A relative one would lead into this server. */
function safeAddress(address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return null;
  return URL.canParse(address) && SAFE.has(new URL(address).protocol) ? address : null;
}

const anchor = (href) => h("a", { href, target: "_blank", rel: "noopener noreferrer nofollow" });
