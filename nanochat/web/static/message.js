// One message on the page: a question in its bubble, or an answer with its text, tools, tokens and buttons.

import { DraftCount, markLength } from "./context.js";
import { copyButton, h, icon, iconButton } from "./dom.js";
import { Tokens } from "./inspector.js";
import { Markdown } from "./markdown.js";
import { find, pathTo, textOf, siblings } from "./tree.js";

export class MessageView {
  /** The column and node that it shows; `acts` are the page's edit, regenerate, branch, continue, turn, newChat. */
  constructor(chat, column, node, acts) {
    Object.assign(this, { chat, column, node, acts });
    this.head = h("h2", { class: "visually-hidden" }, node.role === "user" ? "You" : node.model || "Answer");
    this.body = h("div", { class: "body" });
    this.notice = h("div", { class: "notice-place" });
    this.foot = h("div", { class: "foot" });
    this.element = h("article", { class: `message token-place ${node.role}` }, this.head, this.body, this.notice, this.foot);
    this.element.dataset.id = node.id;
    this.sections = [];
    this.update();
  }

  /** Show the node as it is now. */
  update() {
    if (this.node.role === "user") this.#question();
    else this.#answer();
  }

  /** Only the text, while it streams. */
  progress() {
    this.#sections();
    this.#figures();
  }

