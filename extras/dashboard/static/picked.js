// The runs that are shown, as a table: which line is whose, how far each has come, and its latest values.

import { h, iconButton, reconcile } from "../../static/dom.js";
import { sample } from "./drawing.js";
import { count, duration } from "./format.js";
import { metric } from "./metrics.js";

const COLUMNS = ["loss", "reward", "val_bpb", "val_loss", "tok_per_second", "mfu", "memory_bytes"];

/** Tells by "hide" and "remove" (detail: the id) what users do. */
export class Picked extends EventTarget {
  constructor() {
    super();
    this.head = h("tr", {});
    this.body = h("tbody", {});
    this.rows = new Map();
    const table = h("table", {}, h("thead", {}, this.head), this.body);
    this.element = h(
      "div",
      { class: "picked", role: "group", "aria-label": "Runs that are shown", tabindex: "0" },
      table,
    );
  }

  /** runs: those that are shown. slots: id → slot. hidden: ids that have no line at the moment. */
  update(runs, slots, hidden) {
    const columns = COLUMNS.filter((key) => runs.some(({ last }) => Number.isFinite(last[key])));
    const names = ["Run", "State", "Step", ...columns.map((key) => metric(key).short), "Time left"];
    if (this.columns?.join() !== columns.join()) {
      this.columns = columns;
      this.rows.clear();
      const heads = names.map((name, i) => h("th", { scope: "col", class: i > 2 ? "right" : null }, name));
      this.head.replaceChildren(...heads, h("td", {}));
    }
    reconcile(
      this.body,
      runs.map((run) => this.#row(run, slots.get(run.id), hidden.has(run.id))),
    );
  }

  #row(run, slot, isHidden) {
    if (this.rows.get(run.id)?.slot !== slot) this.rows.set(run.id, this.#build(run, slot));
    const { element, toggle, state, step, bar, values, left } = this.rows.get(run.id);
    toggle.setAttribute("aria-pressed", String(!isHidden));
    element.classList.toggle("is-hidden", isHidden);
    state.textContent = run.state;
    state.className = `state ${run.state}`;
    step.textContent = run.total_steps ? `${count(run.step)} / ${count(run.total_steps)}` : count(run.step);
    bar.style.width = `${run.total_steps ? Math.min(100, (100 * run.step) / run.total_steps) : 0}%`;
    this.columns.forEach((key, i) => {
      const value = run.last[key];
      values[i].textContent = Number.isFinite(value) ? metric(key).text(value) : "–";
    });
    const seconds = run.last.seconds_left;
    left.textContent = run.state === "running" && Number.isFinite(seconds) ? duration(seconds) : "–";
    return element;
  }

  #build(run, slot) {
    const tell = (type) => () => this.dispatchEvent(new CustomEvent(type, { detail: run.id }));
    const toggle = h(
      "button",
      { type: "button", class: "legend-button", title: "Show or hide its lines", onclick: tell("hide") },
      sample(slot),
      run.id,
    );
    const state = h("span", {});
    const step = h("span", {});
    const bar = h("span", { class: "bar" });
    const values = this.columns.map(() => h("td", { class: "right" }));
    const left = h("td", { class: "right" });
    const track = h("span", { class: "track", "aria-hidden": "true" }, bar);
    const remove = iconButton("close", `Remove ${run.id} from the charts`, tell("remove"));
    const head = h("th", { scope: "row" }, toggle);
    const element = h(
      "tr",
      {},
      head,
      h("td", {}, state),
      h("td", {}, step, track),
      ...values,
      left,
      h("td", {}, remove),
    );
    return { element, slot, toggle, state, step, bar, values, left };
  }
}
