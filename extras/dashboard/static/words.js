// A chart for those who cannot see it, or want the numbers: in words, and as a table.

import { h } from "../../static/dom.js";
import { bisect, nearest } from "./axis.js";
import { AXES } from "./metrics.js";

const ROWS = 40;

/** A place on an axis in words: "Step 1,200". */
export const placeOf = (axis, x) => `${AXES[axis].label.replace(/s$/, "")} ${AXES[axis].text(x)}`;

/** What a chart shows: where each series begins and ends, and between which values it stays. */
export function inWords({ metric: { title, text }, series, axis, log }) {
  const each = series
    .filter(({ x }) => x.length)
    .map(({ name, x, y }) => {
      const real = y.filter((value) => value !== null && Number.isFinite(value));
      if (!real.length) return `${name}: no finite value`;
      const [first, last, least, most] = [real[0], real.at(-1), Math.min(...real), Math.max(...real)].map(text);
      const where = placeOf(axis, x.at(-1)).toLowerCase();
      return `${name}: from ${first} to ${last} at ${where}, between ${least} and ${most}`;
    });
  return `${title}${log ? ", logarithmic scale" : ""}. ${each.join(". ") || "Nothing logged yet"}.`;
}

/** The values of a chart between two places, in evenly spaced rows. A series has none where it has no point nearby. */
export function asTable({ metric, series, axis }, [from, to]) {
  const points = Math.max(0, ...series.map(({ x }) => bisect(x, to) - bisect(x, from) + 1));
  const number = Math.min(ROWS, points);
  const step = (to - from) / Math.max(1, number - 1);
  const row = (_, i) => {
    const at = from + i * step;
    const texts = series.map(({ x, y }) => {
      const value = y[nearest(x, at)];
      const isThere = Number.isFinite(value) && Math.abs(x[nearest(x, at)] - at) <= step;
      return isThere ? metric.text(value) : "–";
    });
    return h("tr", {}, h("th", { scope: "row" }, AXES[axis].text(at)), ...texts.map((text) => h("td", {}, text)));
  };
  const names = [AXES[axis].label, ...series.map(({ name }) => name)];
  const head = h("tr", {}, ...names.map((name) => h("th", { scope: "col" }, name)));
  return h("table", {}, h("thead", {}, head), h("tbody", {}, ...Array.from({ length: number }, row)));
}
