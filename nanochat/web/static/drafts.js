// What is typed but not sent: a text for each conversation, and one for the new chat. It goes with the tab, as the text
// of a field does: two tabs do not write over each other, and nothing stays on a shared computer.

import { tabPreference, setTabPreference } from "./preferences.js";

const NEW = "new"; // its conversation gets another id with every reload

/** Follows the field of the composer: keeps what is typed, and shows what was typed where the user goes. */
export class Drafts {
  /** changed() is called after the field's text was replaced. */
  constructor(chat, field, changed) {
    Object.assign(this, { chat, field, changed });
    this.texts = tabPreference("drafts", {});
    this.loading = chat.current; // stands there until the page knows what to show
    this.shown = null; // the conversation whose draft the field has
  }

  /** Keep what the field has. */
  keep() {
    if (!this.shown) return;
    const name = this.#nameOf(this.shown);
    if (this.field.value) this.texts[name] = this.field.value;
    else delete this.texts[name];
    setTabPreference("drafts", this.texts);
  }

  /** Show the draft of another conversation, if another one is shown. */
  follow() {
    const { current } = this.chat;
    if (current === this.shown || current === this.loading) return;
    const isFirst = this.shown === null;
    this.shown = current;
    // Who types while the page loads means what it is about to show.
    if (isFirst && this.field.value) return this.keep();
    const text = this.texts[this.#nameOf(current)] ?? "";
    if (text === this.field.value) return;
    this.field.value = text;
    this.changed();
  }

  #nameOf(conversation) {
    return this.chat.has(conversation.id) ? conversation.id : NEW;
  }
}
