// The notebook for base models: one text that anybody may edit, the model's words tinted, continued where the cursor is.

import { ApiError } from "./api.js";
import { byId, h, icon, iconButton } from "./dom.js";
import { hideToken, Tokens } from "./inspector.js";
import { scoreText } from "./scores.js";
import { textOf } from "./tree.js";
import { examplesOf } from "./welcome.js";
import { labelOf } from "./words.js";
import { change, difference, emptyText, History, remember, tinted } from "./writing.js";

export class Notebook {
  #scored = null; // {writing, text, tokens, unread} of the inspector
  #scoring = null; // AbortController of the request under way
  #kept = []; // the scored tokens before a continuation
  #editing = false; // whether the text is being written while the inspector is open

  /** acts: the page's write, keepText and stop. */
  constructor(chat, acts) {
    this.chat = chat;
    this.acts = acts;
    this.history = new History();
    this.#paper();
    this.#bar();
    this.element = h("section", { id: "notebook", "aria-label": "Text" }, this.scroll, this.bar);
    chat.addEventListener("change", () => this.render());
    chat.addEventListener("progress", ({ detail }) => detail === this.node && this.#progress());
    chat.addEventListener("answered", ({ detail }) => {
      if (detail === this.node) byId("announcer").textContent = `${detail.model} ${textOf(detail)}`;
    });
  }

  #paper() {
    this.ink = h("pre", { class: "ink", "aria-hidden": "true" });
    this.field = h("textarea", {
      id: "text",
      "aria-label": "Your text",
      autocomplete: "off",
      oninput: () => this.#typed(),
      onkeydown: (event) => this.#key(event),
      onbeforeinput: (event) => this.#undone(event),
      onblur: () => this.#edits(false),
    });
    this.sheet = h("div", { class: "sheet" }, this.ink, this.field);
    this.unread = h("p", { class: "unread" });
    this.tokens = new Tokens("Tokens of the text");
    this.inspected = h("div", {}, this.unread, this.tokens.element);
    this.notice = h("p", { class: "notice error", role: "alert" });
    this.examples = h("div", { class: "beginnings", role: "group", "aria-label": "Beginnings" });
    const paper = h("div", { class: "paper token-place" }, this.sheet, this.inspected, this.notice, this.examples);
    this.scroll = h("div", { class: "scroll" }, paper);
  }

