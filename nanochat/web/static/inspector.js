// The token inspector: a text as its tokens, each of which shows how likely it was and what else it might have been.

import { byId, h, iconButton } from "./dom.js";

/**
 * Tokens as a row of buttons: one tab stop, arrow keys move. They are spans, because browsers lay out a <button> as a
 * box, which cannot wrap to the next line.
 */
export class Tokens {
  #shown = []; // what the elements stand for
  #choose = null;

  constructor(label = "Tokens of the answer") {
    this.element = h("div", {
      class: "tokens",
      role: "group",
      "aria-label": label,
      onkeydown: (event) => this.#move(event),
    });
  }

  /** Show these tokens; choose(index, candidate), if given, takes another one in the place of a token. */
  update({ tokens, choose = null }) {
    this.#choose = choose;
    if (!this.#shown.every((token, i) => token === tokens[i])) {
      this.element.replaceChildren();
      this.#shown = [];
    }
    for (const token of tokens.slice(this.#shown.length)) {
      this.element.append(this.#button(token, this.#shown.length));
      this.#shown.push(token);
    }
  }

  #button(token, index) {
    const likely = token.logprob === null ? "" : `, ${percent(token.logprob)}`;
    const classes = ["token", token.logprob === null ? "" : `sure-${sureness(token.logprob)}`];
    if (token.special) classes.push("special", TURN.test(token.text) ? "turn" : "");
    const button = h(
      "span",
      {
        role: "button",
        class: classes.filter(Boolean).join(" "),
        tabindex: index ? "-1" : "0",
        "aria-haspopup": "dialog",
        "aria-label": `${nameOf(token)}${likely}`,
      },
      token.special ? nameOf(token) : token.text,
    );
    button.addEventListener("click", () => {
      this.#focus(button);
      showToken(button, token, this.#choose && ((candidate) => this.#choose(index, candidate)));
    });
    return button;
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
    if (event.key === "ArrowDown" && byId("token-card")?.querySelector(".bars button")) {
      event.preventDefault();
      byId("token-card").querySelector(".bars button").focus();
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

const TURN = /(system|user|assistant)_start/; // in the names of special tokens: a turn begins here, on a line of its own

/** What the colours mean. */
export function legend() {
  const swatches = [0, 1, 2, 3, 4].map((level) => h("span", { class: `swatch sure-${level}` }));
  return h("span", { class: "legend" }, "unlikely ", ...swatches, " likely");
}

/** choose(candidate), if given, is called with the token that the user wants in this one's place. */
function showToken(button, token, choose) {
  hideToken();
  const { top, logprob } = token;
  const rank = top.findIndex(({ id, text }) => id === token.id && text === token.text);
  const candidates = rank < 0 && logprob !== null ? [...top, token] : top;
  const sampled = rank < 0 ? candidates.length - 1 : rank;
  const close = () => {
    hideToken();
    button.focus();
  };
  const name = nameOf(token);
  const place = logprob === null ? "the model has read nothing before it" : (RANKS[rank] ?? "an unlikely choice");
  const card = h(
    "div",
    { id: "token-card", role: "dialog", "aria-label": `Token ${name}` },
    h("div", { class: "card-head" }, h("code", {}, name), h("span", {}, place), iconButton("close", "Close", close)),
    logprob !== null &&
      h("p", { class: "figures" }, h("strong", {}, percent(logprob)), ` probability · log ${logprob.toFixed(2)}`),
    h(
      "ol",
      { class: "bars", "aria-label": "Most likely tokens at this place" },
      ...candidates.map((candidate, i) => candidateBar(candidate, i === sampled, choose)),
    ),
    choose && h("p", { class: "field-hint" }, "Choose another token to see how the text would have continued."),
  );
  card.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    else if (!stepped(card, event)) return;
    event.stopPropagation();
    event.preventDefault();
  });
  button.classList.add("open");
  // Within the place of the tokens, so that it scrolls with them and comes next in the tab order.
  button.closest(".token-place").append(card);
  put(card, button);
  dismiss = (event) => card.contains(event.target) || event.target.closest(".token") || hideToken();
  document.addEventListener("pointerdown", dismiss);
  // The focus stays on the token, for the arrow keys.
  const heard = candidates.map((candidate) => `${nameOf(candidate)} ${percent(candidate.logprob)}`);
  byId("announcer").textContent = `${name}, ${place}. Candidates: ${heard.join(", ")}`;
}

const RANKS = ["most likely", "second most likely", "third most likely", "fourth most likely", "fifth most likely"];

/** Moves among the candidates of a card by arrow keys. Returns whether it did. */
function stepped(card, event) {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  const buttons = [...card.querySelectorAll(".bars button")];
  buttons[buttons.indexOf(document.activeElement) + step]?.focus();
  return Boolean(step);
}

function candidateBar(candidate, isSampled, choose) {
  const bar = h("span", { class: "bar" });
  bar.style.width = `${Math.max(1, Math.exp(candidate.logprob) * 100)}%`;
  const name = nameOf(candidate);
  const cells = [
    h("code", { class: candidate.special ? "special" : null }, name),
    h("span", { class: "track" }, bar),
    h("span", { class: "figure" }, percent(candidate.logprob)),
  ];
  const take = () => {
    hideToken();
    choose(candidate);
  };
  const label = `Continue with ${name}, ${percent(candidate.logprob)}`;
  const offered = choose && !isSampled;
  return h(
    "li",
    { class: isSampled ? "it" : null },
    ...(offered ? [h("button", { type: "button", "aria-label": label, title: label, onclick: take }, ...cells)] : cells),
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

/** Below the token if there is room, else above; within its surroundings. The stylesheet makes it a sheet on a phone. */
function put(card, button) {
  const token = button.getBoundingClientRect();
  const around = button.closest(".token-place").getBoundingClientRect();
  const room = button.closest(".scroll").getBoundingClientRect().bottom - token.bottom;
  const top = room < card.offsetHeight + 12 ? token.top - card.offsetHeight - 8 : token.bottom + 8;
  card.style.left = `${Math.max(0, Math.min(token.left - around.left, around.width - card.offsetWidth))}px`;
  card.style.top = `${top - around.top}px`;
}

/** 0 (a surprise) to 4 (as good as certain). */
const sureness = (logprob) => [0.05, 0.25, 0.6, 0.9].filter((limit) => Math.exp(logprob) >= limit).length;

/** A special token's name without its brackets, any other's text made visible. */
const nameOf = ({ text, special }) => (special ? text.replace(/^<\|(.+)\|>$/, "$1") : visible(text));

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
