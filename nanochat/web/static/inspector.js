// The token inspector: an answer as its tokens, each of which shows how likely it was and what else it might have been.

import { byId, h, iconButton } from "./dom.js";

/**
 * The tokens of a part as a row of buttons: one tab stop, arrow keys move. They are spans, because browsers lay out a
 * <button> as a box, which cannot wrap to the next line.
 */
export class Tokens {
  constructor() {
    this.element = h("div", {
      class: "tokens",
      role: "group",
      "aria-label": "Tokens of the answer",
      onkeydown: (event) => this.#move(event),
    });
  }

  update(tokens) {
    const { children } = this.element;
    for (const token of tokens.slice(children.length)) {
      const button = h(
        "span",
        {
          role: "button",
          class: `token sure-${sureness(token.logprob)}`,
          tabindex: children.length ? "-1" : "0",
          "aria-haspopup": "dialog",
          "aria-label": `${visible(token.text)}, ${percent(token.logprob)}`,
        },
        token.text,
      );
      button.addEventListener("click", () => this.#show(button, token));
      this.element.append(button);
    }
  }

  #show(button, token) {
    this.#focus(button);
    showToken(button, token);
  }

  #focus(button) {
    this.element.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    button.setAttribute("tabindex", "0");
    button.focus();
  }

  #move(event) {
    if ((event.key === "Enter" || event.key === " ") && event.target.matches(".token")) {
      event.preventDefault();
      event.target.click();
    }
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const buttons = [...this.element.children];
    const next = buttons[buttons.indexOf(document.activeElement) + step];
    if (!step || !next) return;
    event.preventDefault();
    if (byId("token-card")) next.click();
    else this.#focus(next);
  }
}

/** What the colours mean. */
export function legend() {
  const swatches = [0, 1, 2, 3, 4].map((level) => h("span", { class: `swatch sure-${level}` }));
  return h("span", { class: "legend" }, "unlikely ", ...swatches, " likely");
}

function showToken(button, { text, logprob, top }) {
  hideToken();
  const rank = top.findIndex((other) => other.text === text);
  const candidates = rank < 0 ? [...top, { text, logprob }] : top;
  const sampled = rank < 0 ? candidates.length - 1 : rank;
  const close = () => {
    hideToken();
    button.focus();
  };
  const head = h(
    "div",
    { class: "card-head" },
    h("code", {}, visible(text)),
    h("span", {}, RANKS[rank] ?? "an unlikely choice"),
    iconButton("close", "Close", close),
  );
  const card = h(
    "div",
    { id: "token-card", role: "dialog", "aria-label": `Token ${visible(text)}` },
    head,
    h("p", { class: "figures" }, h("strong", {}, percent(logprob)), ` probability · log ${logprob.toFixed(2)}`),
    h(
      "ol",
      { class: "bars", "aria-label": "Most likely tokens at this place" },
      ...candidates.map((candidate, i) => candidateBar(candidate, i === sampled)),
    ),
  );
  card.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    close();
  });
  button.classList.add("open");
  // Within the message, so that it scrolls with the token and comes next in the tab order.
  button.closest(".message").append(card);
  place(card, button);
  dismiss = (event) => card.contains(event.target) || event.target.closest(".token") || hideToken();
  document.addEventListener("pointerdown", dismiss);
  // The focus stays on the token, for the arrow keys.
  const heard = candidates.map((candidate) => `${visible(candidate.text)} ${percent(candidate.logprob)}`);
  byId("announcer").textContent = `${visible(text)}, ${percent(logprob)}. Candidates: ${heard.join(", ")}`;
}

const RANKS = ["most likely", "second most likely", "third most likely", "fourth most likely", "fifth most likely"];

function candidateBar({ text, logprob }, isSampled) {
  const bar = h("span", { class: "bar" });
  bar.style.width = `${Math.max(1, Math.exp(logprob) * 100)}%`;
  return h(
    "li",
    { class: isSampled ? "it" : null },
    h("code", {}, visible(text)),
    h("span", { class: "track" }, bar),
    h("span", { class: "figure" }, percent(logprob)),
  );
}

let dismiss = null;

/** Close the card, if one is open. Returns whether one was. */
export function hideToken() {
  const card = byId("token-card");
  if (!card) return false;
  document.removeEventListener("pointerdown", dismiss);
  document.querySelector(".token.open")?.classList.remove("open");
  card.remove();
  return true;
}

/** Below the token if there is room, else above; within the message. The stylesheet makes it a sheet on a phone. */
function place(card, button) {
  const token = button.getBoundingClientRect();
  const message = button.closest(".message").getBoundingClientRect();
  const room = button.closest(".scroll").getBoundingClientRect().bottom - token.bottom;
  const top = room < card.offsetHeight + 12 ? token.top - card.offsetHeight - 8 : token.bottom + 8;
  card.style.left = `${Math.max(0, Math.min(token.left - message.left, message.width - card.offsetWidth))}px`;
  card.style.top = `${top - message.top}px`;
}

/** 0 (a surprise) to 4 (as good as certain). */
const sureness = (logprob) => [0.05, 0.25, 0.6, 0.9].filter((limit) => Math.exp(logprob) >= limit).length;

/** White space and control characters as signs, for they are all that some tokens are. */
export function visible(text) {
  const signs = text.replaceAll(" ", "␣").replaceAll("\n", "⏎").replaceAll("\t", "⇥");
  return signs.replace(/\p{C}/gu, (character) => `\\u{${character.codePointAt(0).toString(16)}}`) || "(nothing)";
}

export function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  if (value > 99.95 && value < 100) return "> 99.9 %";
  return value < 0.1 ? "< 0.1 %" : `${value.toFixed(1)} %`;
}
