// A conversation as a document to be read elsewhere: Markdown, or a web page in one file. Both hold what is shown, not
// the other versions of its messages; for those there is the export of conversation.js.

import { h } from "./dom.js";
import { drawn } from "./drawing.js";
import { elementsOf } from "./message.js";
import { path, textOf } from "./tree.js";
import { tinted } from "./writing.js";

const NO_ANSWER = "(no answer)";
const nameOf = (node) => (node.role === "user" ? "You" : node.model || "Answer");
const isAnswered = (node) => node.role === "user" || node.parts.some((part) => part.text !== "");

/** When it began, and with which models: for the line below the title. */
function aboutLine({ created, columns }) {
  const models = columns.flatMap(path).map((node) => node.model);
  const day = new Date(created).toLocaleDateString("en", { dateStyle: "long" });
  return [day, ...new Set(models.filter(Boolean))].join(" · ");
}

// Markdown

export function asMarkdown(conversation) {
  const { title, system, columns } = conversation;
  const blocks = [`# ${title}`, aboutLine(conversation)];
  if (conversation.text) return `${[...blocks, conversation.text.text].join("\n\n")}\n`;
  if (system) blocks.push("## System prompt", quoted(system));
  columns.forEach((column, i) => {
    const several = columns.length > 1;
    if (several) blocks.push(`## Column ${i + 1}`);
    for (const node of path(column)) {
      blocks.push(`${several ? "###" : "##"} ${nameOf(node)}`);
      blocks.push(...(isAnswered(node) ? node.parts.map(markdownOf) : [NO_ANSWER]));
    }
  });
  return `${blocks.filter((block) => block !== "").join("\n\n")}\n`;
}

function markdownOf({ type, text }) {
  if (type === "text") return text.trim();
  // Longer than any row of backticks in it, so that the fence holds.
  const longest = Math.max(0, ...(text.match(/`+/g) ?? []).map((row) => row.length));
  const fence = "`".repeat(Math.max(3, longest + 1));
  return `${fence}${type === "python" ? "python" : "text"}\n${text}\n${fence}`;
}

const quoted = (text) =>
  text
    .split("\n")
    .map((line) => `> ${line}`.trimEnd())
    .join("\n");

// A web page. It has the rules of this page's stylesheets that apply to it, and may load and run nothing.

const POLICY = "default-src 'none'; style-src 'unsafe-inline'";
// Some against rules that weigh more, because they name an id or a class as well.
const OWN_RULES = `html, body { height: auto; }
body { display: block; overflow: visible; padding: 1.5rem 0; }
.messages > h1 { margin-bottom: 0.2rem; font-size: var(--largest) !important; line-height: 1.3; white-space: normal; }
.messages > .field-hint, .messages > .bubble { margin: 0 0 2rem; }
.message > h2.field-hint { margin-bottom: 0.4rem; font-size: var(--small); }`;

/** The whole conversation as one element that nothing happens in, its formulas and code drawn. */
export async function contentOf(conversation) {
  const { title, system, columns } = conversation;
  const content = h(
    "main",
    { class: "messages" },
    h("h1", {}, title),
    h("p", { class: "field-hint" }, aboutLine(conversation)),
    system ? h("blockquote", { class: "bubble" }, system) : null,
    ...(conversation.text
      ? [h("div", { class: "written-text" }, ...tinted(conversation.text))]
      : columns.map((column) => h("section", {}, ...path(column).map(article)))),
  );
  await drawn();
  return content;
}

export async function asPage(conversation) {
  // A document of its own, which is shown nowhere: to find out which rules apply to it.
  const page = document.implementation.createHTMLDocument(conversation.title);
  page.body.append(await contentOf(conversation));
  const head = [
    h("meta", { charset: "utf-8" }),
    h("meta", { name: "viewport", content: "width=device-width, initial-scale=1" }),
    h("meta", { "http-equiv": "Content-Security-Policy", content: POLICY }),
    h("title", {}, conversation.title),
  ].map((element) => element.outerHTML);
  const style = `<style>\n${rulesFor(page)}\n${OWN_RULES}\n</style>`;
  const lines = ["<!doctype html>", '<html lang="en">', "<head>", ...head, style, "</head>", page.body.outerHTML];
  return `${[...lines, "</html>"].join("\n")}\n`;
}

function article(node) {
  const name = h("h2", { class: node.role === "user" ? "visually-hidden" : "field-hint" }, nameOf(node));
  const content = node.role === "user" ? [h("div", { class: "bubble", dir: "auto" }, textOf(node))] : elementsOf(node.parts);
  const body = h("div", { class: "body" }, ...(isAnswered(node) ? content : [NO_ANSWER]));
  for (const button of body.querySelectorAll("button")) button.remove();
  return h("article", { class: `message ${node.role}` }, name, body);
}

function rulesFor(page) {
  const rules = [...document.styleSheets].flatMap((sheet) => [...sheet.cssRules]);
  const apply = rules.filter(({ selectorText }) => selectorText && page.querySelector(selectorText));
  return apply.map(({ cssText }) => cssText).join("\n");
}
