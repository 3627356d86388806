// What a model is called and how it is described, in words.

/** As people call it: d3 · SFT, step 1,400. */
export const nameOf = (model) => model.display_name ?? model.id;

/** Its name alone: d3. */
export const labelOf = (model) => nameOf(model).split(" · ")[0];

/** What distinguishes a model, in a line. */
export function describe(model) {
  return `Step ${model.step} · ${sizeOf(model)} · context of ${model.context_length} tokens · ${model.dtype} on ${model.device}`;
}

export function sizeOf({ parameters }) {
  const count = parameters >= 1e6 ? `${(parameters / 1e6).toPrecision(3)} M` : `${Math.round(parameters / 1e3)} k`;
  return `${count} parameters`;
}

/** A sentence on how a model was trained. */
export function madeFrom(model) {
  const stages = model.trained?.stages ?? [];
  const sum = (name) => stages.reduce((total, stage) => total + (stage[name] ?? 0), 0);
  if (stages.length === 0) return "How it was trained is not recorded.";
  const known = [sizeOf(model)];
  if (sum("tokens")) known.push(`trained on ${rounded(sum("tokens"))} tokens`);
  if (sum("seconds")) known.push(`in ${duration(sum("seconds"))}`);
  return `It has ${known.join(", ").replace(", in ", " in ")}.`;
}

export function rounded(count) {
  for (const [size, sign] of [[1e9, " B"], [1e6, " M"], [1e3, " k"]]) // prettier-ignore
    if (count >= size) return `${Number((count / size).toPrecision(3))}${sign}`;
  return String(count);
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}
