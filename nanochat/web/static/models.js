// Choosing among the checkpoints that the server has.

import { h, icon } from "./dom.js";

/** A select box over all models. It stays the same element, so that choosing does not lose the focus. */
export class ModelSelect {
  constructor(chat, label) {
    this.chat = chat;
    this.select = h("select", { "aria-label": label, onchange: () => chat.setModel(this.column, this.select.value) });
    this.element = h("span", { class: "select" }, this.select, icon("chevron"));
  }

  /** Show, and from now on set, the model of this column. */
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
    }
    const model = this.chat.model(column);
    if (model) this.select.value = model.id;
    this.select.title = model ? describe(model) : "";
  }
}

function group(title, models) {
  if (models.length === 0) return null;
  return h("optgroup", { label: title }, ...models.map(({ id }) => h("option", { value: id }, id)));
}

/** What distinguishes a model, in a line. */
export function describe(model) {
  const size =
    model.parameters >= 1e6
      ? `${(model.parameters / 1e6).toPrecision(3)} M`
      : `${Math.round(model.parameters / 1e3)} k`;
  return (
    `Step ${model.step} · ${size} parameters · context of ${model.context_length} tokens · ` +
    `${model.dtype} on ${model.device}`
  );
}
