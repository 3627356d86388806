// The page's address: its #fragment names the conversation, so that reloading, going back and a second tab do what one
// expects, and its ?query may bring a model and a question.

import { note } from "./dialogs.js";
import { byId } from "./dom.js";

const inAddress = () => location.hash.slice(1);

export class Address {
  constructor(chat, composer) {
    Object.assign(this, { chat, composer });
    addEventListener("hashchange", () => this.show());
  }

  /** The shown conversation gets its address. */
  name() {
    if (inAddress() !== this.chat.current.id) history.pushState(null, "", `#${this.chat.current.id}`);
  }

  /** Show the conversation that the address names, a new one where it names none. */
  show() {
    const id = inAddress();
    if (id === this.chat.current.id) return;
    this.chat.open(id);
    if (!id || this.chat.has(id)) return;
    history.replaceState(null, "", location.pathname + location.search);
    note(`This browser has no conversation #${id.slice(0, 40)}. It was deleted, or another browser has it.`);
  }

  /** Take what a link such as /?model=sft:d3&q=Who+are+you%3F brings, once: sets the model, returns the question. */
  take() {
    const given = new URLSearchParams(location.search);
    const [model, question] = [given.get("model"), given.get("q")];
    if (model === null && question === null) return null;
    history.replaceState(null, "", location.pathname + location.hash);
    if (model) this.chat.setModel(this.chat.current.columns[0], model);
    return question;
  }

  /**
   * Fill in the question of a link, when the models are known. It is not sent by itself: people follow links without
   * seeing what is in them, and a link must not make a model run.
   */
  offer(question) {
    if (!question) return;
    if (this.chat.isNotebook) return this.#begin(question);
    const draft = this.composer.fill(question);
    if (draft) note("The link's question took the place of what you had written.", () => this.composer.fill(draft));
  }

  /** A text for a base model to continue; one that is there already stays as it is. */
  #begin(text) {
    if (this.chat.current.text?.text) this.chat.open(null);
    const field = byId("text");
    field.value = text;
    field.dispatchEvent(new Event("input"));
  }
}
