// Shapes of a chart: SVG elements, and how a series looks.

const COLOURS = 6;
const DASHES = 5;

/** The classes of a series. Six colours and five kinds of dashes: thirty series differ in one at least. */
export const look = (slot) => `colour-${slot % COLOURS} dash-${slot % DASHES}`;

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A short line as a series is drawn. */
export const sample = (slot) =>
  svg(
    "svg",
    { class: "sample", viewBox: "0 0 24 8", "aria-hidden": "true" },
    svg("path", { class: `line ${look(slot)}`, d: "M1,4H23" }),
  );

/** The line through a series. It is broken where a value has no place; a point alone becomes a dot. */
export function line({ x, y, slot }, across, up) {
  let path = "";
  let drawing = false;
  for (let i = 0; i < x.length; i++) {
    const at = y[i] === null ? NaN : up(y[i]);
    if (Number.isFinite(at))
      path += `${drawing ? "L" : "M"}${across(x[i]).toFixed(1)},${at.toFixed(1)}${drawing ? "" : "h0"}`;
    drawing = Number.isFinite(at);
  }
  return svg("path", { class: `line ${look(slot)}`, d: path });
}

/** The area between the least and the largest values of a series; `bottom` is for those that have no place. */
export function band({ x, low, high, slot }, across, up, bottom) {
  const edge = (values) =>
    values.map((value, i) => {
      const at = value === null ? NaN : up(value);
      return `${across(x[i]).toFixed(1)},${(Number.isFinite(at) ? at : bottom).toFixed(1)}`;
    });
  const points = [...edge(high), ...edge(low).reverse()];
  return svg("path", { class: `band ${look(slot)}`, d: points.length ? `M${points.join("L")}Z` : "" });
}
