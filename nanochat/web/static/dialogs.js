// What lies over the page for a moment: notes with an undo, menus, questions.

import { byId, h, icon, iconButton } from "./dom.js";

const NOTE_MS = 4000;
const ACTION_MS = 8000; // to read, decide and reach the button
const LETTER_MS = 60; // a slow reader's pace, for what is longer than a line

/**
 * A sentence above the composer, read out by screen readers; `undo` is offered as long as it is there. It leaves after
 * `ms`, but not while somebody points at it or has the focus in it.
 */
export function note(sentence, undo = null, ms = Math.max(undo ? ACTION_MS : NOTE_MS, LETTER_MS * sentence.length)) {
  const element = h("div", { class: "note" }, h("span", {}, sentence));
  const leave = () => element.remove();
  if (undo) {
    const act = () => {
      leave();
      undo();
    };
    element.append(h("button", { type: "button", class: "text-button", onclick: act }, "Undo"));
  }
  element.append(iconButton("close", "Dismiss", leave));
  byId("notes").append(element);
  if (ms < Infinity) leaveAfter(element, ms);
}

/** A note about what may get lost: it stays until it is dismissed. */
export const warn = (sentence) => note(sentence, null, Infinity);

function leaveAfter(element, ms) {
  let timer = null;
  const wait = () => {
    clearTimeout(timer);
    if (!element.matches(":hover, :focus-within")) timer = setTimeout(() => element.remove(), ms);
  };
  for (const type of ["mouseenter", "mouseleave", "focusin"]) element.addEventListener(type, wait);
  element.addEventListener("focusout", () => setTimeout(wait)); // by then the focus is elsewhere
  wait();
}

/** A menu below a button: [{label, icon, act}, ...]. Arrow keys move, Escape closes, focus returns to the button. */
export function openMenu(button, items) {
  const close = () => {
    menu.remove();
    button.setAttribute("aria-expanded", "false");
    document.removeEventListener("pointerdown", outside, true);
  };
  const outside = (event) => menu.contains(event.target) || close();
  const choose = (act) => {
    close();
    button.focus();
    act();
  };
  const move = (event) => {
    const entries = [...menu.children];
    const at = entries.indexOf(document.activeElement);
    const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: entries.length - 1 }[event.key];
    if (next !== undefined) entries.at(next % entries.length).focus();
    else if (event.key === "Escape") choose(() => {});
    else if (event.key === "Tab") return close();
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const entries = items.map((item) =>
    h(
      "button",
      { type: "button", role: "menuitem", tabindex: "-1", onclick: () => choose(item.act) },
      icon(item.icon),
      item.label,
    ),
  );
  const menu = h(
    "div",
    { class: "menu", role: "menu", "aria-label": button.getAttribute("aria-label"), onkeydown: move },
    ...entries,
  );
  document.body.append(menu);
  const place = button.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(place.left, innerWidth - menu.offsetWidth - 8))}px`;
  const fitsBelow = place.bottom + menu.offsetHeight + 8 <= innerHeight;
  menu.style.top = `${fitsBelow ? place.bottom + 4 : place.top - menu.offsetHeight - 4}px`;
  button.setAttribute("aria-expanded", "true");
  document.addEventListener("pointerdown", outside, true);
  entries[0].focus();
}

/**
 * A question over the page: a form of `content` that ends with `buttons`, [[value, text], ...], the first of which Enter
 * takes. Resolves to the value of the chosen button; "" when the dialog was closed otherwise.
 */
export function askWith(title, buttons, ...content) {
  const dialog = h(
    "dialog",
    { "aria-labelledby": "dialog-title" },
    h(
      "form",
      { method: "dialog" },
      h("h2", { id: "dialog-title" }, title),
      ...content,
      h(
        "div",
        { class: "dialog-buttons" },
        ...buttons.map(([value, text], i) => h("button", { class: i ? "button" : "button primary", value }, text)),
      ),
    ),
  );
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue);
    });
  });
}

/** Ask for the API key; null when the user would rather not. */
export function askForKey(wasWrong) {
  pending ??= requestKey(wasWrong).finally(() => (pending = null));
  return pending;
}

let pending = null; // several requests may find at once that a key is needed; the user is asked once

async function requestKey(wasWrong) {
  const field = h("input", { type: "password", id: "key", autocomplete: "off", "aria-describedby": "key-error" });
  const answer = await askWith(
    "This server requires an API key",
    [
      ["ok", "Use key"],
      ["cancel", "Cancel"],
    ],
    h("p", {}, "Ask whoever runs the server. The key is kept until you close this tab."),
    h("label", { for: "key" }, "API key"),
    field,
    h(
      "p",
      { id: "key-error", class: "dialog-error", role: "alert" },
      wasWrong ? "The server did not accept this key." : "",
    ),
  );
  return answer === "ok" && field.value ? field.value.trim() : null;
}
