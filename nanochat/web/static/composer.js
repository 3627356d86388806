// Where questions are written: the field, the send and stop button, and how full the context is.

import { ApiError } from "./api.js";
import { byId, icon } from "./dom.js";
import { Drafts } from "./drafts.js";
import { path } from "./tree.js";

const COUNT_AFTER_MS = 250; // after the last key, so that typing does not ask the server for every letter

export class Composer {
  constructor(chat, acts) {
    this.chat = chat;
    this.acts = acts;
    this.field = byId("prompt");
    this.button = byId("send");
    this.meter = byId("meter");
    this.counts = new WeakMap(); // column → tokens before the answer that is on its way
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      if (chat.isBusy()) acts.stop();
      else this.#send();
    });
    this.drafts = new Drafts(chat, this.field, () => this.#changed());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("input", () => {
      this.drafts.keep();
      this.#changed();
    });
    chat.addEventListener("change", () => this.render());
    chat.addEventListener("progress", () => this.#meter());
  }

  #key(event) {
    // While an input method composes a character, keys belong to it.
    if (event.isComposing || event.shiftKey) return;
    const isEdit = event.key === "ArrowUp" && !this.field.value;
    if (event.key !== "Enter" && !isEdit) return;
    event.preventDefault();
    if (this.chat.isBusy()) return;
    if (isEdit) this.acts.editLast();
    else this.#send();
  }

  /** The field has another text. */
  #changed() {
    this.sendsSoon = false;
    this.#grow();
    this.#button();
    this.#countSoon();
  }

  /** Put a text into the field, and return the one that was there. */
  fill(text) {
    const before = this.field.value;
    this.field.value = text;
    this.drafts.keep();
    this.#changed();
    return before;
  }

  render() {
    this.drafts.follow();
    const model = this.chat.model(this.chat.current.columns[0]);
    this.field.placeholder = model && !model.chat ? "Write the beginning of a text" : "Ask anything";
    this.#button();
    this.#countSoon();
    if (this.sendsSoon && this.chat.models.length) this.#send();
  }

  /** Ready to type; not where that would bring up a keyboard over half of the screen. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.field.focus();
  }

  #send() {
    const text = this.field.value.trim();
    // Who types faster than the server tells its models has sent all the same.
    this.sendsSoon = Boolean(text) && !this.chat.models.length;
    if (!text || this.sendsSoon) return;
    this.fill("");
    this.acts.send(text);
  }

  #button() {
    const busy = this.chat.isBusy();
    const label = busy ? "Stop" : "Send";
    if (this.button.getAttribute("aria-label") !== label) {
      this.button.setAttribute("aria-label", label);
      this.button.title = busy ? "Stop (Esc)" : "Send (Enter)";
      this.button.replaceChildren(icon(busy ? "stop" : "send"));
    }
    this.button.disabled = !busy && (!this.field.value.trim() || !this.chat.models.length);
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }

  #countSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#count(), COUNT_AFTER_MS);
  }

  /** Ask the server; while an answer is on its way, its tokens are added as they come. */
  async #count() {
    const { chat } = this;
    if (chat.down || !chat.models.length) return this.#meter();
    this.counting?.abort();
    this.counting = new AbortController();
    const { signal } = this.counting;
    const { columns } = chat.current;
    try {
      const counts = await Promise.all(columns.map((column) => chat.count(column, this.field.value.trim(), signal)));
      columns.forEach((column, i) => this.counts.set(column, counts[i]));
    } catch (error) {
      // The count is a courtesy: without it the meter stays where it was.
      if (!(error instanceof ApiError) && error.name !== "AbortError") throw error;
    }
    this.#meter();
  }

  /** The fuller of the columns. */
  #meter() {
    const { chat } = this;
    const fillings = chat.current.columns.map((column) => {
      const last = path(column).at(-1);
      const coming = chat.replies.get(last?.id)?.total ?? 0;
      const limit = chat.model(column)?.context_length ?? 0;
      return { used: (this.counts.get(column) ?? 0) + coming, limit };
    });
    const { used, limit } = fillings.reduce((a, b) => (b.used / b.limit > a.used / a.limit ? b : a));
    this.meter.hidden = !limit || !used;
    if (!limit) return;
    const fraction = Math.min(1, used / limit);
    this.meter.classList.toggle("nearly-full", fraction > 0.85);
    this.meter.setAttribute("aria-valuemax", String(limit));
    this.meter.setAttribute("aria-valuenow", String(Math.min(used, limit)));
    this.meter.setAttribute("aria-valuetext", `${used} of ${limit} tokens of the context are used`);
    byId("meter-fill").style.width = `${fraction * 100}%`;
    byId("meter-text").textContent = `${used} / ${limit}`;
  }
}
