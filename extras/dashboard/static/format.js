// Numbers, amounts and times as people read them.

const STEPS = [
  [1e12, "T"],
  [1e9, "B"],
  [1e6, "M"],
  [1e3, "k"],
];

/** A number in a few digits: 12345 → "12.3k", 0.00021 → "2.1e-4". */
export function compact(value, digits = 3) {
  if (!Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size > 0 && size < 1e-3) return value.toExponential(Math.max(0, digits - 2)).replace(/\.?0+e/, "e");
  const [unit, letter] = STEPS.find(([least]) => size >= least * 0.9995) ?? [1, ""];
  const text = (value / unit).toPrecision(digits);
  return (text.includes("e") ? String(Math.round(value / unit)) : trimmed(text)) + letter;
}

/** A decimal number without zeros at its end. */
export const trimmed = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

/** A whole number: "21,400". */
export const count = (value) => Math.round(value).toLocaleString("en");

export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

export const percent = (value) => `${(100 * value).toFixed(1)} %`;

/** Bytes in powers of 1000, as disks and graphics cards are sold. */
export function bytes(value) {
  for (const [unit, name] of [
    [1e12, "TB"],
    [1e9, "GB"],
    [1e6, "MB"],
    [1e3, "kB"],
  ])
    if (value >= unit) return `${trimmed((value / unit).toPrecision(3))} ${name}`;
  return `${value} B`;
}

/** Seconds: "45 s", "12 min", "3 h 5 min", "2 d 4 h". */
export function duration(seconds) {
  if (seconds < 59.5) return `${trimmed(seconds.toPrecision(2))} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h${minutes % 60 ? ` ${minutes % 60} min` : ""}`;
  const hours = Math.round(minutes / 60);
  return `${Math.floor(hours / 24)} d${hours % 24 ? ` ${hours % 24} h` : ""}`;
}

/** A moment in seconds since 1970. */
export const moment = (time) =>
  new Date(1000 * time).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "short" });

/** How long ago a moment is, roughly. */
export function ago(time) {
  const seconds = Date.now() / 1000 - time;
  const size = [86400, 3600, 60].find((each) => seconds >= each) ?? 60;
  return seconds < 45
    ? "just now"
    : seconds < 30 * 86400
      ? `${duration(size * Math.round(seconds / size))} ago`
      : moment(time);
}
