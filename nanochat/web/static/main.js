// Puts the page together: what the buttons of the header do, which keys work everywhere, what is read aloud.

import { Address } from "./address.js";
import { onKeyNeeded } from "./api.js";
import { Chat } from "./chat.js";
import { SystemChip } from "./chip.js";
import { Comparison } from "./compare.js";
import { Composer } from "./composer.js";
import { askForKey, note, openMenu, warn } from "./dialogs.js";
import { byId } from "./dom.js";
import { hideToken } from "./inspector.js";
import { ModelSelect } from "./models.js";
import { Panel } from "./panel.js";
import { preference, setPreference, willLast } from "./preferences.js";
import { waysToSave } from "./saving.js";
import { InspectorBar } from "./reading.js";
import { furnish } from "./shell.js";
import { Sidebar } from "./sidebar.js";
import { Transcript } from "./transcript.js";
import { path } from "./tree.js";
import { Welcome } from "./welcome.js";

furnish();

const chat = new Chat();

// What a user can do to messages; each leaves the focus where the next key is likely meant for.
const acts = {
  send(text) {
    chat.send(text);
    transcript.toEnd();
    address.name();
  },
  edit(column, node, text) {
    chat.edit(column, node, text);
    composer.focus();
  },
  /** The last question of the only column, or of the first one. */
  editLast() {
    const question = path(chat.current.columns[0]).findLast(({ role }) => role === "user");
    if (question) transcript.viewOf(question).edit(() => composer.focus());
  },
  regenerate(column, node) {
    chat.regenerate(column, node);
    composer.focus();
  },
  branch(column, node, part, at, id) {
    chat.branch(column, node, part, at, id);
    composer.focus();
  },
  continue(column, node) {
    chat.continue(column, node);
    composer.focus();
  },
  turn(column, node, step) {
    const other = chat.turn(column, node, step);
    const buttons = [...transcript.viewOf(other).element.querySelectorAll(".branches button")];
    (step < 0 ? buttons : buttons.reverse()).find((button) => !button.disabled)?.focus();
  },
  keepOnly(column) {
    note("The other column is closed.", chat.keepOnly(column));
    composer.focus();
  },
  write(at, begins) {
    chat.write(at, begins);
    address.name();
  },
  keepText() {
    chat.keepText();
    address.name();
  },
  stop() {
    chat.stop();
    composer.focus();
  },
  newChat() {
    location.hash = "";
    chat.open(null);
    if (sidebar.covers) sidebar.close();
    composer.focus();
  },
};

const transcript = new Transcript(chat, acts);
new Welcome(chat, acts);
const composer = new Composer(chat, acts);
const address = new Address(chat, composer);
const sidebar = new Sidebar(chat);
const panel = new Panel(chat);
new SystemChip(chat, () => panel.toggle(true));
new Comparison(chat);
new InspectorBar(chat);
const modelSelect = new ModelSelect(chat, "Model");
byId("model").append(modelSelect.element);
onKeyNeeded(askForKey);

// The skip link's target is no conversation, and must not become the address.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  (byId(chat.isNotebook ? "text" : "prompt") ?? byId("prompt")).focus();
});

// Header

byId("new-chat").addEventListener("click", acts.newChat);
byId("header-new").addEventListener("click", acts.newChat);
byId("inspect").addEventListener("click", () => {
  hideToken();
  chat.setInspecting(!chat.inspecting);
});
byId("compare").addEventListener("click", () => {
  if (chat.current.columns.length === 1) chat.split();
  else acts.keepOnly(chat.current.columns[0]);
});
byId("save-chat").addEventListener("click", () => openMenu(byId("save-chat"), waysToSave(chat.current)));
byId("retry").addEventListener("click", () => chat.tryAgain());

function renderHeader() {
  const { columns, title } = chat.current;
  const single = columns.length === 1;
  byId("title").textContent = title || "New chat";
  document.title = title ? `${title} – nanochat` : "nanochat";
  modelSelect.update(columns[0]);
  byId("model").hidden = !single;
  byId("compare").setAttribute("aria-pressed", String(!single));
  byId("compare").disabled = Boolean(chat.current.text);
  byId("inspect").setAttribute("aria-pressed", String(chat.inspecting));
  byId("down-notice").hidden = chat.down === null;
  byId("down-text").textContent = chat.down ?? "";
  const base = columns.map((column) => chat.model(column)).filter((each) => each && !each.chat);
  byId("base-notice").hidden = base.length === 0 || chat.isNotebook;
  byId("base-notice").textContent = base.length
    ? `${base.map(({ id }) => id).join(" and ")}: a base model. It continues your text and does not chat.`
    : "";
}

chat.addEventListener("change", renderHeader);
chat.addEventListener("trouble", (event) => warn(event.detail));
chat.addEventListener("leave", (event) => {
  acts.newChat();
  note(event.detail);
});

// Read aloud when it is complete: a screen reader cannot follow text that changes many times a second.
chat.addEventListener("answered", ({ detail: node }) => {
  const view = transcript.viewOf(node);
  if (view)
    byId("announcer").textContent =
      `${node.model} ${view.element.querySelector(".body").innerText} ${view.notice.innerText}`;
});

// Keys

addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (event.key === "Escape" && !document.querySelector("dialog[open]")) escape();
  else if (command && !event.shiftKey && event.key.toLowerCase() === "k") sidebar.focusSearch();
  else if (command && event.shiftKey && event.key.toLowerCase() === "o") acts.newChat();
  else if (command && event.key === "/") byId("keys-dialog").showModal();
  else return;
  event.preventDefault();
});

/** The topmost thing goes first. */
function escape() {
  if (hideToken()) return;
  if (sidebar.covers) sidebar.close();
  else if (chat.isBusy()) acts.stop();
  else if (panel.isOpen) panel.toggle(false);
  else composer.focus();
}

// What few visits need is loaded when they do.

let notebook = null;

/** Base models write into a notebook. Resolves when it is there. */
function openNotebook() {
  if (chat.isNotebook) notebook ??= import("./notebook.js").then(({ Notebook }) => new Notebook(chat, acts).render());
  return notebook;
}

chat.addEventListener("change", openNotebook);

async function takeTour() {
  (await import("./tour.js")).takeTour(chat, () => composer.focus());
}

/** Show the tour to who has never been here; never where the browser cannot remember that it was shown. */
async function tourOnFirstVisit() {
  const isNew = !preference("tour-seen", false) && chat.conversations.length === 0 && chat.models.length > 0;
  if (!isNew || document.querySelector("dialog[open]")) return;
  setPreference("tour-seen", true);
  if (willLast("tour-seen")) await takeTour();
}

byId("show-keys").addEventListener("click", () => byId("keys-dialog").showModal());
byId("show-tour").addEventListener("click", () => {
  byId("keys-dialog").close();
  takeTour();
});

// What streams or is typed is saved a few times a second; whoever leaves the page must not lose the last moment. A phone
// may end a page in the background without another word.
addEventListener("pagehide", () => chat.store.flush());
document.addEventListener("visibilitychange", () => document.hidden && chat.store.flush());

await chat.start();
address.show();
const question = address.take();
composer.focus();
await Promise.all([chat.connect(), chat.connection.start()]);
await openNotebook();
address.offer(question);
await tourOnFirstVisit();
