// The page of runs: which are shown, their curves, and what is known about one of them.

import { note } from "../../static/dialogs.js";
import { copyButton, h, icon } from "../../static/dom.js";
import { address, listOf, pageOf, setAddress } from "./address.js";
import { Charts } from "./charts.js";
import { Curves } from "./curves.js";
import { Details } from "./details.js";
import { AXES, metric, sorted } from "./metrics.js";
import { Picked } from "./picked.js";
import { RunList } from "./runlist.js";
import { getRun, getRuns, keepAsking } from "./server.js";

const REFRESH_SECONDS = 10;
const MOST = 12; // runs over each other
const DRAW_MS = 300; // between two drawings of what comes in

export class View {
  constructor({ side, content, tools, chosen }) {
    this.runs = new Map();
    this.about = new Map(); // id → what the server knows about a run besides its state
    this.slots = new Map();
    this.hidden = new Set();
    this.curves = new Curves();
    this.list = new RunList(side);
    this.picked = new Picked();
    this.grid = h("div", { class: "charts" });
    this.charts = new Charts(this.grid);
    this.details = new Details();
    this.empty = h("div", { class: "nothing", hidden: true });
    this.controls = this.#controls();
    this.sheet = h(
      "div",
      { class: "sheet", hidden: true },
      this.picked.element,
      this.controls,
      this.grid,
      this.details.element,
    );
    content.replaceChildren(this.empty, this.sheet);
    tools.append(copyButton("Copy a link to what is shown", () => location.href));
    this.#listen(chosen);
  }

  #controls() {
    this.axes = Object.entries(AXES).map(([value, { label }]) =>
      h("input", { type: "radio", name: "axis", value, onchange: () => this.#change({ axis: value, range: null }) }),
    );
    const segments = this.axes.map((input) => h("label", {}, input, h("span", {}, AXES[input.value].label)));
    this.whole = h(
      "button",
      { type: "button", class: "button", hidden: true, onclick: () => this.#zoom(null) },
      "Show everything",
    );
    this.choices = h("div", { class: "choices" });
    this.metrics = h(
      "details",
      { class: "choose" },
      h("summary", { class: "button" }, "Charts", icon("chevron")),
      this.choices,
    );
    return h(
      "div",
      { class: "controls" },
      h("fieldset", { class: "segments" }, h("legend", { class: "visually-hidden" }, "Horizontal axis"), ...segments),
      this.metrics,
      this.whole,
    );
  }

  #listen(chosen) {
    this.list.addEventListener("pick", ({ detail: { id, on } }) => this.#pick(id, on));
    this.list.addEventListener("chosen", chosen);
    this.picked.addEventListener("remove", ({ detail }) => this.#pick(detail, false));
    this.picked.addEventListener("hide", ({ detail }) => {
      if (!this.hidden.delete(detail)) this.hidden.add(detail);
      this.#render();
    });
    this.charts.addEventListener("zoom", ({ detail }) => this.#zoom(detail));
    this.charts.addEventListener("expand", ({ detail }) =>
      this.#change({ keys: this.state.keys?.length === 1 ? null : [detail] }),
    );
    this.charts.addEventListener("log", ({ detail }) => {
      const log = new Set(this.state.log);
      if (!log.delete(detail)) log.add(detail);
      this.#change({ log });
    });
    this.details.addEventListener("choose", ({ detail }) => this.#change(detail));
    this.curves.addEventListener("change", () => this.#drawSoon());
    this.curves.addEventListener("run", ({ detail }) => this.#newer(detail));
    this.curves.addEventListener("reset", ({ detail }) => this.#learn(detail));
    addEventListener("hashchange", () => this.#follow());
    document.addEventListener(
      "pointerdown",
      ({ target }) => this.metrics.contains(target) || (this.metrics.open = false),
    );
    this.metrics.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.metrics.open) return;
      this.metrics.open = false;
      this.metrics.firstChild.focus();
      event.stopPropagation();
    });
  }

  async start() {
    this.#read();
    const refresh = keepAsking(async () => {
      const runs = await getRuns();
      this.runs = new Map(runs.map((run) => [run.id, run]));
      this.#follow();
    }, REFRESH_SECONDS);
    await refresh();
  }

  /** What the address says. */
  #read() {
    const values = address();
    this.state = {
      runs: listOf(values, "runs"),
      keys: listOf(values, "key"),
      axis: values.get("x") in AXES ? values.get("x") : "step",
      log: new Set(listOf(values, "log")),
      range: this.state?.range ?? null,
      run: values.get("run"),
      tab: values.get("tab") ?? "events",
    };
  }

  #write(step) {
    const { runs, keys, axis, log, run, tab } = this.state;
    const values = { runs, key: keys, x: axis === "step" ? null : axis, log: [...log], run };
    setAddress({ ...values, tab: tab === "events" ? null : tab }, step);
  }

  #change(values) {
    Object.assign(this.state, values);
    this.#write(false);
    this.#show();
  }

  #follow() {
    this.#read();
    this.#show();
  }

  /** The runs that are shown: those chosen, else those that run, else the latest. */
  get ids() {
    const all = [...this.runs.values()];
    if (this.state.runs) return this.state.runs.filter((id) => this.runs.has(id)).slice(0, MOST);
    const running = all.filter(({ state }) => state === "running").slice(0, MOST);
    return (running.length ? running : all.slice(0, 1)).map(({ id }) => id);
  }

  #pick(id, on) {
    const ids = this.ids.filter((each) => each !== id);
    if (on && ids.length === MOST) {
      note(`At most ${MOST} runs are shown over each other; remove one first.`);
      return this.#render();
    }
    this.state.runs = on ? [...ids, id] : ids;
    this.#write(true);
    this.#show();
  }

  #show() {
    const { ids } = this;
    for (const id of this.slots.keys()) if (!ids.includes(id)) this.slots.delete(id);
    const taken = new Set(this.slots.values());
    for (const id of ids) {
      if (this.slots.has(id)) continue;
      let slot = 0;
      while (taken.has(slot)) slot++;
      taken.add(slot);
      this.slots.set(id, slot);
    }
    for (const id of ids) if (!this.about.has(id)) this.#learn(id);
    this.#want();
    this.#render();
  }

