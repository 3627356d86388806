// Choosing among the checkpoints that the server has, and what they are called.

import { h, icon, iconButton } from "./dom.js";
import { describe, nameOf } from "./words.js";

/** A select box over all models, and a button that tells about the chosen one. With one model, the button is all. */
export class ModelSelect {
  constructor(chat, label) {
    this.chat = chat;
    const about = async () => (await import("./about.js")).openAbout(chat, chat.model(this.column));
    this.select = h("select", { "aria-label": label, onchange: () => chat.setModel(this.column, this.select.value) });
    this.box = h("span", { class: "select" }, this.select, icon("chevron"));
    this.name = h("button", { type: "button", class: "text-button model-name", "aria-haspopup": "dialog", onclick: about });
    this.info = iconButton("info", "About this model", about, { "aria-haspopup": "dialog" });
    this.element = h("span", { class: "model-choice" }, this.box, this.name, this.info);
  }

  /** Show, and from now on set, the model of this column. The select stays the same, so that it keeps the focus. */
  update(column) {
    this.column = column;
    const { models } = this.chat;
    if (this.offered !== models) {
      this.offered = models;
      const options = [
        group(
          "Chat models",
          models.filter((model) => model.chat),
        ),
        group(
          "Base models (continue a text)",
          models.filter((model) => !model.chat),
        ),
      ];
      this.select.replaceChildren(...(models.length ? options.filter(Boolean) : [h("option", {}, "no model")]));
      this.select.disabled = models.length === 0;
      this.box.hidden = models.length === 1;
      this.name.hidden = models.length !== 1;
      this.info.hidden = models.length < 2;
    }
    const model = this.chat.model(column);
    if (model) this.select.value = model.id;
    this.select.title = this.name.title = model ? describe(model) : "";
    this.name.textContent = model ? nameOf(model) : "";
  }
}

function group(title, models) {
  if (models.length === 0) return null;
  return h("optgroup", { label: title }, ...models.map((model) => h("option", { value: model.id }, nameOf(model))));
}