  #bar() {
    this.go = h("button", { type: "button", class: "button primary go", onclick: () => this.#go() });
    this.again = iconButton("again", "Another continuation", () => this.#another());
    this.undo = iconButton("undo", "Undo", () => this.#turnBack("undo"), { title: "Undo (Ctrl+Z)" });
    this.redo = iconButton("redo", "Redo", () => this.#turnBack("redo"), { title: "Redo (Ctrl+Shift+Z)" });
    this.older = iconButton("left", "Previous version", () => this.#step(-1));
    this.newer = iconButton("right", "Next version", () => this.#step(1));
    this.place = h("span", {});
    const versions = { class: "branches", role: "group", "aria-label": "Versions of this text" };
    this.pencil = iconButton("pencil", "Edit the text", () => this.#edits(true));
    this.versions = h("span", versions, this.older, this.place, this.newer);
    this.figures = h("span", { class: "figures" });
    const tools = { class: "notebook-bar", role: "group", "aria-label": "Continue and undo" };
    this.bar = h("div", tools, this.go, this.again, this.undo, this.redo, this.pencil, this.versions, this.figures);
  }

  get writing() {
    return this.chat.current.text ?? null;
  }

  /** The last continuation. */
  get node() {
    return this.chat.current.columns[0].nodes[0] ?? null;
  }

  get #busy() {
    return this.chat.isBusy();
  }

  /** What is on the page, with what has come of a continuation. */
  get #shown() {
    const { text, written, pending } = this.writing ?? emptyText();
    if (!pending) return { text, written, cursor: null };
    const shown = { text, written };
    change(shown, { start: pending.at, end: pending.at, inserted: textOf(this.node) }, true);
    return { ...shown, cursor: pending.at + textOf(this.node).length };
  }

  render() {
    const { chat } = this;
    const open = chat.isNotebook;
    const opens = open && (!this.element.isConnected || this.shown !== chat.current);
    if (!open) this.element.remove();
    else if (!this.element.isConnected) byId("columns").after(this.element);
    document.body.classList.toggle("notebook", open);
    if (!open) return;
    if (this.shown?.id !== chat.current.id) this.history = new History();
    this.shown = chat.current;
    this.#show();
    this.#tools();
    this.#figures();
    if (chat.inspecting) this.#score();
    if (opens && !matchMedia("(pointer: coarse)").matches) this.field.focus();
  }

  /** The text with its tint, or its tokens. */
  #show() {
    const { text, written, cursor } = this.#shown;
    const node = this.#busy ? this.node : null;
    const hasTokens = this.#isScored || (node && this.#kept.length > 0);
    // Tokens stay until new ones have come.
    const shows = this.chat.inspecting && !this.#editing && text !== "";
    const inspects = shows && (hasTokens || (this.sheet.hidden && !node));
    this.sheet.hidden = inspects;
    this.inspected.hidden = !inspects;
    if (inspects && hasTokens) this.#showTokens(node);
    if (this.field.value !== text) {
      this.field.value = text;
      if (cursor !== null) this.field.setSelectionRange(cursor, cursor);
    }
    this.field.readOnly = node !== null;
    this.#tint({ text, written });
    if (cursor === text.length) this.scroll.scrollTop = this.scroll.scrollHeight;
  }

  #tint(writing) {
    this.ink.replaceChildren(...tinted(writing), "\n"); // a last empty line has a height, too
  }

  #tools() {
    const busy = this.#busy;
    const { text, versions, last } = this.writing ?? emptyText();
    const label = busy ? "Stop" : "Continue";
    if (this.go.textContent !== label) this.go.replaceChildren(icon(busy ? "stop" : "play"), label);
    this.go.title = busy ? "Stop (Esc)" : "Continue where the cursor is (Ctrl+Enter)";
    this.go.disabled = !busy && !this.chat.models.length;
    const place = versions.findLastIndex((version) => version.text === text);
    this.again.disabled = busy || !last || place < 0;
    this.undo.disabled = busy || !this.history.past.length;
    this.redo.disabled = busy || !this.history.future.length;
    this.pencil.hidden = !this.chat.inspecting;
    this.pencil.disabled = busy || this.#editing;
    this.versions.hidden = versions.length === 0;
    this.place.textContent = place < 0 ? `edited, ${versions.length} kept` : `${place + 1}/${versions.length}`;
    this.older.disabled = busy || place === 0;
    this.newer.disabled = busy || place < 0 || place === versions.length - 1;
    const { error, finish } = this.node ?? {};
    this.notice.textContent = error?.message ?? (finish === "lost" ? "The continuation was interrupted." : "");
    this.notice.hidden = this.notice.textContent === "" || busy;
    this.examples.hidden = text !== "" || busy;
    if (!this.examples.hidden) this.#beginnings();
  }

  #beginnings() {
    const model = this.#model;
    const texts = model ? examplesOf(model).map(({ questions: [text] }) => text) : [];
    this.field.placeholder = `Write the beginning of a text, and let ${model ? labelOf(model) : "the model"} continue it.`;
    const begin = (text) => {
      this.#set({ text, written: [], cursor: text.length });
      this.#go();
    };
    this.examples.replaceChildren(
      ...texts.map((text) => h("button", { type: "button", class: "button", onclick: () => begin(text) }, text)),
    );
  }

  #figures() {
    const node = this.node;
    const reply = node && this.chat.replies.get(node.id);
    const tokens = reply ? reply.total : node?.usage?.completion;
    const speed = reply ? reply.speed : node?.usage?.speed;
    const figures = [];
    if (tokens) figures.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
    if (speed) figures.push(`${Math.round(speed)} tokens/s`);
    if (reply?.waits) figures.push("waiting for the server");
    if (node?.unread) figures.push(`the model did not read the first ${node.unread} tokens: its context is full`);
    this.figures.textContent = figures.join(" · ");
  }

