// Inside the model: where a head looked while it read the conversation up to an answer, and what each layer would have
// said next. The server reads the text once more for it.

import { ApiError, inspect } from "./api.js";
import { byId, h, iconButton } from "./dom.js";
import { percent, visible } from "./inspector.js";

const TABS = [
  ["attention", "Attention"],
  ["lens", "Logit lens"],
];
const NAMED = 5; // of the tokens that one looks at

export class Inside {
  #asked = null; // AbortController of the request under way
  #seen = null; // the server's reply
  #token = 0; // which token is chosen

  constructor() {
    this.layer = h("select", { id: "inside-layer", onchange: () => this.#ask() });
    this.head = h("select", { id: "inside-head", onchange: () => this.#ask() });
    this.status = h("p", { class: "field-hint", role: "status" });
    this.tokens = h("div", {
      class: "tokens inside-tokens",
      role: "group",
      "aria-label": "Tokens; arrow keys move",
      onkeydown: (event) => this.#move(event),
    });
    this.looks = h("p", { class: "inside-looks", "aria-live": "polite" });
    this.table = h("div", { class: "inside-table", role: "group", tabindex: "0", "aria-label": "Logit lens" });
    this.panels = {
      attention: this.#panel(
        "attention",
        h("div", { class: "inside-choice" }, field("Layer", this.layer), field("Head", this.head)),
        h("p", { class: "field-hint" }, "The brighter a token, the more the marked one looks at it."),
        this.tokens,
        this.looks,
      ),
      lens: this.#panel(
        "lens",
        h("p", { class: "field-hint" }, "After each token, what each layer would say next if it were the last."),
        this.table,
      ),
    };
    this.tabs = TABS.map(([name, label]) =>
      h(
        "button",
        {
          type: "button",
          role: "tab",
          id: `inside-tab-${name}`,
          "aria-controls": `inside-${name}`,
          onclick: () => this.#show(name),
        },
        label,
      ),
    );
    const close = iconButton("close", "Close", () => this.dialog.close());
    this.dialog = h(
      "dialog",
      { id: "inside-dialog", "aria-labelledby": "inside-title" },
      h("div", { class: "bar" }, h("h2", { id: "inside-title" }, "Inside the model"), close),
      h(
        "div",
        { class: "inside-tabs", role: "tablist", "aria-label": "What to see", onkeydown: (event) => this.#turn(event) },
        ...this.tabs,
      ),
      this.status,
      ...Object.values(this.panels),
    );
    this.dialog.addEventListener("close", () => this.#asked?.abort());
    document.body.append(this.dialog);
    this.#show("attention");
  }

  #panel(name, ...children) {
    const attributes = { id: `inside-${name}`, role: "tabpanel", "aria-labelledby": `inside-tab-${name}` };
    return h("div", attributes, ...children);
  }

  /** Show what the model computes for a text: `body` is that of a request, {model, messages} or {model, text}. */
  open(body) {
    this.body = body;
    this.#seen = null;
    this.layer.replaceChildren();
    this.head.replaceChildren();
    for (const place of [this.tokens, this.looks, this.table]) place.replaceChildren();
    this.dialog.showModal();
    this.#ask();
  }

  async #ask() {
    this.#asked?.abort();
    const asked = (this.#asked = new AbortController());
    const chosen = (select) => (select.value === "" ? null : Number(select.value));
    this.status.textContent = "Reading …";
    try {
      const body = { ...this.body, layer: chosen(this.layer), head: chosen(this.head) };
      this.#seen = await inspect(body, asked.signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.status.textContent = error.message;
      return;
    }
    const { model, tokens, earlier_tokens: earlier } = this.#seen;
    const shown = earlier ? `the last ${tokens.length} of ${earlier + tokens.length}` : tokens.length;
    this.status.textContent = `${model}, ${shown} tokens`;
    if (!this.layer.children.length) {
      this.#token = tokens.length - 1;
      this.#choices();
      this.#lens();
    }
    this.#draw();
  }

  #choices() {
    const { layers, heads, layer } = this.#seen;
    const numbers = (count) => [...Array(count).keys()].map((number) => h("option", { value: number }, `${number}`));
    this.layer.replaceChildren(...numbers(layers));
    this.layer.value = String(layer);
    this.head.replaceChildren(h("option", { value: "" }, "mean of all"), ...numbers(heads));
  }

  /** The tokens, each as bright as the chosen one looks at it. */
  #draw() {
    const { tokens, attention, attention_to_earlier: earlier } = this.#seen;
    const row = attention[this.#token];
    const brightest = Math.max(...row.slice(0, this.#token + 1), 1e-9);
    const buttons = tokens.map((text, at) => {
      const button = h(
        "span",
        {
          role: "button",
          class: at === this.#token ? "token open" : "token",
          tabindex: at === this.#token ? "0" : "-1",
          "aria-pressed": String(at === this.#token),
          "aria-label": visible(text),
          onclick: () => this.#choose(at),
        },
        text || visible(text),
      );
      button.style.setProperty("--weight", at <= this.#token ? row[at] / brightest : 0);
      return button;
    });
    const focused = this.tokens.contains(document.activeElement);
    this.tokens.replaceChildren(...buttons);
    if (focused) buttons[this.#token].focus();
    const most = row.map((weight, at) => ({ weight, text: visible(tokens[at]) })).slice(0, this.#token + 1);
    if (earlier[this.#token] >= 0.0001) most.push({ weight: earlier[this.#token], text: "earlier ones" });
    most.sort((a, b) => b.weight - a.weight);
    const named = most.slice(0, NAMED).map(({ weight, text }) => `${text} ${percent(Math.log(weight))}`);
    this.looks.textContent = `${visible(tokens[this.#token])} looks at ${named.join(", ")}`;
  }

  #choose(at) {
    this.#token = at;
    this.#draw();
    this.tokens.children[at].focus();
  }

  #move(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = this.#token + step;
    if (event.key === "Enter" || event.key === " ") event.target.click();
    else if (step && at >= 0 && at < this.#seen.tokens.length) this.#choose(at);
    else return;
    event.preventDefault();
  }

  /** A row per token, a column per layer. */
  #lens() {
    const { tokens, logit_lens: layers } = this.#seen;
    const head = h("tr", {}, h("th", { scope: "col" }, "after"), ...layers.map((_, number) => heading(number)));
    const rows = tokens.map((text, at) =>
      h("tr", {}, h("th", { scope: "row" }, visible(text)), ...layers.map((layer) => cell(layer[at]))),
    );
    this.table.replaceChildren(h("table", {}, h("thead", {}, head), h("tbody", {}, ...rows)));
  }

  #show(name) {
    TABS.forEach(([other], number) => {
      this.tabs[number].setAttribute("aria-selected", String(other === name));
      this.tabs[number].setAttribute("tabindex", other === name ? "0" : "-1");
      this.panels[other].hidden = other !== name;
    });
  }

  #turn(event) {
    if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    event.preventDefault();
    const other = this.tabs.find((tab) => tab.getAttribute("aria-selected") === "false");
    other.click();
    other.focus();
  }
}

const field = (label, select) => h("label", {}, `${label} `, select);

const heading = (number) => h("th", { scope: "col" }, `layer ${number}`);

function cell(predictions) {
  const [best] = predictions;
  const all = predictions.map(({ text, probability }) => `${visible(text)} ${percent(Math.log(probability))}`);
  const element = h("td", { title: all.join("\n") }, h("code", {}, visible(best.text)), ` ${percent(Math.log(best.probability))}`);
  element.style.setProperty("--weight", best.probability);
  return element;
}

let inside = null; // made when it is first wanted

/** Open the view for a message. */
export function lookInside(body) {
  inside ??= new Inside();
  inside.open(body);
  byId("inside-tab-attention").focus();
}
