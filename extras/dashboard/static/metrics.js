// What is known about the metrics that runs log; others are shown under the name they have in the log.

import { bytes, compact, count, percent, trimmed } from "./format.js";

const fixed = (digits) => (value) => trimmed(value.toFixed(digits));

/** In the order of the charts. `text` writes a value, `tick` one of an axis; `short` is a column's heading. */
const KNOWN = [
  { key: "loss", title: "Training loss, nats per token", short: "Loss", text: fixed(4) },
  { key: "reward", title: "Mean reward", short: "Reward", text: fixed(4) },
  { key: "val_bpb", title: "Validation, bits per byte", short: "Val bpb", text: fixed(4) },
  { key: "val_loss", title: "Validation loss, nats per token", short: "Val loss", text: fixed(4) },
  { key: "val_perplexity", title: "Validation perplexity", short: "Perplexity", text: (value) => compact(value, 4) },
  { key: "lr", title: "Learning rate", short: "Rate", text: (value) => compact(value, 4) },
  { key: "grad_norm", title: "Gradient norm", short: "Grad norm", text: (value) => compact(value, 4) },
  { key: "tok_per_second", title: "Tokens per second", short: "Tokens/s", text: (value) => compact(value, 4) },
  { key: "mfu", title: "MFU, share of the peak", short: "MFU", text: percent, tick: percent },
  { key: "memory_bytes", title: "Memory of the device", short: "Memory", text: bytes, tick: bytes },
];
const BY_KEY = new Map(KNOWN.map((metric) => [metric.key, metric]));

export const metric = (key) => BY_KEY.get(key) ?? { key, title: key, short: key, text: (value) => compact(value, 4) };

/** These keys in the order of their charts, first those that are drawn unless others are asked for: {usual, others}. */
export function sorted(keys) {
  const usual = KNOWN.filter(({ key }) => keys.has(key)).map(({ key }) => key);
  return { usual, others: [...keys].filter((key) => !BY_KEY.has(key)).sort() };
}

/** The kinds of x axis: how a value is written in the readout. */
export const AXES = {
  step: { label: "Steps", unit: "step", text: count },
  tokens: { label: "Tokens", unit: "tokens", text: (value) => compact(value, 4) },
  time: { label: "Time", unit: "time", text: clockTime },
};

/** Seconds as h:mm:ss. */
export function clockTime(seconds) {
  const whole = Math.round(seconds);
  const two = (value) => String(value).padStart(2, "0");
  return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
}
