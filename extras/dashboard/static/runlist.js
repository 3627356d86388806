// The list of all runs in the sidebar. It may be long: what is not looked for is drawn a hundred at a time.

import { h, icon, reconcile } from "../../static/dom.js";
import { addressOf } from "./address.js";
import { sample } from "./drawing.js";
import { ago, count, duration, plural, trimmed } from "./format.js";

const AT_ONCE = 100;

/** Tells by "pick" (detail: {id, on}) that a run is to be shown with others, by "chosen" that only one is to be. */
export class RunList extends EventTarget {
  constructor(side) {
    super();
    this.search = h("input", {
      type: "search",
      id: "search",
      "aria-label": "Find runs",
      placeholder: "Find runs",
      autocomplete: "off",
      title: "By name, stage or state (Ctrl+K)",
      oninput: () => this.#filter(),
    });
    this.found = h("p", { class: "found", role: "status" });
    this.list = h("ul", {});
    this.more = h("button", { type: "button", class: "row-button", onclick: () => this.#showMore() });
    this.entries = new Map();
    this.runs = [];
    this.slots = new Map();
    this.limit = AT_ONCE;
    side.replaceChildren(
      h("div", { class: "search" }, icon("search"), this.search),
      this.found,
      h("nav", { class: "side-list", "aria-label": "Runs" }, this.list, this.more),
    );
  }

  /** runs: as the server lists them. slots: id → slot of those that are shown. */
  update(runs, slots) {
    this.runs = runs;
    this.slots = slots;
    const known = new Set(runs.map(({ id }) => id));
    for (const id of this.entries.keys()) if (!known.has(id)) this.entries.delete(id);
    this.#render();
  }

  #filter() {
    this.limit = AT_ONCE;
    this.#render();
  }

  #showMore() {
    const first = this.list.children.length;
    this.limit += AT_ONCE;
    this.#render();
    this.list.children[first]?.querySelector("a").focus();
  }

  #render() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.runs.filter((run) => words.every((word) => textOf(run).includes(word)));
    reconcile(
      this.list,
      found.slice(0, this.limit).map((run) => this.#entry(run)),
    );
    const left = found.length - this.limit;
    this.more.hidden = left <= 0;
    this.more.textContent = `Show ${Math.min(left, AT_ONCE)} more of ${count(left)}`;
    this.found.textContent = words.length ? `${plural(found.length, "run")} found` : plural(found.length, "run");
  }

  #entry(run) {
    if (!this.entries.has(run.id)) this.entries.set(run.id, this.#build(run));
    const { element, box, link, line, looks } = this.entries.get(run.id);
    const slot = this.slots.get(run.id);
    box.checked = slot !== undefined;
    link.setAttribute("aria-current", String(slot !== undefined));
    line.textContent = lineOf(run);
    line.className = `sub ${run.state}`;
    looks.replaceChildren(...(slot === undefined ? [] : [sample(slot)]));
    return element;
  }

  #build(run) {
    const tell = (type, detail) => this.dispatchEvent(new CustomEvent(type, { detail }));
    const box = h("input", {
      type: "checkbox",
      "aria-label": `Show ${run.id} with the others`,
      title: "Show with the others",
      onchange: () => tell("pick", { id: run.id, on: box.checked }),
    });
    const line = h("span", {});
    const looks = h("span", {});
    const link = h(
      "a",
      { href: addressOf({ runs: [run.id] }), title: run.folder, onclick: () => tell("chosen") },
      h("span", { class: "name" }, run.id, looks),
      line,
    );
    return { element: h("li", { class: "entry" }, box, link), box, link, line, looks };
  }
}

const textOf = (run) => `${run.id} ${run.stage} ${run.state} ${run.folder}`.toLowerCase();

/** Where a run stands, in a line. */
function lineOf(run) {
  const { last } = run;
  const score = last.val_bpb ?? last.loss ?? null;
  const parts = [
    run.state === "running" && run.total_steps ? `${Math.floor((100 * run.step) / run.total_steps)} %` : run.state,
    score === null
      ? `step ${count(run.step)}`
      : `${last.val_bpb === score ? "bpb" : "loss"} ${trimmed(score.toFixed(3))}`,
    run.state === "running" && last.seconds_left ? `${duration(last.seconds_left)} left` : ago(run.updated),
  ];
  return parts.join(" · ");
}
