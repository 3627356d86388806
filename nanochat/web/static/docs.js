// The page that documents the API: the language of the examples, buttons to copy them, forms to try them.

import { ApiError, onKeyNeeded, request } from "./api.js";
import { askForKey } from "./dialogs.js";
import { byId, copyButton } from "./dom.js";
import { preference, setPreference } from "./preferences.js";
import { Drawer, furnish } from "./shell.js";

const MOST = 100_000; // characters of a reply to show

furnish();
onKeyNeeded(askForKey);
const drawer = new Drawer("close-sidebar");
document.querySelector(".side-list").addEventListener("click", ({ target }) => {
  if (target.closest("a") && drawer.covers) drawer.close();
});

for (const head of document.querySelectorAll(".code-head")) {
  const label = `Copy ${head.textContent}`;
  head.append(copyButton(label, () => head.parentElement.querySelector("pre").textContent));
}

// Language

function show(language) {
  document.body.dataset.language = language;
  for (const input of byId("languages").querySelectorAll("input")) input.checked = input.value === language;
}

show(preference("docs.language", "curl"));
byId("languages").addEventListener("change", ({ target }) => {
  show(target.value);
  setPreference("docs.language", target.value);
});

// Forms

for (const form of document.querySelectorAll(".try form")) {
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    if (form.controller) form.controller.abort();
    else send(form);
  });
}

async function send(form) {
  const { body } = form.elements;
  const button = form.querySelector("button");
  const output = form.querySelector("pre");
  const status = form.querySelector("[role=status]");
  let given = null;
  try {
    given = body ? JSON.parse(body.value) : null;
  } catch (error) {
    status.textContent = `The body is not JSON: ${error.message}`;
    return;
  }
  form.controller = new AbortController();
  button.textContent = "Stop";
  status.textContent = "";
  output.textContent = "";
  output.hidden = false;
  const started = performance.now();
  const took = () => `${((performance.now() - started) / 1000).toFixed(1)} s`;
  try {
    const { method, path } = form.dataset;
    const response = await request(path, { method, body: given, signal: form.controller.signal });
    await fill(output, response);
    status.textContent = `Status ${response.status}, ${took()}`;
  } catch (error) {
    if (error.name === "AbortError") status.textContent = `Stopped after ${took()}`;
    else if (!(error instanceof ApiError)) throw error;
    else if (error.status === null) status.textContent = error.message;
    else {
      status.textContent = `Status ${error.status}, ${took()}`;
      output.textContent = pretty(JSON.stringify({ error: error.details }));
    }
  }
  output.hidden = !output.textContent;
  button.textContent = "Send";
  form.controller = null;
}

/** Shows a response while it comes. */
async function fill(output, response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (let { value, done } = await reader.read(); !done; { value, done } = await reader.read()) {
    text += value;
    output.textContent = text.slice(0, MOST);
  }
  output.textContent = pretty(text).slice(0, MOST);
}

/** JSON with a line for each part; other text as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text; // a stream of events
  }
}
