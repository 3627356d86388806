// The form of a stage, made from what the server tells about its flags.

import { sentence } from "../../static/api.js";
import { h, icon, iconButton } from "../../static/dom.js";
import { plural } from "./format.js";

/** Tells by "input" that something was changed. */
export class Form extends EventTarget {
  /** form: as the server describes it. draft: name → text, what was entered before. */
  constructor(form, draft) {
    super();
    this.fields = form.fields.map((field) => new Field(field, draft[field.name], () => this.#changed()));
    const groups = new Map();
    for (const field of this.fields.filter(({ about }) => !about.front))
      groups.set(field.about.group, [...(groups.get(field.about.group) ?? []), field]);
    this.groups = [...groups].map(([name, fields]) => new Group(name, fields));
    this.search = h("input", {
      type: "search",
      "aria-label": "Find a setting",
      placeholder: "Find a setting",
      oninput: () => this.#find(),
    });
    const front = this.fields.filter(({ about }) => about.front).map(({ element }) => element);
    const others = [
      h("div", { class: "search" }, icon("search"), this.search),
      ...this.groups.map(({ element }) => element),
    ];
    this.element = h("div", { class: "form" }, ...front, ...(this.groups.length ? others : []));
    this.#update();
  }

  #changed() {
    this.#update();
    this.dispatchEvent(new CustomEvent("input"));
  }

  #update() {
    for (const group of this.groups) group.update();
  }

  /** Show only the settings that have these words in their name or help. */
  #find() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const group of this.groups) group.find(words);
  }

  /** What differs from the defaults: name → value, as the server reads it. */
  get values() {
    return Object.fromEntries(
      this.fields.filter((field) => field.isChanged).map((field) => [field.about.name, field.value]),
    );
  }

  /** What was entered: name → text. */
  get draft() {
    return Object.fromEntries(
      this.fields.filter((field) => field.isChanged).map((field) => [field.about.name, field.text]),
    );
  }

  /** errors: name → sentence, "" for the form as a whole. */
  showErrors(errors) {
    for (const field of this.fields) field.showError(errors[field.about.name] ?? "");
  }

  /** Enter a value in the first field of a type; returns whether there is one. */
  enter(type, text) {
    const field = this.fields.find(({ about }) => about.type === type);
    field?.add(text);
    return field !== undefined;
  }
}

class Group {
  constructor(name, fields) {
    this.fields = fields;
    this.changed = h("span", { class: "quiet" });
    const summary = h("summary", {}, h("span", {}, name), this.changed, icon("chevron"));
    this.element = h("details", { class: "group" }, summary, ...fields.map(({ element }) => element));
  }

  update() {
    const changed = this.fields.filter((field) => field.isChanged).length;
    this.changed.textContent = changed ? `${changed} changed` : plural(this.fields.length, "setting");
    this.changed.classList.toggle("changed", changed > 0);
  }

  find(words) {
    for (const { element, about } of this.fields)
      element.hidden = !words.every((word) => `${about.name} ${about.help}`.toLowerCase().includes(word));
    const some = this.fields.some(({ element }) => !element.hidden);
    this.element.hidden = !some;
    this.element.open = words.length > 0 && some;
  }
}

/** One setting: its name, a control, the help, and what is wrong with it. */
class Field {
  constructor(about, text, changed) {
    this.about = about;
    const { name, help, type } = about;
    this.input = this.#control(about);
    this.error = h("p", { class: "field-error", id: `error-${name}` });
    this.again = iconButton("again", `Default for ${name}`, () => this.enter(this.standard), { hidden: true });
    const hint = h("p", { class: "field-hint", id: `hint-${name}` }, help);
    const label = h("label", { for: `field-${name}` }, name.replaceAll("_", " "));
    this.element = h(
      "div",
      { class: `setting ${type}` },
      label,
      this.input,
      this.again,
      hint,
      this.error,
      ...this.#list(),
    );
    /** what the control holds where nothing was changed */
    this.standard = type === "bool" ? about.default : "";
    this.changed = changed;
    this.#put(text ?? this.standard);
    this.input.addEventListener("input", () => this.#update());
    this.#mark();
  }

  #control({ name, type, choices, default: standard, min, max }) {
    const common = {
      id: `field-${name}`,
      "aria-describedby": `hint-${name} error-${name}`,
      autocomplete: "off",
      spellcheck: "false",
    };
    const shown = standard === null ? "" : Array.isArray(standard) ? standard.join("\n") : String(standard);
    if (type === "bool") return h("input", { ...common, type: "checkbox" });
    if (choices && (type === "choice" || type === "model")) {
      const rest = choices.filter((choice) => choice !== standard);
      const options = rest.map((choice) => h("option", { value: choice }, choice));
      return h("select", common, h("option", { value: "" }, shown || "default"), ...options);
    }
    if (type === "list" || (type === "file" && this.about.many))
      return h("textarea", { ...common, rows: "1", placeholder: shown || "one per line" });
    const isNumber = type === "int" || type === "float";
    const limits = { min: min ?? null, max: max ?? null, inputmode: isNumber ? "decimal" : null };
    const list = type === "file" ? `list-${name}` : null;
    return h("input", {
      ...common,
      ...limits,
      list,
      type: "text",
      placeholder: shown || (type === "file" ? "path" : ""),
    });
  }

  /** What was uploaded before, to choose from. */
  #list() {
    const { name, type, choices } = this.about;
    if (type !== "file" || !choices?.length) return [];
    if (this.input.tagName === "INPUT")
      return [h("datalist", { id: `list-${name}` }, ...choices.map((path) => h("option", { value: path })))];
    const add = (path) =>
      h("button", { type: "button", class: "text-button", onclick: () => this.add(path) }, `Add ${path}`);
    return [h("p", { class: "field-files" }, ...choices.map(add))];
  }

  get text() {
    return this.about.type === "bool" ? this.input.checked : this.input.value.trim();
  }

  get isChanged() {
    return this.text !== this.standard;
  }

  get value() {
    const { type } = this.about;
    if (this.input.tagName === "TEXTAREA")
      return this.text
        .split("\n")
        .map((line) => line.trim())
        .filter(Boolean);
    const isNumber = (type === "int" || type === "float") && this.text !== "" && Number.isFinite(Number(this.text));
    return isNumber ? Number(this.text) : this.text;
  }

  enter(text) {
    this.#put(text);
    this.#update();
  }

  /** Enter a value, after those that a list has already. */
  add(text) {
    this.enter(this.input.tagName === "TEXTAREA" && this.text ? `${this.text}\n${text}` : text);
  }

  #put(text) {
    if (this.about.type === "bool") this.input.checked = text === true;
    else this.input.value = text;
  }

  #update() {
    this.#mark();
    this.changed();
  }

  #mark() {
    this.element.classList.toggle("changed", this.isChanged);
    this.again.hidden = !this.isChanged;
  }

  showError(text) {
    this.error.textContent = text && sentence(text);
    this.input.setAttribute("aria-invalid", String(text !== ""));
  }
}
