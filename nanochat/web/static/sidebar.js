// The list of conversations: search, rename, delete, files in and out.

import { exported, imported, matches } from "./conversation.js";
import { note, openMenu } from "./dialogs.js";
import { byId, h, iconButton } from "./dom.js";
import { Drawer } from "./shell.js";

const DAY_MS = 24 * 60 * 60 * 1000;

export class Sidebar extends Drawer {
  constructor(chat) {
    super("search");
    this.chat = chat;
    this.search = byId("search");
    this.list = byId("conversations");
    this.search.addEventListener("input", () => this.render());
    this.search.addEventListener("keydown", (event) => this.#searchKey(event));
    byId("import").addEventListener("click", () => byId("import-file").click());
    byId("import-file").addEventListener("change", (event) => this.#import(event.target));
    byId("export").addEventListener("click", () => this.#export(chat.conversations, "nanochat-conversations"));
    chat.addEventListener("change", () => this.render());
  }

  render() {
    if (this.renaming) return;
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.chat.conversations.filter((conversation) => matches(conversation, words));
    byId("found").textContent = words.length
      ? `${found.length || "No"} conversation${found.length === 1 ? "" : "s"} found`
      : "";
    const focused = document.activeElement?.closest?.(".entry")?.dataset.id;
    const groups = new Map();
    for (const conversation of found) {
      const day = dayOf(conversation.updated);
      groups.set(day, [...(groups.get(day) ?? []), this.#entry(conversation)]);
    }
    this.list.replaceChildren(
      ...[...groups].map(([day, entries]) =>
        h("section", { "aria-label": day }, h("h2", {}, day), h("ul", {}, ...entries)),
      ),
    );
    if (focused) this.list.querySelector(`[data-id="${focused}"] a`)?.focus();
    byId("export").disabled = this.chat.conversations.length === 0;
  }

  #entry(conversation) {
    const isCurrent = conversation === this.chat.current;
    const link = h(
      "a",
      {
        href: `#${conversation.id}`,
        "aria-current": isCurrent ? "page" : null,
        title: conversation.title,
        onclick: () => this.covers && this.close(),
      },
      conversation.title,
    );
    const label = `More about “${conversation.title}”`;
    const attributes = { "aria-haspopup": "menu", "aria-expanded": "false" };
    const more = iconButton("more", label, () => this.#menu(more, conversation, entry), attributes);
    const entry = h("li", { class: "entry", "data-id": conversation.id }, link, more);
    return entry;
  }

  #menu(button, conversation, entry) {
    openMenu(button, [
      { label: "Rename", icon: "pencil", act: () => this.#rename(conversation, entry) },
      { label: "Export", icon: "download", act: () => this.#export([conversation], fileName(conversation.title)) },
      { label: "Delete", icon: "trash", act: () => this.#remove(conversation) },
    ]);
  }

  #rename(conversation, entry) {
    const field = h("input", { type: "text", "aria-label": "New title", maxlength: "100" });
    field.value = conversation.title;
    this.renaming = true;
    const leave = (keep) => {
      if (!this.renaming) return;
      this.renaming = false;
      const title = field.value.trim();
      if (keep && title) this.chat.rename(conversation, title);
      else this.render();
      this.list.querySelector(`[data-id="${conversation.id}"] a`)?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.stopPropagation();
      leave(event.key === "Enter");
    });
    field.addEventListener("blur", () => leave(true));
    entry.replaceChildren(field);
    field.focus();
    field.select();
  }

  #remove(conversation) {
    const isCurrent = conversation === this.chat.current;
    const undo = this.chat.remove(conversation);
    if (isCurrent) location.hash = "";
    note(`Deleted “${conversation.title}”.`, () => {
      undo();
      if (isCurrent) location.hash = conversation.id;
    });
    this.search.focus();
  }

  #export(conversations, name) {
    const address = URL.createObjectURL(new Blob([exported(conversations)], { type: "application/json" }));
    h("a", { href: address, download: `${name}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000); // the download starts from it after the click
  }

  async #import(input) {
    const [file] = input.files;
    input.value = ""; // so that the same file can be chosen again
    if (!file) return;
    let conversations;
    try {
      conversations = imported(await file.text());
    } catch (error) {
      note(`${file.name} could not be imported: ${error.message}.`);
      return;
    }
    const taken = await this.chat.importAll(conversations);
    const known = conversations.length - taken;
    note(`Imported ${taken} conversation${taken === 1 ? "" : "s"}${known ? `; ${known} already here` : ""}.`);
    if (taken === 1 && conversations.length === 1) location.hash = conversations[0].id;
  }

  #searchKey(event) {
    if (event.key === "Escape" && this.search.value) {
      event.stopPropagation();
      this.search.value = "";
      this.render();
    } else if (event.key === "Enter" || event.key === "ArrowDown") {
      event.preventDefault();
      this.list.querySelector("a")?.focus();
    }
  }

  focusSearch() {
    this.show(true);
    this.search.focus();
    this.search.select();
  }
}

/** The heading under which a time falls. */
function dayOf(time) {
  const today = new Date().setHours(0, 0, 0, 0);
  if (time >= today) return "Today";
  if (time >= today - DAY_MS) return "Yesterday";
  if (time >= today - 7 * DAY_MS) return "Last seven days";
  return "Earlier";
}

const fileName = (title) =>
  title
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, "-")
    .replace(/^-|-$/g, "")
    .slice(0, 40) || "conversation";
