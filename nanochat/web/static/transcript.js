// The middle of the page: one column of messages, or two side by side.

import { byId, h, reconcile } from "./dom.js";
import { MessageView } from "./message.js";
import { ModelSelect } from "./models.js";
import { Reading } from "./reading.js";
import { path } from "./tree.js";

const NEAR_PX = 80; // so close to the end, the page follows the answer

export class Transcript {
  constructor(chat, acts) {
    this.chat = chat;
    this.acts = acts;
    this.place = byId("columns");
    this.views = new Map(); // node id → MessageView
    this.columns = [0, 1].map((number) => new ColumnView(chat, number, acts, (view) => this.#together(view)));
    this.downButton = byId("down");
    this.downButton.addEventListener("click", () => this.toEnd());
    chat.addEventListener("change", () => this.render());
    chat.addEventListener("progress", (event) => this.#progress(event.detail));
  }

  render() {
    const { chat } = this;
    if (chat.isNotebook) {
      document.body.classList.remove("split");
      document.body.classList.toggle("empty", !chat.current.text);
      return;
    }
    const { columns } = chat.current;
    const empty = columns.every((column) => column.nodes.length === 0);
    document.body.classList.toggle("empty", empty);
    document.body.classList.toggle("split", columns.length > 1);
    byId("welcome").hidden = !empty;
    if (this.shown !== chat.current.id) {
      this.shown = chat.current.id;
      this.views.clear();
      for (const view of this.columns) view.follows = true;
    }
    const shown = this.columns.slice(0, columns.length);
    reconcile(
      this.place,
      shown.map((view) => view.element),
    );
    shown.forEach((view, number) => {
      const nodes = path(columns[number]);
      const first = chat.seenFrom(columns[number]);
      view.update(
        columns[number],
        nodes.flatMap((node) => [node === first && view.horizon, this.#view(columns[number], node).element]),
      );
    });
    this.#scrolled();
  }

  #view(column, node) {
    let view = this.views.get(node.id);
    if (view?.node === node && view.column === column) view.update();
    else this.views.set(node.id, (view = new MessageView(this.chat, column, node, this.acts)));
    return view;
  }

  viewOf(node) {
    return this.views.get(node.id);
  }

  // Many tokens may come within one frame; the text is drawn once.
  #progress(node) {
    const view = this.views.get(node.id);
    if (!view || view.due || !view.element.isConnected) return;
    view.due = true;
    requestAnimationFrame(() => {
      view.due = false;
      view.progress();
    });
  }

  toEnd() {
    for (const view of this.columns) view.toEnd();
  }

  /** Two columns scroll as one: they show the same turn. */
  #together(view) {
    const other = this.columns.find((each) => each !== view && each.element.isConnected);
    if (other && !view.isCarried) other.carry(alongside(view, other));
    this.#scrolled();
  }

  #scrolled() {
    this.downButton.hidden = this.columns.every((view) => view.follows || !view.element.isConnected);
  }
}

/** Where one column has to be scrolled to, to show the turn that another shows. */
function alongside(view, other) {
  const [mine, theirs] = [view.turns, other.turns];
  const [end, otherEnd] = [view.end, other.end];
  const marks = [[0, 0]];
  for (let i = 1; i < Math.min(mine.length, theirs.length); i++)
    if (mine[i] < end && theirs[i] < otherEnd) marks.push([mine[i], theirs[i]]);
  marks.push([end, otherEnd]);
  const next = Math.max(1, marks.findIndex(([top]) => top >= view.top));
  const [[from, otherFrom], [to, otherTo]] = [marks[next - 1], marks[next]];
  return otherFrom + (to > from ? (view.top - from) / (to - from) : 0) * (otherTo - otherFrom);
}

/** The messages with one model, below a head with its name where there are two columns. */
class ColumnView {
  /** onScroll(view) is called when `follows`, whether the end is in sight and to be kept there, may have changed. */
  constructor(chat, number, acts, onScroll) {
    this.chat = chat;
    this.number = number;
    this.follows = true;
    this.top = 0; // where it was last scrolled to
    this.select = new ModelSelect(chat, `Model of column ${number + 1}`);
    const keep = h(
      "button",
      {
        type: "button",
        class: "text-button quiet",
        title: "Continue with this model only",
        onclick: () => acts.keepOnly(this.column),
      },
      "Keep only this",
    );
    this.head = h("div", { class: "column-head" }, this.select.element, keep);
    this.messages = h("div", { class: "messages" });
    this.horizon = h("p", { class: "horizon" }, h("span", {}, "The model no longer sees what is above"));
    this.reading = new Reading(chat);
    this.scroll = h("div", { class: "scroll" }, this.messages, this.reading.element);
    this.element = h("section", { class: "column" }, this.head, this.scroll);
    this.scroll.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.scroll;
      const atEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
      // Only the user scrolls up; that the end is out of sight may be because the answer has grown in the meantime.
      this.follows = atEnd || (this.follows && scrollTop >= this.top);
      this.top = scrollTop;
      // The event of a scroll that was for the sake of the other column.
      this.isCarried = this.carried === scrollTop;
      this.carried = null;
      onScroll(this);
    });
    const resized = new ResizeObserver(() => this.follows && this.toEnd());
    for (const element of [this.messages, this.scroll]) resized.observe(element);
  }

  update(column, messages) {
    this.column = column;
    const several = this.chat.current.columns.length > 1;
    this.element.setAttribute("aria-label", several ? `Column ${this.number + 1}` : "Conversation");
    this.head.hidden = !several;
    this.select.update(column);
    reconcile(this.messages, messages.filter(Boolean));
    const isRead = this.chat.inspecting && this.chat.reading;
    this.messages.hidden = isRead;
    this.reading.element.hidden = !isRead;
    if (isRead) this.reading.update(column);
  }

  /** How far down each question is, and the furthest that one can scroll. */
  get turns() {
    return [...this.messages.querySelectorAll(".message.user")].map((message) => message.offsetTop);
  }

  get end() {
    return this.scroll.scrollHeight - this.scroll.clientHeight;
  }

  /** Scroll because the other column was scrolled. */
  carry(top) {
    if (Math.abs(this.scroll.scrollTop - top) < 1) return;
    this.scroll.scrollTop = top;
    this.carried = this.scroll.scrollTop;
  }

  toEnd() {
    this.follows = true;
    this.scroll.scrollTop = this.scroll.scrollHeight;
  }
}
