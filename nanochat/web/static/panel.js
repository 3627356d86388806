// The panel on the right: the system prompt of this conversation, and how answers are sampled.

import { byId, h } from "./dom.js";
import { FIELDS, isPreset, PRESETS, problemWith, problemWithStops, withPreset } from "./sampling.js";
import { describe } from "./words.js";

const SETTINGS = "Settings: system prompt and sampling";
const STOP_HINT = "One per line. The answer ends before the first of them.";

export class Panel {
  constructor(chat) {
    this.chat = chat;
    this.element = byId("panel");
    this.button = byId("open-panel");
    this.system = byId("system");
    this.stop = byId("stop-texts");
    this.presets = PRESETS.map((preset) => this.#preset(preset));
    byId("presets").append(...this.presets);
    this.fields = new Map(FIELDS.map((field) => [field.name, this.#field(field)]));
    this.button.addEventListener("click", () => this.toggle());
    byId("close-panel").addEventListener("click", () => this.toggle(false));
    this.system.addEventListener("input", () => chat.setSystem(this.system.value));
    this.stop.addEventListener("input", () => this.#keep());
    byId("reset-sampling").addEventListener("click", () => this.#set({}));
    chat.addEventListener("change", () => this.render());
    this.#fill();
  }

  #preset(preset) {
    const act = () => this.#set(withPreset(this.chat.sampling, preset));
    return h("button", { type: "button", class: "button", title: preset.hint, onclick: act }, preset.label);
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
        h("p", { id: `hint-${name}`, class: "field-hint", "aria-live": "polite" }, hint),
      ),
    );
    return input;
  }

  #set(texts) {
    this.chat.setSampling(texts);
    this.#fill();
  }

  #keep() {
    const texts = { stop: this.stop.value };
    for (const [name, input] of this.fields) texts[name] = input.value;
    this.chat.setSampling(texts);
    this.#check();
  }

  #fill() {
    for (const [name, input] of this.fields) input.value = this.chat.sampling[name] ?? "";
    this.stop.value = this.chat.sampling.stop ?? "";
    this.#check();
  }

  /** Mark what cannot be sent as it stands. */
  #check() {
    const stops = [this.stop, byId("hint-stop"), problemWithStops(this.stop.value), STOP_HINT];
    const numbers = FIELDS.map((field) => {
      const input = this.fields.get(field.name);
      // The value of what is no number at all, such as "1e", is empty.
      const text = input.validity.badInput ? "?" : input.value;
      return [input, byId(`hint-${field.name}`), problemWith(field, text), field.hint];
    });
    for (const [input, place, problem, hint] of [...numbers, stops]) {
      input.setAttribute("aria-invalid", String(problem !== null));
      if (place.textContent !== (problem ?? hint)) place.textContent = problem ?? hint;
    }
    const wrong = this.element.querySelectorAll('[aria-invalid="true"]').length;
    this.button.classList.toggle("is-wrong", wrong > 0);
    this.button.title = wrong ? "Settings: some of them cannot be sent" : SETTINGS;
  }

  render() {
    if (this.system !== document.activeElement) this.system.value = this.chat.current.system;
    const model = this.chat.model(this.chat.current.columns[0]);
    byId("model-facts").textContent = model ? describe(model) : "";
    for (const [name, input] of this.fields) input.placeholder = String(model?.defaults?.[name] ?? "off");
    this.presets.forEach((button, i) =>
      button.setAttribute("aria-pressed", String(isPreset(this.chat.sampling, PRESETS[i], model?.defaults))),
    );
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
