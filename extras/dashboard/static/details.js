// What is known about one run besides its curves, in tabs: events, samples, configuration, what differs, report card.

import { h, icon } from "../../static/dom.js";
import { Markdown } from "../../static/markdown.js";
import { count, moment } from "./format.js";
import { getDifferences } from "./server.js";

const SAMPLES = 12; // at once

const TABS = {
  events: { title: "Events", fill: events },
  samples: { title: "Samples", fill: samples },
  config: { title: "Configuration", fill: configuration },
  compare: { title: "Compare", fill: comparison },
  report: { title: "Report card", fill: report },
};

/** Tells by "choose" (detail: {run, tab}) what is to be shown. */
export class Details extends EventTarget {
  constructor() {
    super();
    this.select = h("select", { "aria-label": "Run", onchange: () => this.#choose({ run: this.select.value }) });
    this.box = h("span", { class: "select" }, this.select, icon("chevron"));
    this.tabs = Object.entries(TABS).map(([tab, { title }]) => this.#tab(tab, title));
    this.panel = h("div", { id: "details-panel", role: "tabpanel", class: "details-panel", tabindex: "0" });
    const list = h(
      "div",
      { class: "tabs", role: "tablist", "aria-label": "About the run", onkeydown: (event) => this.#key(event) },
      ...this.tabs,
    );
    this.element = h(
      "section",
      { class: "details", "aria-label": "About the run" },
      h("div", { class: "details-head" }, list, this.box),
      this.panel,
    );
  }

  #tab(tab, title) {
    const show = () => this.#choose({ tab });
    return h(
      "button",
      { type: "button", role: "tab", id: `tab-${tab}`, "aria-controls": "details-panel", onclick: show },
      title,
    );
  }

  #choose(detail) {
    this.dispatchEvent(new CustomEvent("choose", { detail }));
  }

  #key(event) {
    const at = this.tabs.indexOf(event.target);
    const next = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: -1 }[event.key];
    if (at < 0 || next === undefined) return;
    event.preventDefault();
    const tab = this.tabs.at(next % this.tabs.length);
    tab.focus();
    tab.click();
  }

  /** run: one as the server describes it, null while that is on its way. shown: ids to choose from. all: of every run. */
  update({ run, tab, shown, all }) {
    const chosen = TABS[tab] ? tab : "events";
    this.box.hidden = shown.length < 2;
    this.select.replaceChildren(...shown.map((id) => h("option", { value: id }, id)));
    if (run) this.select.value = run.id;
    for (const each of this.tabs) {
      const isChosen = each.id === `tab-${chosen}`;
      each.setAttribute("aria-selected", String(isChosen));
      each.tabIndex = isChosen ? 0 : -1;
    }
    this.panel.setAttribute("aria-labelledby", `tab-${chosen}`);
    if (!run) {
      this.state = null;
      return this.panel.replaceChildren();
    }
    // A panel that did not change keeps its selection, and how far it was scrolled.
    const state = JSON.stringify([chosen, chosen === "compare" ? [run.id, all] : parts(run)[chosen]]);
    if (state === this.state) return;
    this.state = state;
    this.panel.replaceChildren(...TABS[chosen].fill(run, all));
  }
}

const parts = ({ id, events, samples, config, changed_flags, report }) => ({
  events: [id, events],
  samples: [id, samples],
  config: [id, config, changed_flags],
  report: [id, report],
});

const quiet = (text) => [h("p", { class: "quiet" }, text)];

function table(heads, rows, label) {
  const cell = (content, i) => h(i ? "td" : "th", i ? {} : { scope: "row" }, content);
  const head = h("tr", {}, ...heads.map((text) => h("th", { scope: "col" }, text)));
  const body = rows.map((row) => h("tr", {}, ...row.map(cell)));
  return h(
    "div",
    { class: "table", role: "group", "aria-label": label, tabindex: "0" },
    h("table", {}, h("thead", {}, head), h("tbody", {}, ...body)),
  );
}

function events({ events }) {
  if (!events.length) return quiet("Nothing has happened yet.");
  const rows = [...events]
    .reverse()
    .map(({ step, time, kind, text }) => [
      count(step),
      moment(time),
      h("span", { class: `event ${kind}` }, kind),
      text,
    ]);
  return [table(["Step", "Time", "Event", ""], rows, "Events")];
}

function samples({ samples }) {
  if (!samples.length) return quiet("No samples yet. A stage writes some after its validations.");
  const entry = ({ step, prompt, text }) =>
    h(
      "li",
      {},
      h("p", { class: "quiet" }, step === null ? "After training" : `Step ${count(step)}`),
      h("p", { class: "sample-text" }, h("b", {}, prompt), text),
    );
  const list = h("ul", { class: "samples" }, ...samples.slice(0, SAMPLES).map(entry));
  if (samples.length <= SAMPLES) return [list];
  const more = h("button", { type: "button", class: "button" }, `Show all ${count(samples.length)}`);
  more.addEventListener("click", () => {
    list.append(...samples.slice(SAMPLES).map(entry));
    more.remove();
    list.children[SAMPLES].scrollIntoView({ block: "nearest" });
  });
  return [list, more];
}

const written = (value) => (value === null ? "–" : typeof value === "string" ? value : JSON.stringify(value));

/** The settings of a run, and those of its model, by name; what else its configuration has is not set by flags. */
function settingsOf({ user_config, settings, model_config, ...rest }) {
  const model = Object.entries(model_config ?? {}).map(([name, value]) => [`model.${name}`, value]);
  return { ...(user_config ?? settings ?? rest), ...Object.fromEntries(model) };
}

function configuration({ config, changed_flags: changed, folder }) {
  const settings = settingsOf(config);
  const names = Object.keys(settings);
  if (!names.length) return quiet("This run has recorded no configuration.");
  const isChanged = (name) => name in changed;
  const row = (name) => [
    h("code", {}, name),
    h("code", { class: isChanged(name) ? "changed" : null }, written(settings[name])),
    isChanged(name) ? "changed" : "",
  ];
  const rows = [...names.filter(isChanged), ...names.filter((name) => !isChanged(name))].map(row);
  return [h("p", { class: "quiet" }, folder), table(["Setting", "Value", ""], rows, "Configuration")];
}

function comparison(run, all) {
  const others = all.filter((id) => id !== run.id);
  if (!others.length) return quiet("No other run is here to compare with.");
  const field = h("input", { type: "search", list: "other-runs", id: "other-run", placeholder: "Another run" });
  const names = h("datalist", { id: "other-runs" }, ...others.map((id) => h("option", { value: id })));
  const result = h("div", { role: "status" });
  const show = async () => {
    if (!others.includes(field.value)) return result.replaceChildren();
    const differs = await getDifferences(run.id, field.value);
    const rows = differs.map(({ name, this: mine, other }) => [h("code", {}, name), written(mine), written(other)]);
    result.replaceChildren(
      ...(rows.length
        ? [table(["Setting", run.id, field.value], rows, "What differs")]
        : quiet("They have the same settings.")),
    );
  };
  field.addEventListener("input", show);
  field.value = run.parent && others.includes(run.parent) ? run.parent : "";
  show();
  return [
    h("p", { class: "compare-with" }, h("label", { for: "other-run" }, `${run.id} against`), field, names),
    result,
  ];
}

function report({ report }) {
  if (!report) return quiet("A report card is written when the run has finished.");
  const view = new Markdown();
  view.update(report);
  return [view.element];
}
