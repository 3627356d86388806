// The empty page: what this model is and what to ask it. After an example's answer, the question that follows it.

import { byId, h } from "./dom.js";
import { path } from "./tree.js";
import { labelOf, madeFrom } from "./words.js";

const SHOWN = 6;
// For models of which no evaluation is recorded: what anyone may ask, whatever the model knows.
const UNKNOWN = { chat: ["Who are you?", "What can you do?", "Tell me a story."], text: ["Once upon a time", "In the morning"] };

export class Welcome {
  constructor(chat, acts) {
    this.chat = chat;
    this.acts = acts;
    this.shown = null; // the model that the empty page is about
    this.next = null; // {id of the conversation, rest of an example's questions, asked so far}
    chat.addEventListener("change", () => this.render());
  }

  render() {
    const model = this.chat.model(this.chat.current.columns[0]);
    if (model !== this.shown) this.#introduce(model);
    this.shown = model;
    this.#offerNext();
  }

  #introduce(model) {
    byId("greeting").textContent = model ? `${model.chat ? "Talk to" : "Write with"} ${labelOf(model)}` : "";
    byId("about-model").textContent = model ? [model.about, madeFrom(model)].filter(Boolean).join(" ") : "";
    const examples = model ? examplesOf(model) : [];
    const chips = examples.map((example) => this.#chip(model, example));
    for (const chip of chips.slice(SHOWN)) chip.hidden = true;
    const more = h("button", { type: "button", class: "text-button", onclick: () => reveal() }, "More examples");
    const reveal = () => {
      for (const chip of chips) chip.hidden = false;
      more.remove();
      chips[SHOWN].focus();
    };
    byId("examples").replaceChildren(...chips, ...(chips.length > SHOWN ? [more] : []));
  }

  #chip(model, { task, questions }) {
    const correct = model.trained?.scores?.tasks?.[task]?.correct;
    const percent = correct === undefined ? "" : ` · ${Math.round(100 * correct)} % right`;
    const kind = task && h("span", { class: "example-task" }, `${task.replaceAll("_", " ")}${percent}`);
    return h("button", { type: "button", class: "example", onclick: () => this.#ask(questions) }, kind, questions[0]);
  }

  #ask([first, ...rest]) {
    this.acts.send(first);
    this.next = { id: this.chat.current.id, rest, asked: 1 };
  }

  /** The next question of an example, as long as nothing else was asked and the last answer is complete. */
  #offerNext() {
    const { chat, next } = this;
    const nodes = path(chat.current.columns[0]);
    const last = nodes.at(-1);
    const asked = nodes.filter((node) => node.role === "user").length;
    const follows = next?.rest.length && next.id === chat.current.id && next.asked === asked;
    const question = follows && !chat.isBusy() && last.role === "assistant" && last.finish === "stop" ? next.rest[0] : "";
    const place = byId("next-question");
    if (place.textContent === question) return;
    const ask = () => {
      this.next = { ...next, rest: next.rest.slice(1), asked: asked + 1 };
      this.acts.send(question);
    };
    place.replaceChildren(...(question ? [h("button", { type: "button", class: "example", onclick: ask }, question)] : []));
  }
}

/** What to ask a model, {task, questions}; its record's examples, where it has some. */
export function examplesOf(model) {
  if (model.examples?.length) return model.examples;
  return UNKNOWN[model.chat ? "chat" : "text"].map((question) => ({ task: null, questions: [question] }));
}
