// A text that the user and a base model write together: what it holds, and what edits make of it.
//
// {text, written, versions, pending, last}
//   text      as it stands, without a continuation that is on its way
//   written   [[start, end], ...]: the characters of it that the model wrote, in order
//   versions  [{text, written}, ...]: as it stood before and after each continuation
//   pending   {at} while a continuation is on its way: where it will stand
//   last      {text, written, at}: before the last continuation, for another one in its place

import { h } from "./dom.js";

const MOST_VERSIONS = 100;
const TYPED_TOGETHER_MS = 1000; // what is typed within it is undone together

export const emptyText = () => ({ text: "", written: [], versions: [], pending: null, last: null });

/** What turned one text into another, the cursor standing where it does: {start, end, inserted}, an edit of the old one. */
export function difference(before, after, cursor) {
  const most = Math.min(after.length - cursor, before.length);
  let same = 0; // at the end
  while (same < most && before.at(-1 - same) === after.at(-1 - same)) same++;
  const end = before.length - same;
  let start = 0;
  while (start < Math.min(end, after.length - same) && before[start] === after[start]) start++;
  return { start, end, inserted: after.slice(start, after.length - same) };
}

/** The model's parts after an edit; what is inserted is the user's, unless it is `byModel`. */
export function afterEdit(written, { start, end, inserted }, byModel = false) {
  const shift = inserted.length - (end - start);
  const parts = [];
  for (const [from, to] of written) {
    parts.push([from, Math.min(to, start)], [Math.max(from, end) + shift, to + shift]);
  }
  if (byModel) parts.push([start, start + inserted.length]);
  return joined(parts);
}

function joined(parts) {
  const result = [];
  for (const [from, to] of parts.filter(([from, to]) => from < to).sort((a, b) => a[0] - b[0])) {
    if (result.at(-1)?.[1] === from) result.at(-1)[1] = to;
    else result.push([from, to]);
  }
  return result;
}

/** Change a text: `edit` as `difference` makes it. */
export function change(writing, edit, byModel = false) {
  writing.written = afterEdit(writing.written, edit, byModel);
  writing.text = writing.text.slice(0, edit.start) + edit.inserted + writing.text.slice(edit.end);
}

/** The text as nodes, what the model wrote of it in elements of a class. */
export function tinted({ text, written }) {
  const pieces = [];
  let at = 0;
  for (const [from, to] of written) {
    pieces.push(text.slice(at, from), h("span", { class: "by-model" }, text.slice(from, to)));
    at = to;
  }
  return [...pieces, text.slice(at)];
}

/** Keep the text as it stands among its versions, if it is not there. Returns its place. */
export function remember(writing) {
  const { text, written, versions } = writing;
  const known = versions.findLastIndex((version) => version.text === text);
  if (known >= 0 || text === "") return known;
  versions.push({ text, written });
  if (versions.length > MOST_VERSIONS) versions.shift();
  return versions.length - 1;
}

/** Put the continuation that has come where it belongs. */
export function accept(writing, continuation) {
  const { at } = writing.pending;
  writing.pending = null;
  change(writing, { start: at, end: at, inserted: continuation }, true);
  remember(writing);
}

/** States of a text that an undo goes back to; each is {text, written, cursor}. */
export class History {
  past = [];
  future = [];
  #typed = 0; // when

  /** The text is about to change from this state; `typing` joins what follows soon. */
  before(state, typing = false) {
    const soon = Date.now() - this.#typed < TYPED_TOGETHER_MS;
    this.#typed = typing ? Date.now() : 0;
    if (!(typing && soon)) this.past.push(state);
    this.future = [];
  }

  /** The state to go back to from this one, or undefined. */
  undo(state) {
    return this.#move(this.past, this.future, state);
  }

  redo(state) {
    return this.#move(this.future, this.past, state);
  }

  #move(from, to, state) {
    const other = from.pop();
    if (other) to.push(state);
    this.#typed = 0;
    return other;
  }
}

/** A text out of a file, copied field by field, or null. */
export function importedText(data) {
  if (typeof data?.text !== "string") return null;
  const versions = Array.isArray(data.versions) ? data.versions.filter((each) => typeof each?.text === "string") : [];
  const copied = (each) => ({ text: each.text, written: ranges(each.written, each.text.length) });
  return { ...emptyText(), ...copied(data), versions: versions.slice(-MOST_VERSIONS).map(copied) };
}

const ranges = (data, length) =>
  joined(
    (Array.isArray(data) ? data : []).filter(
      (range) => Array.isArray(range) && range.every(Number.isInteger) && 0 <= range[0] && range[1] <= length,
    ),
  );
