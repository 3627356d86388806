// Two models side by side: below their columns, how long both answers are and how fast they came.

import { byId, h } from "./dom.js";
import { path } from "./tree.js";

const FIGURES = [
  ["length", (value) => `${value} token${value === 1 ? "" : "s"}`],
  ["speed", (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} tokens/s`],
];

export class Comparison {
  constructor(chat) {
    this.chat = chat;
    this.rows = h("div", { class: "compared" });
    this.summary = h("p", { class: "field-hint", role: "status" });
    const attributes = { id: "comparison", role: "group", "aria-label": "Comparison of the two answers", hidden: true };
    this.element = h("div", attributes, this.rows, this.summary);
    byId("columns").after(this.element);
    chat.addEventListener("change", () => this.render());
    chat.addEventListener("progress", () => this.#soon());
  }

  #soon() {
    if (this.due || this.element.hidden) return;
    this.due = true;
    requestAnimationFrame(() => {
      this.due = false;
      this.render();
    });
  }

  render() {
    const { columns } = this.chat.current;
    const answers = columns.map((column) => this.#answer(path(column).at(-1)));
    const shown = columns.length > 1 && answers.every((answer) => answer?.length);
    this.element.hidden = !shown;
    if (!shown) return;
    this.rows.replaceChildren(...answers.map((answer, i) => row(answer, answers[1 - i])));
    const complete = answers.every((answer) => answer.isComplete);
    this.summary.textContent = complete ? summary(...answers) : "";
  }

  /** {name, length, speed, seed, isComplete} of an answer; null for a question. */
  #answer(node) {
    if (node?.role !== "assistant") return null;
    const reply = this.chat.replies.get(node.id);
    return {
      name: this.chat.nameOf(node.model),
      length: reply ? reply.total : (node.usage?.completion ?? 0),
      speed: reply ? reply.speed : (node.usage?.speed ?? null),
      seed: node.seed ?? null,
      isComplete: !reply,
    };
  }
}

function row(answer, other) {
  const cells = FIGURES.map(([name, written]) => {
    const value = answer[name];
    const bar = h("span", { class: "bar" });
    bar.style.width = `${value ? (value / Math.max(value, other[name] ?? 0)) * 100 : 0}%`;
    const track = h("span", { class: "track", "aria-hidden": "true" }, bar);
    return h("span", { class: "cell" }, track, h("span", { class: "figure" }, value ? written(value) : "–"));
  });
  return h("div", { class: "answer" }, h("strong", {}, answer.name), ...cells);
}

/** In words: which is faster, which is longer, and whether both drew with one seed. */
function summary(a, b) {
  const [left, right] = a.name === b.name ? ["left", "right"] : [a.name, b.name];
  const compared = (name, label) => {
    if (!a[name] || !b[name]) return null;
    const times = a[name] / b[name];
    const [winner, ratio] = times >= 1 ? [left, times] : [right, 1 / times];
    return ratio < 1.05 ? null : `${label}: ${winner}, ${ratio.toFixed(1)} times`;
  };
  const seed = a.seed !== null && a.seed === b.seed ? `Seed of both: ${a.seed}` : null;
  return [compared("speed", "Faster"), compared("length", "Longer"), seed].filter(Boolean).join(" · ");
}