  #progress() {
    if (this.due) return; // many tokens may come within one frame
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      if (!this.chat.isNotebook || !this.#busy) return;
      this.#show();
      this.#figures();
    });
  }

  // What the user does

  #typed() {
    const before = this.#state(difference(this.writing?.text ?? "", this.field.value, this.field.selectionEnd).end);
    this.history.before(before, true);
    this.#editing = this.chat.inspecting;
    const writing = this.chat.startText();
    change(writing, difference(writing.text, this.field.value, this.field.selectionEnd));
    this.#tint(writing);
    this.#edited();
  }

  /** While the inspector is open, the text is either written or seen as tokens. */
  #edits(on) {
    if (!this.chat.inspecting || this.#editing === on) return;
    this.#editing = on;
    this.#show();
    this.#tools();
    if (on) this.field.focus();
    else this.#score();
  }

  #edited() {
    this.acts.keepText();
    this.#tools();
  }

  #state(cursor = this.field.selectionEnd) {
    const { text, written } = this.writing ?? emptyText();
    return { text, written, cursor };
  }

  /** Show another state of the text. */
  #set({ text, written, cursor }, undoable = true) {
    if (undoable) this.history.before(this.#state());
    Object.assign(this.chat.startText(), { text, written });
    this.#show();
    this.field.setSelectionRange(cursor, cursor);
    this.#edited();
    if (this.chat.inspecting) this.#score();
  }

  #go() {
    if (this.#busy) return this.acts.stop();
    const inspects = !this.inspected.hidden;
    this.#editing = false;
    this.#kept = inspects && this.#isScored ? this.#scored.tokens : [];
    this.#write(inspects ? this.field.value.length : this.field.selectionEnd);
  }

  #write(at, begins = null) {
    this.history.before(this.#state(at));
    hideToken();
    this.acts.write(at, begins);
  }

  #another() {
    const { last } = this.writing;
    this.#kept = [];
    this.#set({ ...last, cursor: last.at });
    this.#write(last.at);
  }

  #turnBack(way) {
    const state = this.#busy ? null : this.history[way](this.#state());
    if (!state) return;
    this.#set(state, false);
    if (!this.sheet.hidden) this.field.focus();
  }

  #step(step) {
    const { writing } = this;
    const place = remember(writing);
    const version = writing.versions[place + step];
    if (version) this.#set({ ...version, cursor: version.text.length });
  }

  #key(event) {
    const command = event.ctrlKey || event.metaKey;
    const key = event.key.toLowerCase();
    if (command && key === "enter") this.#go();
    else if (command && key === "z") this.#turnBack(event.shiftKey ? "redo" : "undo");
    else if (command && key === "y") this.#turnBack("redo");
    else return;
    event.preventDefault();
  }

  /** Undo of the browser's own menu; its memory knows nothing of the model's words. */
  #undone(event) {
    const way = { historyUndo: "undo", historyRedo: "redo" }[event.inputType];
    if (!way) return;
    event.preventDefault();
    this.#turnBack(way);
  }

  // The inspector

  get #isScored() {
    return this.#scored !== null && this.#scored.text === (this.writing?.text ?? "") && this.#scored.model === this.#model;
  }

  get #model() {
    return this.chat.model(this.chat.current.columns[0]);
  }

  async #score() {
    const { text } = this.writing ?? emptyText();
    const model = this.#model;
    if (this.#busy || this.#editing || !model || text === "" || this.#isScored || this.asking === text) return;
    this.#scoring?.abort();
    this.#scoring = new AbortController();
    this.asking = text;
    try {
      this.#scored = { text, model, ...(await scoreText(model, text, this.#scoring.signal)) };
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.sheet.hidden = false;
      this.inspected.hidden = true;
      this.notice.textContent = `The tokens of this text cannot be shown. ${error.message}`;
      this.notice.hidden = false;
      return;
    } finally {
      if (this.asking === text) this.asking = null;
    }
    this.#show();
  }

  #showTokens(node) {
    if (node) return this.tokens.update({ tokens: [...this.#kept, ...node.parts.flatMap((part) => part.tokens ?? [])] });
    const { tokens, unread } = this.#scored;
    this.unread.textContent = unread;
    this.tokens.update({
      tokens,
      choose: (at, { id }) => {
        this.#kept = tokens.slice(0, at);
        const cut = unread.length + tokens[at].start;
        remember(this.writing);
        const { text, written } = this.writing;
        const edit = { start: cut, end: text.length, inserted: "" };
        const shorter = { text, written };
        change(shorter, edit);
        this.#set({ ...shorter, cursor: cut });
        this.#write(cut, [id]);
      },
    });
  }
}