  #want() {
    this.curves.want({ run: this.ids, key: this.keys, x: this.state.axis });
    if (!this.curves.range) this.state.range = null;
  }

  /** Ask what is known about a run besides its state. */
  async #learn(id) {
    this.about.set(id, this.about.get(id) ?? null);
    const about = await getRun(id);
    this.about.set(id, { ...about, asked: Date.now() });
    this.#want();
    this.#render();
  }

  #newer(run) {
    const before = this.runs.get(run.id);
    this.runs.set(run.id, run);
    const about = this.about.get(run.id);
    const isOld = about && Date.now() - about.asked > 1000 * REFRESH_SECONDS;
    if (isOld || before?.state !== run.state) this.#learn(run.id);
    this.#render();
  }

  /** Every metric that a shown run has logged. */
  get known() {
    return sorted(new Set(this.ids.flatMap((id) => this.about.get(id)?.keys ?? [])));
  }

  get keys() {
    const { usual, others } = this.known;
    return this.state.keys?.filter((key) => usual.includes(key) || others.includes(key)) ?? usual;
  }

  async #zoom(range) {
    this.state.range = range;
    this.#draw();
    await this.curves.zoom(range);
  }

  // Drawing

  #render() {
    const { ids } = this;
    this.list.update([...this.runs.values()], this.slots);
    this.sheet.hidden = ids.length === 0;
    this.empty.hidden = ids.length > 0;
    this.empty.replaceChildren(...this.#nothing());
    this.picked.update(
      ids.map((id) => this.runs.get(id)),
      this.slots,
      this.hidden,
    );
    for (const axis of this.axes) axis.checked = axis.value === this.state.axis;
    this.#renderChoices();
    const chosen = ids.includes(this.state.run) ? this.state.run : ids[0];
    const about = this.about.get(chosen);
    this.details.update({
      run: about && { ...about, id: chosen },
      tab: this.state.tab,
      shown: ids,
      all: [...this.runs.keys()],
    });
    this.#draw();
  }

  #nothing() {
    if (this.runs.size)
      return [
        h("h2", {}, "No run is chosen"),
        h("p", {}, "Choose one in the sidebar, or several to see them over each other."),
      ];
    return [
      h("h2", {}, "No runs yet"),
      h("p", {}, "Start one on the page ", h("a", { href: pageOf("train") }, "Train"), ", or type:"),
      h("pre", {}, "bash speedrun.sh"),
      h("p", { class: "quiet" }, "It appears here as soon as it has written its first line."),
    ];
  }

  #renderChoices() {
    const { usual, others } = this.known;
    const all = [...usual, ...others];
    if (this.offered === all.join()) {
      for (const box of this.choices.querySelectorAll("input")) box.checked = this.keys.includes(box.value);
      return;
    }
    this.offered = all.join();
    const change = ({ target: { value, checked } }) => {
      const keys = all.filter((key) => (key === value ? checked : this.keys.includes(key)));
      this.#change({ keys: keys.join() === usual.join() ? null : keys });
    };
    this.choices.replaceChildren(
      ...all.map((key) => {
        const box = h("input", { type: "checkbox", value: key, onchange: change });
        box.checked = this.keys.includes(key);
        return h("label", {}, box, metric(key).title);
      }),
    );
  }

  #draw() {
    const shown = this.ids.filter((id) => !this.hidden.has(id));
    const { axis, range, log } = this.state;
    const runs = shown.map((id) => ({ id, name: id, slot: this.slots.get(id) }));
    const { keys, curves } = this;
    const large = keys.length === 1;
    this.charts.show({ keys, curves, runs, axis, range, marks: this.#marks(shown), log, large });
    this.whole.hidden = range === null;
  }

  #drawSoon() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      this.#draw();
    }, DRAW_MS);
  }

  #marks(ids) {
    const place = { step: "step", tokens: "tokens", time: "seconds" }[this.state.axis];
    return ids.flatMap((id) =>
      (this.about.get(id)?.events ?? [])
        .filter((event) => Number.isFinite(event[place]) && !["started", "evaluated"].includes(event.kind))
        .map((event) => ({
          x: event[place],
          slot: this.slots.get(id),
          kind: event.kind,
          text: `${id}: ${event.kind}, ${event.text}`,
        })),
    );
  }
}
