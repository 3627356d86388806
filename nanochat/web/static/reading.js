// What the inspector adds to the page: a bar with what the colours mean and a switch, and the view behind the switch,
// a conversation as the model reads it.

import { ApiError } from "./api.js";
import { byId, h } from "./dom.js";
import { hideToken, legend, Tokens } from "./inspector.js";
import { path, textOf } from "./tree.js";
import { labelOf } from "./words.js";

/** The bar above the messages, while the inspector is open. */
export class InspectorBar {
  constructor(chat) {
    this.chat = chat;
    this.toggle = h("input", {
      type: "checkbox",
      role: "switch",
      id: "as-read",
      onchange: () => {
        hideToken();
        chat.setReading(this.toggle.checked);
      },
    });
    this.switch = h("label", { class: "switch", for: "as-read" }, this.toggle, "As the model reads it");
    const hint = h("span", { class: "inspector-hint" }, "Click a token to see what else might have come.");
    this.element = h("div", { id: "inspector-bar", role: "group", "aria-label": "Token inspector" });
    this.element.append(hint, this.switch, legend());
    byId("columns").before(this.element);
    chat.addEventListener("change", () => this.render());
    this.render();
  }

  render() {
    const { inspecting, reading, current } = this.chat;
    const empty = current.columns.every((column) => column.nodes.length === 0);
    this.element.hidden = !inspecting || (empty && !current.text);
    this.switch.hidden = Boolean(current.text); // a text is read as it stands
    this.toggle.checked = reading;
  }
}

/** A conversation as the model reads it: one row of tokens, special ones as chips. */
export class Reading {
  #read = ""; // what is shown
  #asked = null; // AbortController of the request under way

  constructor(chat) {
    this.chat = chat;
    this.status = h("p", { class: "field-hint", role: "status" });
    this.tokens = new Tokens("All tokens that the model reads");
    this.element = h("div", { class: "reading token-place" }, this.status, this.tokens.element);
  }

  /** Show this column as it is now; what is on its way is read when it is complete. */
  update(column) {
    const model = this.chat.model(column);
    if (!model || this.chat.isBusy(column)) return;
    const now = JSON.stringify([model.id, this.chat.current.system, path(column).map((node) => [node.id, textOf(node)])]);
    if (now === this.#read) return;
    this.#read = now;
    this.#ask(column, model);
  }

  async #ask(column, model) {
    this.#asked?.abort();
    const asked = (this.#asked = new AbortController());
    try {
      const { tokens, over } = await this.chat.read(column, asked.signal);
      hideToken();
      this.tokens.update({ tokens });
      const count = `${tokens.length} tokens, as ${labelOf(model)} reads them`;
      this.status.textContent = over ? `The last ${count}; ${over} before them do not fit into its context.` : count;
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.#read = "";
      this.status.textContent = error.message;
    }
  }
}
