// The curves of some runs: fetched in a size that fits a chart, then followed as the runs write them.

import { ApiError } from "../../static/api.js";
import { follow, getCurves } from "./server.js";

const POINTS = 600; // of a curve as the server sends it
const MANY = 2 * POINTS; // a curve that has grown to so many is fetched anew
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 15000;

const pause = (ms, signal) =>
  new Promise((resolve) => {
    setTimeout(resolve, ms);
    signal.addEventListener("abort", resolve);
  });

/** Tells by "change" that there are new points, by "run" (detail: the run) that its state is new, by "reset" (its id). */
export class Curves extends EventTarget {
  constructor() {
    super();
    this.all = new Map(); // name → series
    this.part = new Map(); // the same in more detail, while a range is shown
    this.wanted = null;
    this.stop = new AbortController();
    document.addEventListener("visibilitychange", () => (document.hidden ? this.stop.abort() : this.#start()));
  }

  /** Follow these runs and keys, {run: [ids], key: [...], x}, from now on in place of others. */
  want(values) {
    if (JSON.stringify(values) === JSON.stringify(this.wanted)) return;
    if (values.x !== this.wanted?.x) {
      this.range = null;
      this.all.clear();
    }
    this.part.clear();
    this.wanted = values;
    this.#start();
  }

  /** Fetch a range of x, [from, to], in detail; null: show everything. */
  async zoom(range) {
    this.range = range;
    this.part.clear();
    if (range) await this.#fetchPart(this.stop.signal);
  }

  /** The curve of a run, {x, y, low, high}, or null before there is one. */
  series(run, key) {
    return this.part.get(`${key} ${run}`) ?? this.all.get(`${key} ${run}`) ?? null;
  }

  #start() {
    this.stop.abort();
    this.stop = new AbortController();
    if (this.wanted?.run.length && this.wanted.key.length && !document.hidden) this.#live(this.stop.signal);
  }

  /** Follow until something else is wanted, and again after the connection broke. */
  async #live(signal) {
    for (let wait = FIRST_WAIT_MS; !signal.aborted; wait = Math.min(2 * wait, LONGEST_WAIT_MS)) {
      try {
        // First the events, so that nothing is lost between them and the curves.
        const events = await follow(this.wanted, signal);
        await this.#fetch(this.wanted.run, signal);
        wait = FIRST_WAIT_MS;
        for await (const event of events) await this.#take(event, signal);
      } catch (error) {
        if (signal.aborted) return;
        if (!(error instanceof ApiError)) throw error;
        this.#tell("trouble", error);
      }
      await pause(wait, signal);
    }
  }

  async #fetch(run, signal) {
    const series = await getCurves({ ...this.wanted, run, points: POINTS }, signal);
    for (const name of [...this.all.keys()]) if (run.some((id) => name.endsWith(` ${id}`))) this.all.delete(name);
    for (const each of series) this.all.set(`${each.key} ${each.run}`, { ...each, width: widthOf(each) });
    if (this.range) await this.#fetchPart(signal);
    this.#tell("change");
  }

  async #fetchPart(signal) {
    const [from, to] = this.range;
    const series = await getCurves({ ...this.wanted, from, to, points: POINTS }, signal);
    if (this.range?.[0] !== from || this.range[1] !== to) return; // another range was chosen meanwhile
    for (const each of series) this.part.set(`${each.key} ${each.run}`, each);
    this.#tell("change");
  }

  async #take({ type, data }, signal) {
    if (type === "run") this.#tell("run", data);
    else if (type === "reset") {
      this.#tell("reset", data.run);
      await this.#fetch([data.run], signal);
    } else if (type === "points") {
      const name = `${data.key} ${data.run}`;
      if (!this.all.has(name))
        this.all.set(name, { run: data.run, key: data.key, x: [], y: [], low: [], high: [], width: 0 });
      const series = this.all.get(name);
      append(series, data);
      if (series.x.length > MANY) await this.#fetch([data.run], signal);
      else this.#tell("change");
    }
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** How much of x a point of a series stands for, where the server has made means of many; 0 where it has not. */
const widthOf = ({ x }) => (x.length > POINTS / 2 ? (x.at(-1) - x[0]) / (x.length - 1) : 0);

/**
 * Add points to a series; those it has already are left out. Where its points are means, so are the new ones, or the
 * end of the curve would be rougher than the rest.
 */
function append(series, { x, y }) {
  for (let i = 0; i < x.length; i++) {
    const last = series.x.length - 1;
    if (last >= 0 && x[i] <= series.x[last]) continue;
    const { group } = series;
    if (group && x[i] - group.from < series.width && y[i] !== null) {
      group.n++;
      series.x[last] = x[i];
      series.y[last] += (y[i] - series.y[last]) / group.n;
      series.low[last] = Math.min(series.low[last], y[i]);
      series.high[last] = Math.max(series.high[last], y[i]);
    } else {
      series.x.push(x[i]);
      for (const values of [series.y, series.low, series.high]) values.push(y[i]);
      series.group = y[i] === null ? null : { from: x[i], n: 1 };
    }
  }
}
