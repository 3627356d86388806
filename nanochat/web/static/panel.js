// The panel on the right: the system prompt of this conversation, and how answers are sampled.

import { byId, h } from "./dom.js";
import { describe } from "./models.js";
import { FIELDS } from "./sampling.js";

export class Panel {
  constructor(chat) {
    this.chat = chat;
    this.element = byId("panel");
    this.button = byId("open-panel");
    this.system = byId("system");
    this.stop = byId("stop-texts");
    this.fields = new Map(FIELDS.map((field) => [field.name, this.#field(field)]));
    this.button.addEventListener("click", () => this.toggle());
    byId("close-panel").addEventListener("click", () => this.toggle(false));
    this.system.addEventListener("input", () => chat.setSystem(this.system.value));
    this.stop.addEventListener("input", () => this.#keep());
    byId("reset-sampling").addEventListener("click", () => {
      chat.setSampling({});
      this.#fill();
    });
    chat.addEventListener("change", () => this.render());
    this.#fill();
  }

  #field({ name, label, min, max, step, hint }) {
    const input = h("input", {
      id: `set-${name}`,
      type: "number",
      inputmode: "decimal",
      min,
      max,
      step,
      "aria-describedby": `hint-${name}`,
      oninput: () => this.#keep(),
    });
    byId("sampling").append(
      h(
        "div",
        { class: "field" },
        h("label", { for: `set-${name}` }, label),
        input,
        h("p", { id: `hint-${name}`, class: "field-hint" }, hint),
      ),
    );
    return input;
  }

  #keep() {
    const texts = { stop: this.stop.value };
    for (const [name, input] of this.fields) texts[name] = input.value;
    this.chat.setSampling(texts);
  }

  #fill() {
    for (const [name, input] of this.fields) input.value = this.chat.sampling[name] ?? "";
    this.stop.value = this.chat.sampling.stop ?? "";
  }

  render() {
    if (this.system !== document.activeElement) this.system.value = this.chat.current.system;
    const model = this.chat.model(this.chat.current.columns[0]);
    byId("model-facts").textContent = model ? describe(model) : "";
    for (const [name, input] of this.fields) input.placeholder = String(model?.defaults?.[name] ?? "off");
    const isSet = this.chat.current.system !== "" || Object.values(this.chat.sampling).some((text) => text !== "");
    this.button.classList.toggle("is-set", isSet);
  }

  get isOpen() {
    return !this.element.hidden;
  }

  toggle(open = !this.isOpen) {
    this.element.hidden = !open;
    this.button.setAttribute("aria-expanded", String(open));
    document.body.classList.toggle("panel-open", open);
    (open ? this.system : this.button).focus();
  }
}
