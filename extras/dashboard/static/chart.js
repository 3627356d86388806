// A chart of several series over each other, drawn as SVG. It has the size of its box and follows it.
//
// A series is {id, name, slot, x, y, low, high}: ascending x, the mean y there and the least and largest value around it.
// `slot` chooses colour and dashes.

import { byId, h, iconButton } from "../../static/dom.js";
import { bisect, nearest, scale, ticks } from "./axis.js";
import { band, line, look, sample, svg } from "./drawing.js";
import { asTable, inWords, placeOf } from "./words.js";

const LEFT = 58;
const RIGHT = 10;
const TOP = 8;
const BOTTOM = 22;
const DRAGGED = 6; // pixels from which on a movement marks a range

let made = 0; // charts; the clip path of each needs a name

/** Tells by the events "zoom" (detail: [from, to] or null), "point" (x or null), "log" and "expand" what users do. */
export class Chart extends EventTarget {
  constructor(metric) {
    super();
    this.metric = metric;
    this.series = [];
    this.events = [];
    this.log = this.table = false;
    /** where the values are read, where a range was begun (x), where a button was pressed (pixels); null: nowhere */
    this.at = this.from = this.pressed = null;
    this.clip = `plot-${++made}`;
    this.#build();
    new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width;
      this.height = contentRect.height;
      this.#soon();
    }).observe(this.plot);
  }

  #build() {
    const { title } = this.metric;
    this.lines = svg("g", { "clip-path": `url(#${this.clip})` });
    this.frame = svg("rect", { x: LEFT, y: TOP });
    this.grid = svg("g", { class: "grid" });
    this.marks = svg("g", { class: "marks" });
    this.over = svg("g", { class: "over" });
    const clip = svg("clipPath", { id: this.clip }, this.frame);
    this.drawing = svg("svg", { "aria-hidden": "true" }, clip, this.grid, this.marks, this.lines, this.over);
    this.readout = h("div", { class: "readout", hidden: true });
    this.plot = h(
      "div",
      { class: "plot", role: "img", tabindex: "0", "aria-label": title },
      this.drawing,
      this.readout,
    );
    this.cells = h("div", {
      class: "cells table",
      tabindex: "0",
      role: "group",
      "aria-label": `${title}: values`,
      hidden: true,
    });
    const press = { "aria-pressed": "false" };
    this.logButton = iconButton("log", `Logarithmic scale: ${title}`, () => this.#tell("log"), press);
    this.tableButton = iconButton("table", `Show as a table: ${title}`, () => this.showTable(!this.table), press);
    this.expandButton = iconButton("expand", `Enlarge: ${title}`, () => this.#tell("expand"), press);
    const tools = h("span", { class: "tools" }, this.logButton, this.tableButton, this.expandButton);
    this.element = h(
      "figure",
      { class: "chart" },
      h("figcaption", {}, h("h3", {}, title), tools),
      this.plot,
      this.cells,
    );
    this.plot.addEventListener("keydown", (event) => this.#key(event));
    for (const type of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave"])
      this.plot.addEventListener(type, (event) => this.#pointer(event));
    this.plot.addEventListener("dblclick", () => this.#tell("zoom", null));
    this.plot.addEventListener("blur", () => this.#tell("point", null));
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  /**
   * Show these series, those first that lie below. axis: a key of AXES. range: the part of x that is shown; null: the
   * whole, [from, to]. marks: [{x, slot, kind, text}].
   */
  show({ series, axis, whole, range = null, marks = [], log = false, large = false }) {
    Object.assign(this, { series, axis, whole, range, events: marks, log });
    this.logButton.setAttribute("aria-pressed", String(log));
    this.expandButton.setAttribute("aria-pressed", String(large));
    this.element.classList.toggle("large", large);
    this.#soon();
  }

  #soon() {
    this.frameRequest ??= requestAnimationFrame(() => {
      this.frameRequest = null;
      this.#draw();
    });
  }

  // Drawing

  #draw() {
    if (!this.width || !this.axis) return this.table && this.#fillTable();
    const ranges = this.#ranges();
    this.drawing.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    this.frame.setAttribute("width", Math.max(0, this.width - LEFT - RIGHT));
    this.frame.setAttribute("height", Math.max(0, this.height - TOP - BOTTOM));
    this.across = scale(ranges.x, [LEFT, this.width - RIGHT]);
    this.up = scale(ranges.y, [this.height - BOTTOM, TOP], this.log);
    this.#drawGrid(ranges);
    this.#drawMarks();
    const bottom = this.height - BOTTOM;
    this.lines.replaceChildren(
      ...this.series.map((each) => band(each, this.across, this.up, bottom)),
      ...this.series.map((each) => line(each, this.across, this.up)),
    );
    this.plot.setAttribute("aria-label", inWords(this));
    this.point(this.at, this.tells);
    if (this.table) this.#fillTable();
  }

  /** What x and y stretch over. Only means count for y, for single steps may jump far out. */
  #ranges() {
    const x = this.range ?? this.whole;
    let [low, high] = [Infinity, -Infinity];
    for (const each of this.series)
      for (let i = bisect(each.x, x[0]); i < each.x.length && each.x[i] <= x[1]; i++) {
        const value = each.y[i];
        if (value === null || !Number.isFinite(value) || (this.log && value <= 0)) continue;
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    if (low > high) [low, high] = [this.log ? 0.1 : 0, 1];
    const room = (high - low) * 0.05 || Math.abs(high) * 0.1 || 1;
    return {
      x,
      y: this.log ? [low / 1.1, high * 1.1] : [low >= 0 ? Math.max(0, low - room) : low - room, high + room],
    };
  }

  #drawGrid({ x, y }) {
    const [right, bottom] = [this.width - RIGHT, this.height - BOTTOM];
    const rows = ticks(y, Math.max(2, this.height / 45), this.log ? "log" : "").map(({ value, text }) => {
      const at = this.up(value).toFixed(1);
      return [
        svg("path", { d: `M${LEFT},${at}H${right}` }),
        svg("text", { x: LEFT - 8, y: at, class: "y" }, this.metric.tick?.(value) ?? text),
      ];
    });
    const columns = ticks(x, Math.max(2, this.width / 90), this.axis).map(({ value, text }) => {
      const at = this.across(value);
      return svg("text", { x: at.toFixed(1), y: bottom + 16, class: at > right - 15 ? "x last" : "x" }, text);
    });
    this.grid.replaceChildren(
      ...rows.flat(),
      svg("path", { class: "base", d: `M${LEFT},${bottom}H${right}` }),
      ...columns,
    );
  }

  #drawMarks() {
    const bottom = this.height - BOTTOM;
    const drawn = this.events.filter(({ x }) => this.across(x) >= LEFT && this.across(x) <= this.width - RIGHT);
    this.marks.replaceChildren(
      ...drawn.map(({ x, slot, kind, text }) => {
        const at = this.across(x).toFixed(1);
        const sign = svg("path", { class: "sign", d: `M${at},${bottom - 1}l4,7h-8z` });
        return svg(
          "g",
          { class: `${kind} ${look(slot)}` },
          svg("title", {}, text),
          svg("path", { d: `M${at},${TOP}V${bottom}` }),
          sign,
        );
      }),
    );
  }

  // Reading

  /** Mark the values at x, null: none; write them down if it `tells`. */
  point(x, tells) {
    this.at = x;
    this.tells = tells;
    const shown = x !== null && this.across && this.width;
    this.readout.hidden = !shown || !tells;
    const marked = this.from !== null && shown;
    if (!shown) return this.over.replaceChildren();
    const at = this.across(x);
    const values = this.valuesAt(x);
    this.over.replaceChildren(
      ...(marked ? [this.#selection(this.across(this.from), at)] : []),
      svg("path", { class: "cursor", d: `M${at.toFixed(1)},${TOP}V${this.height - BOTTOM}` }),
      ...values.map(({ x, y, slot }) =>
        svg("circle", { class: look(slot), cx: this.across(x), cy: this.up(y), r: 3.5 }),
      ),
    );
    this.readout.replaceChildren(
      h("strong", {}, placeOf(this.axis, values[0]?.x ?? x)),
      ...values.map(({ name, y, slot }) =>
        h("span", {}, sample(slot), h("span", {}, name), h("b", {}, this.metric.text(y))),
      ),
    );
    const isRight = at > this.width / 2;
    this.readout.style.left = isRight ? "auto" : `${at + 10}px`;
    this.readout.style.right = isRight ? `${this.width - at + 10}px` : "auto";
  }

  #selection(a, b) {
    const height = this.height - TOP - BOTTOM;
    return svg("rect", { class: "selection", x: Math.min(a, b), y: TOP, width: Math.abs(a - b), height });
  }

  /** The point of every series that is nearest to x, if it lies about there. */
  valuesAt(x) {
    const reach = this.across ? Math.abs(this.across.value(LEFT + 24) - this.across.value(LEFT)) : Infinity;
    return this.series.flatMap((each) => {
      const i = nearest(each.x, x);
      const isThere = i >= 0 && each.y[i] !== null && each.x[i] - x <= reach && x - each.x.at(-1) <= reach;
      return isThere ? [{ ...each, x: each.x[i], y: each.y[i] }] : [];
    });
  }

  #pointer(event) {
    const box = this.plot.getBoundingClientRect();
    const inside = Math.min(this.width - RIGHT, Math.max(LEFT, event.clientX - box.left));
    const x = this.across?.value(inside) ?? null;
    if (event.type === "pointerdown" && event.button === 0) {
      this.pressed = inside;
      this.plot.setPointerCapture(event.pointerId);
    } else if (event.type === "pointerup" && this.pressed !== null) {
      const from = this.from;
      this.pressed = null;
      this.from = null;
      if (from !== null) this.#zoom(from, x);
    } else if (event.type === "pointercancel" || (event.type === "pointerleave" && this.pressed === null)) {
      this.pressed = null;
      this.from = null;
      if (event.pointerType !== "touch") this.#tell("point", null); // a finger that is lifted leaves what it has shown
      return;
    }
    if (this.pressed !== null && Math.abs(inside - this.pressed) > DRAGGED) this.from = this.across.value(this.pressed);
    this.#tell("point", x);
  }

  #zoom(a, b) {
    this.from = null;
    if (a !== b) this.#tell("zoom", [Math.min(a, b), Math.max(a, b)]);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.across || event.target !== this.plot) return;
    const [low, high] = [this.across.value(LEFT), this.across.value(this.width - RIGHT)];
    const at = Math.min(high, Math.max(low, this.at ?? (low + high) / 2));
    const moves = { ArrowLeft: -0.01, ArrowRight: 0.01, PageUp: -0.1, PageDown: 0.1, Home: -1, End: 1 };
    if (event.key in moves) {
      if (!event.shiftKey) this.from = null;
      else this.from ??= at;
      this.#tell("point", Math.min(high, Math.max(low, at + moves[event.key] * (high - low))));
      byId("announcer").textContent = [
        placeOf(this.axis, this.valuesAt(this.at)[0]?.x ?? this.at),
        ...this.valuesAt(this.at).map(({ name, y }) => `${name} ${this.metric.text(y)}`),
      ].join(", ");
    } else if (event.key === "Enter" && this.from !== null) this.#zoom(this.from, at);
    else if (event.key === "+") this.#zoom(at - (at - low) / 2, at + (high - at) / 2);
    else if (event.key === "-") this.#zoom(at - (at - low) * 2, at + (high - at) * 2);
    else if (event.key === "0" || (event.key === "Escape" && this.range)) this.#tell("zoom", null);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  showTable(on) {
    this.table = on;
    this.tableButton.setAttribute("aria-pressed", String(on));
    this.plot.hidden = on;
    this.cells.hidden = !on;
    if (on) this.#fillTable();
    else this.#soon();
  }

  #fillTable() {
    this.cells.replaceChildren(asTable(this, this.#ranges().x));
  }
}
