// Where an axis has its ticks, and how values become pixels.

import { compact, trimmed } from "./format.js";

/** A linear or logarithmic scale from values to pixels, and back. */
export function scale([low, high], [from, to], log = false) {
  const f = log ? Math.log : (value) => value;
  const factor = (to - from) / (f(high) - f(low) || 1);
  const at = (value) => from + (f(value) - f(low)) * factor; // NaN for what a logarithm does not have
  at.value = (pixel) => {
    const inner = f(low) + (pixel - from) / factor;
    return log ? Math.exp(inner) : inner;
  };
  return at;
}

/** About `most` round values within the range, as [{value, text}]. */
export function ticks([low, high], most, kind) {
  if (kind === "log" && high / low > 8) return logTicks(low, high, most);
  const step = kind === "time" ? timeStep((high - low) / most) : roundStep((high - low) / most);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const values = Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => (first + i) * step);
  const write = kind === "time" ? timeText : numberText(step, Math.max(Math.abs(low), Math.abs(high)));
  return values.map((value) => ({ value, text: write(value) }));
}

/** 1, 2 or 5 times a power of ten, at least `least`. */
function roundStep(least) {
  const power = 10 ** Math.floor(Math.log10(least));
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= least * (1 - 1e-9));
}

const TIME_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200];

function timeStep(least) {
  if (least < 1) return roundStep(least);
  return TIME_STEPS.find((step) => step >= least) ?? 86400 * roundStep(Math.max(1, least / 86400));
}

function timeText(seconds) {
  const units = [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ];
  const [size, unit] = units.find(([each]) => seconds >= each) ?? [1, "s"];
  return `${trimmed((seconds / size).toFixed(2))} ${unit}`;
}

/** As many digits as tell neighbours apart. */
function numberText(step, largest) {
  const digits = Math.max(1, Math.floor(Math.log10(largest || 1)) - Math.floor(Math.log10(step) + 1e-9) + 1);
  return (value) => (value === 0 ? "0" : compact(value, Math.min(12, digits)));
}

function logTicks(low, high, most) {
  const values = [];
  const decades = Math.log10(high / low);
  const factors = decades * 3 <= most ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil((decades * factors.length) / most));
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    if (power % every === 0) values.push(...factors.map((factor) => factor * 10 ** power));
  return values
    .filter((value) => value >= low * (1 - 1e-9) && value <= high * (1 + 1e-9))
    .map((value) => ({ value, text: compact(value, 2) }));
}

/** The first position in ascending `values` whose value is at least `value`. */
export function bisect(values, value) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (values[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

/** The position of the nearest value; -1 for an empty list. */
export function nearest(values, value) {
  const at = bisect(values, value);
  if (at === 0) return values.length ? 0 : -1;
  if (at === values.length) return at - 1;
  return value - values[at - 1] <= values[at] - value ? at - 1 : at;
}
