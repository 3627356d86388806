// Puts a page of the dashboard together: what is around the view, and the view that the page's HTML names.

import { ApiError, onKeyNeeded } from "../../static/api.js";
import { askForKey, askWith, note } from "../../static/dialogs.js";
import { byId, h } from "../../static/dom.js";
import { Drawer, furnish } from "../../static/shell.js";
import { isThere } from "./server.js";

const LOOK_AGAIN_MS = 3000;
const VIEWS = { runs: "Runs", train: "Train", models: "Models" };
const KEYS = [
  [["Ctrl", "K"], "find in the list"],
  [["←", "→"], "in a chart: read the values; with Shift: mark a range"],
  [["Enter"], "zoom into the range"],
  [["+", "−"], "zoom in and out"],
  [["0"], "show everything again"],
  [["Ctrl", "/"], "show this list"],
];

furnish();
onKeyNeeded(askForKey);
const drawer = new Drawer("search");
const name = document.body.dataset.view;
byId("heading").textContent = VIEWS[name];
document.title = `${VIEWS[name]} – nanochat`;

function showKeys() {
  const list = KEYS.flatMap(([keys, text]) => [
    h("dt", {}, ...keys.flatMap((key) => [h("kbd", {}, key), " "])),
    h("dd", {}, text),
  ]);
  askWith("Keyboard shortcuts", [["", "Close"]], h("dl", { class: "keys" }, ...list));
}

byId("show-keys").addEventListener("click", showKeys);
addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && event.key.toLowerCase() === "k" && byId("search")) {
    drawer.show(true);
    byId("search").focus();
  } else if (command && event.key === "/") showKeys();
  else if (event.key === "Escape" && drawer.covers && !document.querySelector("dialog[open]")) drawer.close();
  else return;
  event.preventDefault();
});
// What the server refuses, wherever it was asked; anything else is a mistake of ours, and the console has it.
addEventListener("unhandledrejection", (event) => {
  if (!(event.reason instanceof ApiError)) return;
  event.preventDefault();
  note(event.reason.message);
});

const { View } = await import(`./${name}.js`);
const view = new View({
  side: byId("side"),
  content: byId("content"),
  tools: byId("tools"),
  /** Close the sidebar where it lies over the page, after something was chosen in it. */
  chosen: () => drawer.covers && drawer.close(),
});
while (!(await isThere(() => view.start()))) await new Promise((again) => setTimeout(again, LOOK_AGAIN_MS));
