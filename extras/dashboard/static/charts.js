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
   * marks, large: as for Chart.show. log: the keys with a logarithmic scale.
   */
  show({ keys, curves, runs, axis, range, marks, log, large = false }) {
    reconcile(
      this.element,
      keys.map((key) => this.#chart(key).element),
    );
    const shown = keys.map((key) =>
      runs.flatMap((run) => {
        const curve = curves.series(run.id, key);
        return curve ? [{ ...curve, ...run }] : [];
      }),
    );
    const whole = extent(shown.flat());
    keys.forEach((key, i) =>
      this.#chart(key).show({ series: shown[i], axis, whole, range, marks, log: log.has(key), large }),
    );
  }

  #chart(key) {
    if (!this.charts.has(key)) {
      const chart = new Chart(metric(key));
      chart.addEventListener("point", ({ detail }) => {
        for (const each of this.charts.values()) if (each.element.isConnected) each.point(detail, each === chart);
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

/** What x stretches over in all series. */
function extent(series) {
  const filled = series.filter(({ x }) => x.length);
  if (!filled.length) return [0, 1];
  const [from, to] = [Math.min(...filled.map(({ x }) => x[0])), Math.max(...filled.map(({ x }) => x.at(-1)))];
  return from === to ? [from - 0.5, to + 0.5] : [from, to];
}
