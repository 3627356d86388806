// The list of conversations: search, pin, rename, delete, files in and out.

import { imported, matches } from "./conversation.js";
import { askWith, note, openMenu } from "./dialogs.js";
import { byId, h, iconButton } from "./dom.js";
import { exportAll, waysToSave } from "./saving.js";
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
    byId("export").addEventListener("click", () => exportAll(chat.conversations, "nanochat-conversations"));
    byId("delete-all").addEventListener("click", () => this.#removeAll());
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
    const groups = new Map(found.some(({ pinned }) => pinned) ? [["Pinned", []]] : []);
    for (const conversation of found) {
      const group = conversation.pinned ? "Pinned" : dayOf(conversation.updated);
      groups.set(group, [...(groups.get(group) ?? []), this.#entry(conversation)]);
    }
    this.list.replaceChildren(
      ...[...groups].map(([name, entries]) =>
        h("section", { "aria-label": name }, h("h2", {}, name), h("ul", {}, ...entries)),
      ),
    );
    if (focused) this.list.querySelector(`[data-id="${focused}"] a`)?.focus();
    for (const id of ["export", "delete-all"]) byId(id).disabled = this.chat.conversations.length === 0;
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
    const { pinned } = conversation;
    openMenu(button, [
      { label: "Rename", icon: "pencil", act: () => this.#rename(conversation, entry) },
      { label: pinned ? "Unpin" : "Pin", icon: "pin", act: () => this.chat.pin(conversation, !pinned) },
      ...waysToSave(conversation),
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

  #remove(...conversations) {
    const shown = this.chat.current;
    const undo = this.chat.remove(...conversations);
    const wasShown = conversations.includes(shown);
    if (wasShown) location.hash = "";
    const [{ title }] = conversations;
    note(conversations.length === 1 ? `Deleted “${title}”.` : `Deleted ${conversations.length} conversations.`, () => {
      undo();
      if (wasShown) location.hash = shown.id;
    });
    this.search.focus();
  }

  async #removeAll() {
    const { conversations } = this.chat;
    const count = conversations.length === 1 ? "one conversation" : `${conversations.length} conversations`;
    const pinned = conversations.some((conversation) => conversation.pinned) ? ", also the pinned ones" : "";
    // Enter takes the first button: by mistake nothing gets lost.
    const buttons = [
      ["", "Keep them"],
      ["delete", "Delete all"],
    ];
    const warning = h("p", {}, "They are kept in this browser only. For a copy, use “Export all” first.");
    if ((await askWith(`Delete ${count}${pinned}?`, buttons, warning)) === "delete")
      this.#remove(...this.chat.conversations);
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
