// Taking conversations out of the page: to the clipboard, or into a file.

import { exported } from "./conversation.js";
import { note } from "./dialogs.js";
import { copy, h } from "./dom.js";
import { asMarkdown, asPage, contentOf } from "./written.js";

/** The entries of a menu, as openMenu takes them. */
export function waysToSave(conversation) {
  const name = fileName(conversation.title);
  const saved = (ending, type, write) => async () => save(`${name}.${ending}`, type, await write(conversation));
  return [
    { label: "Copy", icon: "copy", act: () => copyAll(conversation) },
    { label: "Save as Markdown", icon: "page", act: saved("md", "text/markdown", asMarkdown) },
    { label: "Save as HTML", icon: "page", act: saved("html", "text/html", asPage) },
    { label: "Export as JSON", icon: "download", act: () => exportAll([conversation], name) },
  ];
}

/** Conversations with all their branches, as a file to import again. */
export const exportAll = (conversations, name) => save(`${name}.json`, "application/json", exported(conversations));

function save(name, type, text) {
  const address = URL.createObjectURL(new Blob([text], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000); // the download starts from it after the click
}

/** As formatted text for editors that take it, as Markdown for the others. */
async function copyAll(conversation) {
  const markdown = asMarkdown(conversation);
  const forms = { "text/plain": markdown, "text/html": (await contentOf(conversation)).outerHTML };
  const blobs = Object.entries(forms).map(([type, text]) => [type, new Blob([text], { type })]);
  let done = true;
  try {
    await navigator.clipboard.write([new ClipboardItem(Object.fromEntries(blobs))]);
  } catch {
    done = await copy(markdown); // no such clipboard over plain http from another machine
  }
  note(done ? "Copied: as formatted text, or as Markdown where that is not taken." : "The browser refused to copy it.");
}

const fileName = (title) =>
  title
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 40) || "conversation";
