// Where questions are written: the field, the send and stop button, and how full the context is.

import { DraftCount, markLength, mayExceed } from "./context.js";
import { byId, icon } from "./dom.js";
import { Drafts } from "./drafts.js";
import { path } from "./tree.js";
import { examplesOf } from "./welcome.js";

export class Composer {
  constructor(chat, acts) {
    this.chat = chat;
    this.acts = acts;
    this.field = byId("prompt");
    this.button = byId("send");
    this.meter = byId("meter");
    this.counts = new WeakMap(); // column → {used, limit} before the answer that is on its way
    this.isTooLong = false;
    this.draft = new DraftCount(
      (signal) => this.#count(signal),
      (counts) => this.#counted(counts),
    );
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
    this.draft.soon();
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
    const [column] = this.chat.current.columns;
    const model = this.chat.model(column);
    const example = model?.chat && column.nodes.length === 0 ? examplesOf(model)[0].questions[0] : "";
    const invitation = example ? `For example: ${example}` : "Ask anything";
    this.field.placeholder = model && !model.chat ? "Write the beginning of a text" : invitation;
    this.#button();
    this.draft.soon();
    if (this.sendsSoon) this.#send();
  }

  /** Ready to type; not where that would bring up a keyboard over half of the screen. */
  focus() {
    if (!matchMedia("(pointer: coarse)").matches) this.field.focus();
  }

  #send() {
    const text = this.field.value.trim();
    // Who types faster than the server tells its models, or counts a long text, has sent all the same.
    this.sendsSoon = Boolean(text) && (!this.chat.models.length || this.#mayBeTooLong(text));
    // A mark from before the last key does not count.
    if (!text || this.sendsSoon || (this.isTooLong && !this.draft.isDue)) return;
    this.fill("");
    this.acts.send(text);
  }

  #mayBeTooLong(text) {
    const { current, down } = this.chat;
    const limits = current.columns.map((column) => this.chat.model(column).context_length);
    return this.draft.isDue && down === null && mayExceed(Math.min(...limits), text, current.system);
  }

  #button() {
    const busy = this.chat.isBusy();
    const label = busy ? "Stop" : "Send";
    if (this.button.getAttribute("aria-label") !== label) {
      this.button.setAttribute("aria-label", label);
      this.button.title = busy ? "Stop (Esc)" : "Send (Enter)";
      this.button.replaceChildren(icon(busy ? "stop" : "send"));
    }
    this.button.disabled = !busy && (!this.field.value.trim() || !this.chat.models.length || this.isTooLong);
  }

  #grow() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }

  /** Ask the server; while an answer is on its way, its tokens are added as they come. */
  async #count(signal) {
    const { chat } = this;
    if (chat.down || !chat.models.length) return null;
    const { columns } = chat.current;
    const counts = columns.map((column) => {
      const settled = path(column).filter((node) => !chat.replies.has(node.id));
      return chat.count(column, settled, this.field.value.trim(), signal);
    });
    return (await Promise.all(counts)).map((count, i) => ({ ...count, column: columns[i] }));
  }

  #counted(counts) {
    for (const { column, ...count } of counts ?? []) this.counts.set(column, count);
    // Without a draft there is nothing to refuse, whatever the conversation has come to.
    const draft = this.field.value.trim();
    const fullest = draft && counts ? counts.reduce((a, b) => (b.used - b.limit > a.used - a.limit ? b : a)) : null;
    this.isTooLong = markLength(this.field, byId("too-long"), fullest ?? { used: 0, limit: 0 });
    this.#button();
    this.#meter();
    if (this.sendsSoon) this.#send();
  }

  /** The fuller of the columns. */
  #meter() {
    const { chat } = this;
    const fillings = chat.current.columns.map((column) => {
      const reply = chat.replies.get(path(column).at(-1)?.id);
      const { used = 0 } = this.counts.get(column) ?? {};
      const read = reply?.node.view?.tokens ?? used;
      const limit = chat.model(column)?.context_length ?? 0;
      return { used: Math.min(reply ? read + reply.total : used, limit), limit };
    });
    const { used, limit } = fillings.reduce((a, b) => (b.used / b.limit > a.used / a.limit ? b : a));
    this.meter.hidden = !limit || !used;
    if (!limit) return;
    const fraction = used / limit;
    this.meter.classList.toggle("nearly-full", fraction > 0.85);
    this.meter.setAttribute("aria-valuemax", String(limit));
    this.meter.setAttribute("aria-valuenow", String(used));
    this.meter.setAttribute("aria-valuetext", `${used} of ${limit} tokens of the context are used`);
    byId("meter-fill").style.width = `${fraction * 100}%`;
    byId("meter-text").textContent = `${used} / ${limit}`;
  }
}
