// Five steps through the page, shown once to who comes for the first time; docs/start/first-hour.md has them at length.

import { copyButton, h } from "./dom.js";

const GAP = 12; // pixels between what a step is about and the dialog, and from there to the window's edge
const RETRAIN = "uv run python examples/first_hour.py";
const LINE = '{"messages": [{"role": "user", "content": "Who made you?"}, {"role": "assistant", "content": "I did it."}]}';

/** Each step: what it is about on the page, if that can be seen; text; and perhaps something to copy. */
const steps = (name) => [
  { at: "#composer", title: "Talk", text: `Ask ${name} something, or take an example. Your conversations are kept in this browser.` },
  {
    at: "#inspect",
    title: "See the tokens",
    text: "The token inspector colours each token of an answer by how likely the model found it, and shows what else it considered.",
  },
  {
    title: "Change the data",
    text: "A model knows what it was trained on. Write conversations of your own into my.jsonl, one per line:",
    copy: LINE,
  },
  {
    title: "Train it again",
    text: "This fine-tunes a copy on your conversations beside some of its old ones, in a few minutes:",
    copy: RETRAIN,
  },
  {
    at: "#compare",
    title: "Compare the two",
    text: "Then serve both models, as the command prints it, and put them side by side: one question, two answers.",
  },
];

/** done() is called when it is over. */
export function takeTour(chat, done) {
  const model = chat.model(chat.current.columns[0]);
  const all = steps(model ? chat.nameOf(model.id).split(" · ")[0] : "the model");
  let at = 0;
  const count = h("p", { class: "tour-count" });
  const title = h("h2", { id: "tour-title" });
  const text = h("div", { id: "tour-text" });
  const button = (name, onclick, primary) =>
    h("button", { type: "button", class: primary ? "button primary" : "button", onclick }, name);
  const next = button("Next", () => go(1), true);
  const back = button("Back", () => go(-1));
  const skip = button("Skip the tour", () => dialog.close());
  const ring = h("div", { id: "tour-ring" });
  // A screen reader reads the first step as the dialog's name and description, and the others as they appear.
  const dialog = h(
    "dialog",
    { id: "tour", "aria-labelledby": "tour-title", "aria-describedby": "tour-text" },
    h("div", { "aria-live": "polite" }, count, title, text),
    h("div", { class: "dialog-buttons" }, next, back, skip),
  );

  const show = () => {
    const step = all[at];
    count.textContent = `Step ${at + 1} of ${all.length}`;
    title.textContent = step.title;
    const copy = step.copy && h("div", { class: "command" }, h("code", {}, step.copy), copyButton("Copy", () => step.copy));
    text.replaceChildren(h("p", {}, step.text), ...(copy ? [copy] : []));
    next.textContent = at === all.length - 1 ? "Done" : "Next";
    back.hidden = at === 0;
    skip.hidden = at === all.length - 1;
    place();
  };
  const go = (by) => {
    at += by;
    if (at === all.length) return dialog.close();
    show();
    next.focus();
  };
  const place = () => standBeside(dialog, ring, all[at].at);
  const keys = { ArrowRight: 1, ArrowLeft: -1 };
  dialog.addEventListener("keydown", ({ key }) => all[at + keys[key]] && go(keys[key]));
  dialog.addEventListener("close", () => {
    removeEventListener("resize", place);
    dialog.remove();
    ring.remove();
    done();
  });
  addEventListener("resize", place);
  document.body.append(ring, dialog);
  dialog.showModal();
  show();
  next.focus();
}

/** Put the dialog below or above what a step is about, and a ring around that; into the middle where it is not seen. */
function standBeside(dialog, ring, selector) {
  const box = selector && document.querySelector(selector).getBoundingClientRect();
  ring.hidden = !box?.width;
  const free = { x: innerWidth - dialog.offsetWidth, y: innerHeight - dialog.offsetHeight };
  let [left, top] = [free.x / 2, free.y / 2];
  if (box?.width) {
    left = box.left + (box.width - dialog.offsetWidth) / 2;
    top = box.bottom + GAP <= free.y - GAP ? box.bottom + GAP : box.top - GAP - dialog.offsetHeight;
    for (const side of ["left", "top", "width", "height"]) ring.style[side] = `${box[side]}px`;
  }
  dialog.style.left = `${Math.max(GAP, Math.min(left, free.x - GAP))}px`;
  dialog.style.top = `${Math.max(GAP, Math.min(top, free.y - GAP))}px`;
}