  #question() {
    if (this.editing) return;
    // A question never changes; drawn once, it keeps what the user has selected in it.
    if (!this.body.querySelector(".bubble"))
      this.body.replaceChildren(h("div", { class: "bubble", dir: "auto" }, textOf(this.node)));
    const buttons = [copyButton("Copy question", () => textOf(this.node))];
    if (!this.chat.isBusy(this.column)) buttons.unshift(iconButton("pencil", "Edit question", () => this.edit()));
    this.#setFoot(...buttons, this.#branches());
  }

  /** Turn the question into a field; back() puts the focus where it belongs when the user changes nothing. */
  edit(back = () => this.foot.querySelector("button").focus()) {
    this.editing = true;
    const field = h("textarea", { "aria-label": "Edit question", rows: "1", dir: "auto" });
    field.value = textOf(this.node);
    const before = pathTo(this.column, find(this.column, this.node.parent));
    const length = new DraftCount(
      (signal) => (this.chat.down ? null : this.chat.count(this.column, before, field.value.trim(), signal)),
      (count) => (sendButton.disabled = markLength(field, tooLong, count ?? { used: 0, limit: 0 })),
    );
    const leave = () => {
      length.stop();
      this.editing = false;
      this.element.classList.remove("editing");
      this.update();
    };
    const send = () => {
      const text = field.value.trim();
      if (!text || sendButton.disabled) return;
      leave();
      this.acts.edit(this.column, this.node, text);
    };
    field.addEventListener("input", () => length.soon());
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      } else if (event.key === "Escape") {
        event.stopPropagation();
        leave();
        back();
      }
    });
    const tooLong = h("p", { class: "too-long", role: "status", hidden: true });
    const sendButton = h("button", { type: "button", class: "button primary", onclick: send }, "Send");
    const buttons = h(
      "div",
      { class: "edit-buttons" },
      h("button", { type: "button", class: "button", onclick: leave }, "Cancel"),
      sendButton,
    );
    this.element.classList.add("editing");
    this.body.replaceChildren(h("div", { class: "editor" }, field, tooLong, buttons));
    this.foot.replaceChildren();
    field.focus();
    field.setSelectionRange(field.value.length, field.value.length);
  }

  #answer() {
    const { node } = this;
    const running = this.chat.replies.has(node.id);
    this.head.textContent = node.model || "Answer";
    this.element.classList.toggle("running", running);
    this.element.setAttribute("aria-busy", String(running));
    this.#sections();
    this.#notice(running);
    const empty = node.parts.length === 0;
    const buttons = [];
    if (!empty) buttons.push(copyButton("Copy answer", () => textOf(node)));
    if (!this.chat.isBusy(this.column)) {
      buttons.push(iconButton("again", "Answer again", () => this.acts.regenerate(this.column, node)));
      const broken =
        ["length", "cancelled", "lost"].includes(node.finish) &&
        !empty &&
        this.column.nodes.every((other) => other.parent !== node.id);
      if (broken)
        buttons.push(
          h(
            "button",
            { type: "button", class: "text-button continue", onclick: () => this.acts.continue(this.column, node) },
            icon("play"),
            "Continue",
          ),
        );
    }
    if (this.chat.inspecting && !empty)
      buttons.push(iconButton("layers", "Inside the model", () => this.#inside()));
    this.figures = h("span", { class: "figures" });
    this.#setFoot(
      ...(running ? [] : buttons),
      this.#branches(),
      this.figures,
    );
    this.#figures();
  }

  async #inside() {
    const { lookInside } = await import("./inside.js");
    lookInside(this.chat.textUpTo(this.column, this.node));
  }

  /** The parts of the answer: runs of text, tokens where the inspector has some, and tool calls with their results. */
  #sections() {
    const wanted = this.#wanted();
    wanted.forEach((section, i) => {
      if (this.sections[i]?.type !== section.type) {
        for (const old of this.sections.splice(i)) old.view.element.remove();
        const view = new VIEWS[section.type]();
        this.sections.push({ type: section.type, view });
        this.body.append(view.element);
      }
      this.sections[i].view.update(section.content);
    });
    for (const old of this.sections.splice(wanted.length)) old.view.element.remove();
    this.element.classList.toggle("waiting", wanted.length === 0 && this.chat.replies.has(this.node.id));
  }

  /** Tokens where the inspector is open; those of a finished answer can be changed for others. */
  #wanted() {
    const { node, chat } = this;
    if (!chat.inspecting) return sectionsOf(node.parts);
    const free = node.scored && !chat.isBusy(this.column);
    const chooser = (part) => (free ? (at, { id }) => this.acts.branch(this.column, node, part, at, id) : null);
    const sections = sectionsOf(node.parts, chooser);
    if (node.end && sections.at(-1)?.type === "tokens") sections.at(-1).content.tokens.push(node.end);
    else if (node.end)
      sections.push({ type: "tokens", content: { tokens: [node.end], choose: chooser(node.parts.length) } });
    return sections;
  }

  #figures() {
    const { usage } = this.node;
    const reply = this.chat.replies.get(this.node.id);
    const tokens = reply ? reply.total : usage?.completion;
    const speed = reply ? reply.speed : usage?.speed;
    const figures = [];
    if (tokens) figures.push(`${tokens} token${tokens === 1 ? "" : "s"}`);
    if (speed) figures.push(`${speed < 10 ? speed.toFixed(1) : Math.round(speed)} tokens/s`);
    if (tokens && !reply && this.chat.models.length > 1 && this.node.model) figures.push(this.chat.nameOf(this.node.model));
    const { scored, model } = this.node;
    if (this.chat.inspecting && scored && model && scored !== model) figures.push(`scored by ${this.chat.nameOf(scored)}`);
    this.figures.textContent = figures.join(" · ");
  }

  #notice(running) {
    clearInterval(this.timer);
    this.notice.replaceChildren();
    const { node } = this;
    if (running) {
      if (this.chat.replies.get(node.id).waits)
        this.#say("hint", "Waiting for the server. The answer resumes as soon as it is back.");
      return;
    }
    const failure = this.chat.inspecting && !node.scored && this.chat.scorer.failure(node);
    if (failure) this.#say("hint", `The tokens of this answer cannot be shown. ${failure}`);
    if (node.view?.cut)
      this.#say("hint", "To make room for more, the model no longer read the beginning of this answer.");
    if (node.finish === "length")
      this.#say("hint", "The answer is cut off: it reached its length limit or the end of the context.");
    if (node.finish === "cancelled" && node.parts.length === 0) this.#say("hint", "Stopped before the first word.");
    if (node.finish === "lost") this.#lost();
  }

  #lost() {
    const { error, parts } = this.node;
    // What has begun has the button "Continue" below it.
    const retry = parts.length ? null : ["Retry", () => this.acts.continue(this.column, this.node)];
    const limit = this.chat.model(this.column)?.context_length;
    switch (error?.code) {
      case "context_length_exceeded":
        return this.#say(
          "error",
          `This question and the system prompt are too long for the model's memory${limit ? ` of ${limit} tokens` : ""}. ` +
            "Edit one of them, or choose another model.",
          retry,
        );
      case "busy":
        return this.#busy(error, retry);
      case "away":
      case "gone":
      case undefined:
        return this.#say(
          "hint",
          parts.length ? "The answer was interrupted." : "The answer was interrupted before its first word.",
          retry,
        );
      default:
        return this.#say("error", error.message, retry);
    }
  }

  #busy(error, retry) {
    const sentence = this.#say("error", "", retry);
    const tick = () => {
      const seconds = Math.ceil((error.retryAt - Date.now()) / 1000);
      const when =
        error.retryAt === null
          ? "Try again in a moment."
          : seconds > 0
            ? `Try again in ${seconds} s.`
            : "You can try again now.";
      sentence.textContent = `The server cannot take this now. ${when}`;
      if (seconds <= 0) clearInterval(this.timer);
    };
    this.timer = setInterval(tick, 1000);
    tick();
  }

  #say(kind, text, button = null) {
    const sentence = h("span", {}, text);
    const act = button && h("button", { type: "button", class: "button", onclick: button[1] }, button[0]);
    this.notice.append(h("p", { class: `notice ${kind}` }, sentence, act));
    return sentence;
  }

  /** ‹ 2/3 › where there are other versions of this message. */
  #branches() {
    const beside = siblings(this.column, this.node);
    if (beside.length < 2) return null;
    const at = beside.indexOf(this.node);
    const what = this.node.role === "user" ? "question" : "answer";
    const turn = (step) => () => this.acts.turn(this.column, this.node, step);
    return h(
      "span",
      { class: "branches", role: "group", "aria-label": `Versions of this ${what}` },
      iconButton("left", `Previous ${what}`, turn(-1), { disabled: at === 0 }),
      h("span", {}, `${at + 1}/${beside.length}`),
      iconButton("right", `Next ${what}`, turn(1), { disabled: at === beside.length - 1 }),
    );
  }

  /** New buttons in place of the old ones, without losing the keyboard's place. */
  #setFoot(...children) {
    const label = this.foot.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
    this.foot.replaceChildren(...children.filter(Boolean));
    if (label)
      [...this.foot.querySelectorAll("button")].find((button) => button.getAttribute("aria-label") === label)?.focus();
  }
}

