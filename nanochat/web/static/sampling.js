// What can be set for an answer: the fields of the panel, and how their text becomes the API's values.

/** Empty fields are not sent, so that the server's own values hold. */
export const FIELDS = [
  { name: "temperature", label: "Temperature", min: 0, max: 2, step: 0.05, hint: "0: always the most likely token" },
  { name: "top_p", label: "Top p", min: 0, max: 1, step: 0.01, hint: "from the most likely tokens that sum to p" },
  { name: "top_k", label: "Top k", min: 0, max: 1000, step: 1, hint: "from the k most likely tokens; 0: from all" },
  { name: "min_p", label: "Min p", min: 0, max: 1, step: 0.01, hint: "minimum fraction of the top probability" },
  {
    name: "repetition_penalty",
    label: "Repetition penalty",
    min: 0.1,
    max: 2,
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
  { name: "max_tokens", label: "Maximum length", min: 1, max: 100000, step: 1, hint: "in tokens" },
  { name: "seed", label: "Seed", min: 0, max: 2147483647, step: 1, hint: "the same seed gives the same answer" },
];

/** The request's settings from what the fields hold, {name: text}; `stop` has one sequence per line. */
export function settingsOf(texts) {
  const settings = {};
  for (const { name, min, max } of FIELDS) {
    const value = Number(texts[name]);
    if ((texts[name] ?? "") !== "" && Number.isFinite(value)) settings[name] = Math.min(max, Math.max(min, value));
  }
  const stop = (texts.stop ?? "").split("\n").filter((line) => line !== "");
  if (stop.length) settings.stop = stop.slice(0, 4); // the API takes four
  return settings;
}
