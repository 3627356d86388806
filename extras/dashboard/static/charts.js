// Charts beside each other, one for each metric, with one range, one cursor and the same series in all.

import { reconcile } from "../../static/dom.js";
import { Chart } from "./chart.js";
import { metric } from "./metrics.js";

/** Tells by "zoom" (detail: [from, to] or null), "log" and "expand" (detail: the key) what users do. */
export class Charts extends EventTarget {
  constructor(element) {
    super();
    this.element = element;
    this.charts = new Map();
  }

  /**
   * keys: the metrics, in order. curves: where they come from. runs: [{id, name, slot}], those that are shown. axis, range,
   * marks: as for Chart.show. log: the keys with a logarithmic scale.
   */
  show({ keys, curves, runs, axis, range, marks, log }) {
    reconcile(
      this.element,
      keys.map((key) => this.#chart(key).element),
    );
    for (const key of keys) {
      const series = runs.flatMap((run) => {
        const curve = curves.series(run.id, key);
        return curve ? [{ ...curve, ...run }] : [];
      });
      const large = keys.length === 1;
      this.#chart(key).show({ series, axis, range, marks, log: log.has(key), large });
    }
  }

  #chart(key) {
    if (!this.charts.has(key)) {
      const chart = new Chart(metric(key));
      chart.addEventListener("point", ({ detail }) => {
        for (const each of this.charts.values()) if (each.element.isConnected) each.point(detail);
      });
      chart.addEventListener("zoom", ({ detail }) => this.#tell("zoom", detail));
      for (const type of ["log", "expand"]) chart.addEventListener(type, () => this.#tell(type, key));
      this.charts.set(key, chart);
    }
    return this.charts.get(key);
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