/** chooser(number of a part), for the inspector, returns what takes another token in it. */
function sectionsOf(parts, chooser = null) {
  const sections = [];
  parts.forEach((part, number) => {
    const before = sections.at(-1);
    const tokens = chooser && part.tokens ? { tokens: [...part.tokens], choose: chooser(number) } : null;
    if (part.type === "python_output" && before?.type === "tool") before.content.output = part.text;
    else if (part.type === "python") sections.push({ type: "tool", content: { code: part.text, output: null, tokens } });
    else if (part.type === "python_output") sections.push({ type: "tool", content: { code: "", output: part.text } });
    else if (tokens) sections.push({ type: "tokens", content: tokens });
    else if (part.text) sections.push({ type: "text", content: part.text });
  });
  return sections;
}

/** An answer's parts as elements that do not change any more. */
export function elementsOf(parts) {
  return sectionsOf(parts, false).map(({ type, content }) => {
    const view = new VIEWS[type]();
    view.update(content);
    return view.element;
  });
}

/** What the model gave to a tool, and what came back. */
class ToolView {
  constructor() {
    this.name = h("span", {});
    this.code = h("pre", { tabindex: "0", role: "group", "aria-label": "Given to the tool" });
    this.output = h("pre", { tabindex: "0", role: "group", "aria-label": "Result" });
    this.element = h(
      "figure",
      { class: "tool" },
      h("figcaption", {}, icon("calculator"), this.name),
      this.code,
      this.output,
    );
  }

  update({ code, output, tokens }) {
    this.name.textContent = code.includes("\n") ? "Python" : "Calculator";
    if (tokens) {
      this.tokens ??= new Tokens("Tokens of the call");
      this.tokens.update(tokens);
      if (this.code.firstChild !== this.tokens.element) this.code.replaceChildren(this.tokens.element);
    } else this.code.textContent = code;
    this.output.hidden = output === null;
    this.output.textContent = output ?? "";
  }
}

const VIEWS = { text: Markdown, tokens: Tokens, tool: ToolView };
