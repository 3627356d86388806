// What can be set for an answer: the fields of the panel, and how their text becomes the API's values.

/** Empty fields are not sent, so that the server's own values hold. The limits are the API's, where it has any. */
export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0: always the most likely token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "from the most likely tokens that sum to p" },
  { name: "top_k", label: "Top k", min: 0, max: Infinity, step: 1, hint: "from the k most likely tokens; 0: from all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "minimum fraction of the top probability" },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 0.1,
    max: 100,
    step: 0.05,
    hint: "above 1: less repetition",
  },
  { name: "presence_penalty", label: "Presence penalty", min: -2, max: 2, step: 0.1, hint: "for tokens that have occurred" },
  {
    name: "frequency_penalty",
    label: "Frequency penalty",
    min: -2,
    max: 2,
    step: 0.1,
    hint: "for each time a token has occurred",
  },
  { name: "max_tokens", label: "Maximum length", min: 1, max: Infinity, step: 1, hint: "in tokens" },
  {
    name: "seed",
    label: "Seed",
    min: 0,
    max: Number.MAX_SAFE_INTEGER,
    step: 1,
    hint: "the same seed gives the same answer",
  },
];

/** Choices of how tokens are drawn: what the four fields that decide it hold; those that are missing are emptied. */
export const PRESETS = [
  { label: "Precise", hint: "always the most likely token", texts: { temperature: "0" } },
  { label: "Balanced", hint: "some variety", texts: { temperature: "0.8", top_k: "50" } },
  { label: "Wild", hint: "surprising, often wrong", texts: { temperature: "1.4", top_k: "0", min_p: "0.02" } },
];

const NEUTRAL = { temperature: 1, top_p: 1, top_k: 0, min_p: 0 };

/** All the texts, {name: text}, with those of a preset. */
export const withPreset = (texts, preset) => ({
  ...texts,
  ...Object.fromEntries(Object.keys(NEUTRAL).map((name) => [name, preset.texts[name] ?? ""])),
});

/** Do these texts draw as the preset does, by a model with these `defaults`, {name: value}? */
export function isPreset(texts, preset, defaults = {}) {
  const values = (given) => {
    const all = { ...NEUTRAL, ...defaults, ...settingsOf(given) };
    // Where the most likely token is always taken, nothing else matters.
    return all.temperature === 0 ? "0" : Object.keys(NEUTRAL).map((name) => all[name]).join();
  };
  return values(texts) === values(preset.texts);
}

/** Why a field's text cannot be sent; null where it can, or is empty. */
export function problemWith({ label, min, max, step }, text) {
  const value = Number(text);
  const isWhole = step === 1;
  if (text.trim() === "") return null;
  if (value >= min && value <= max && (!isWhole || Number.isInteger(value))) return null;
  const limits = max < Infinity ? `from ${min} to ${max}` : `of at least ${min}`;
  return `${label} must be a ${isWhole ? "whole " : ""}number ${limits}. It is not sent.`;
}

const MOST_STOPS = 16; // the API takes no more

const linesOf = (text) => text.split("\n").filter((line) => line !== "");

/** The same for the stop sequences. */
export const problemWithStops = (text) =>
  linesOf(text).length > MOST_STOPS ? `Only the first ${MOST_STOPS} are sent.` : null;

/** The request's settings from what the fields hold, {name: text}; `stop` has one sequence per line. */
export function settingsOf(texts) {
  const settings = {};
  for (const field of FIELDS) {
    const text = texts[field.name] ?? "";
    if (text.trim() !== "" && !problemWith(field, text)) settings[field.name] = Number(text);
  }
  const stop = linesOf(texts.stop ?? "");
  if (stop.length) settings.stop = stop.slice(0, MOST_STOPS);
  return settings;
}
