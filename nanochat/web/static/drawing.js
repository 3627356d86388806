// Formulas and code as the server draws them: plain until then, asked for once, in batches, and kept. What it sends is
// data, [name, attributes, ...children] or [[kind, text], ...], and becomes elements of MathML and text.

import { ApiError, request } from "./api.js";
import { h } from "./dom.js";

export const MAX_TEX = 2000; // characters, as at the server
const MAX_CODE = 20_000;
const BATCH = 32;
const KEPT = 1000; // results
const LONG = 40; // characters of a formula that may be wider than a phone

const results = new Map(); // item as JSON → what came back; null stays plain
const waiting = new Map(); // item as JSON → elements
let asking = false;
let done = Promise.resolve();

/** Resolves when all that waits to be drawn is drawn. */
export const drawn = () => done;

/** A formula's element; "" for tex leaves it as it is written. */
export function formula(source, tex, display) {
  const name = ["math", display && "display", tex.length > LONG && "long"].filter(Boolean).join(" ");
  const scrolls = display || tex.length > LONG ? { tabindex: "0", role: "group", "aria-label": "Formula" } : {};
  const element = h("span", { class: name, dir: "ltr", ...scrolls }, source);
  if (tex && tex.length <= MAX_TEX) draw(element, { type: "math", text: tex, display });
  return element;
}

/** Colours the text of an element. */
export function colour(element, language, text) {
  if (text.length <= MAX_CODE && language.length <= 40) draw(element, { type: "code", text, language });
}

function draw(element, item) {
  const key = JSON.stringify(item);
  if (results.has(key)) return show(element, results.get(key));
  waiting.set(key, [...(waiting.get(key) ?? []), element]);
  if (!asking) done = ask();
}

async function ask() {
  asking = true;
  await null; // what is drawn together is asked for together
  while (waiting.size) {
    const batch = [...waiting.keys()].slice(0, BATCH);
    const drawn = await answers(batch);
    batch.forEach((key, i) => {
      results.set(key, drawn[i]);
      for (const element of waiting.get(key)) show(element, drawn[i]);
      waiting.delete(key);
    });
    for (const key of results.keys()) if (results.size > KEPT) results.delete(key);
  }
  asking = false;
}

async function answers(batch) {
  try {
    const body = { items: batch.map((key) => JSON.parse(key)) };
    return (await (await request("typeset", { method: "POST", body })).json()).items;
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    return batch.map(() => null); // the server is away, or does not draw: the text can be read as it is
  }
}

function show(element, drawn) {
  if (drawn === null) return;
  const isMath = element.classList.contains("math");
  element.replaceChildren(...(isMath ? [mathml(drawn)] : drawn.map(run)));
}

const run = ([kind, text]) => (kind ? h("span", { class: `hl-${kind}` }, text) : text);

function mathml([name, attributes, ...children]) {
  const element = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  element.append(...children.map((child) => (typeof child === "string" ? child : mathml(child))));
  return element;
}
