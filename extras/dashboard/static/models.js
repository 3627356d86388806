// The page of models: what was trained, how good it is, what came from what, and what can be done with it.

import { ApiError, sentence } from "../../static/api.js";
import { askWith, note, openMenu } from "../../static/dialogs.js";
import { byId, h, icon, iconButton } from "../../static/dom.js";
import { address, addressOf, pageOf } from "./address.js";
import { ago, bytes, compact, count, moment, percent, plural } from "./format.js";
import { command } from "./jobs.js";
import { deleteModel, exportModel, getModels, getState, keepAsking } from "./server.js";

const REFRESH_SECONDS = 15;
const STAGES = [
  ["base", "Base models"],
  ["mid", "After mid-training"],
  ["sft", "Fine-tuned"],
  ["dpo", "After preferences"],
  ["rl", "After reinforcement learning"],
  ["train", "Trained as nanoGPT does"],
];
const OTHERS = "Others";
const COLUMNS = 8; // of scores; more are in the title of a row

export class View {
  constructor({ side, content, chosen }) {
    this.chosen = chosen;
    this.search = h("input", {
      type: "search",
      id: "search",
      "aria-label": "Find models",
      placeholder: "Find models",
      autocomplete: "off",
      title: "By name (Ctrl+K)",
      oninput: () => this.#render(),
    });
    this.found = h("p", { class: "found", role: "status" });
    this.filters = h("ul", {});
    side.replaceChildren(
      h("div", { class: "search" }, icon("search"), this.search),
      this.found,
      h("nav", { class: "side-list", "aria-label": "Stages" }, this.filters),
    );
    this.sheet = h("div", { class: "sheet" });
    content.replaceChildren(this.sheet);
  }

  async start() {
    this.state = await getState();
    addEventListener("hashchange", () => this.#render());
    this.again = keepAsking(async () => {
      const models = await getModels();
      if (JSON.stringify(models) === JSON.stringify(this.models)) return;
      this.models = models;
      this.#render();
    }, REFRESH_SECONDS);
    await this.again();
  }

  #render() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = this.models.filter((model) => words.every((word) => model.id.toLowerCase().includes(word)));
    const chosen = address().get("stage");
    const groups = grouped(found);
    this.found.textContent = plural(found.length, "model");
    this.filters.replaceChildren(
      this.#filter(null, "All", found.length, chosen),
      ...groups.map(([stage, title, models]) => this.#filter(stage, title, models.length, chosen)),
    );
    const shown = groups.filter(([stage]) => chosen === null || stage === chosen);
    this.sheet.replaceChildren(
      ...shown.map(([, title, models]) =>
        h("section", { class: "models", "aria-label": title }, h("h2", {}, title), this.#table(title, models)),
      ),
      ...(this.models.length ? [] : [nothing()]),
    );
  }

  #filter(stage, title, number, chosen) {
    const current = stage === chosen ? "page" : null;
    const link = h(
      "a",
      { href: addressOf({ stage }), "aria-current": current, onclick: this.chosen },
      h("span", { class: "name" }, title, h("span", { class: "sub" }, count(number))),
    );
    return h("li", { class: "entry" }, link);
  }

  #table(title, models) {
    const tasks = [...new Set(models.flatMap(({ scores }) => Object.keys(scores)))];
    const shown = tasks.length > COLUMNS ? tasks.slice(-COLUMNS) : tasks;
    const hasBpb = models.some(({ val_bpb }) => Number.isFinite(val_bpb));
    const heads = ["Model", "Step", "Parameters", "Size", ...(hasBpb ? ["Val bpb"] : []), ...shown, "From", "Changed"];
    const row = (model) => {
      const numbers = [
        count(model.step),
        model.parameters ? compact(model.parameters) : "–",
        bytes(model.bytes),
        ...(hasBpb ? [Number.isFinite(model.val_bpb) ? model.val_bpb.toFixed(4) : "–"] : []),
        ...shown.map((task) => (Number.isFinite(model.scores[task]) ? percent(model.scores[task]) : "–")),
      ];
      const more = iconButton("more", `More about ${model.id}`, () => this.#menu(more, model), {
        "aria-haspopup": "menu",
        "aria-expanded": "false",
      });
      const served = model.served ? h("span", { class: "state running" }, "served") : "";
      return h(
        "tr",
        {},
        h("th", { scope: "row" }, h("a", { href: pageOf("runs", { runs: [model.id] }) }, model.id), " ", served),
        ...numbers.map((text) => h("td", { class: "right" }, text)),
        h("td", {}, model.parent ?? "–"),
        h("td", { title: moment(model.modified) }, ago(model.modified)),
        h("td", {}, more),
      );
    };
    const isNumber = (i) => i > 0 && i < heads.length - 2;
    const head = h(
      "tr",
      {},
      ...heads.map((text, i) => h("th", { scope: "col", class: isNumber(i) ? "right" : null }, text)),
      h("td", {}),
    );
    return h(
      "div",
      { class: "table", role: "group", "aria-label": title, tabindex: "0" },
      h("table", {}, h("thead", {}, head), h("tbody", {}, ...models.map(row))),
    );
  }

  #menu(button, model) {
    const pair = [model.id, model.parent].filter(Boolean);
    const items = [
      { label: "Chat with it", icon: "send", act: () => this.#chat(model) },
      {
        label: model.parent ? `Compare with ${model.parent}` : "Show its curves",
        icon: "log",
        act: () => (location.href = pageOf("runs", { runs: pair })),
      },
      {
        label: "Train from it",
        icon: "sliders",
        act: () => (location.href = pageOf("train", { stage: "chat_sft", from: model.id })),
      },
      { label: "Export", icon: "download", act: () => this.#export(model) },
      { label: "Delete", icon: "trash", act: () => this.#delete(model) },
    ];
    openMenu(button, items);
  }

  async #chat(model) {
    if (model.served && this.state.chat) location.href = pageOf(`.?model=${encodeURIComponent(model.id)}`);
    else {
      const text = h("p", {}, "This server does not serve it. This command does, on a page of its own:");
      await askWith(
        `Chat with ${model.id}`,
        [["", "Close"]],
        text,
        command(`python -m scripts.chat_web --model ${model.id}`),
      );
    }
  }

  async #export(model) {
    if (!this.#mayChange()) return;
    const field = h("input", { id: "export-name", autocomplete: "off", spellcheck: "false" });
    field.value = model.id.replaceAll(/\W+/g, "-");
    const label = h("label", { for: "export-name" }, "Name of the folder");
    const text = h("p", {}, "Written as files that transformers, vLLM and llama.cpp can read.");
    const choices = [
      ["ok", "Export"],
      ["", "Cancel"],
    ];
    if ((await askWith(`Export ${model.id}`, choices, text, label, field)) !== "ok") return;
    const job = await this.#try(() => exportModel(model.id, field.value.trim()));
    if (job) location.href = pageOf("train", { job: job.id });
  }

  async #delete(model) {
    if (!this.#mayChange()) return;
    const all = [model.id, ...this.#descendants(model.id)];
    const size = this.models.filter(({ id }) => all.includes(id)).reduce((sum, each) => sum + each.bytes, 0);
    const isOne = all.length === 1;
    const text = isOne
      ? [h("p", {}, `Its checkpoints (${bytes(size)}) are removed from the disk. This cannot be undone.`)]
      : [
          h(
            "p",
            {},
            `${plural(all.length - 1, "model")} came from it and would go, too. ${bytes(size)} are removed from the disk. This cannot be undone.`,
          ),
          h("ul", { class: "dependents" }, ...all.map((id) => h("li", {}, h("code", {}, id)))),
          h("label", { for: "confirm" }, `Type ${model.id} to confirm`),
        ];
    const field = h("input", { id: "confirm", autocomplete: "off", spellcheck: "false", hidden: isOne });
    // Enter keeps it: what cannot be undone needs more than one key.
    const choices = [
      ["", "Keep"],
      ["delete", isOne ? "Delete" : `Delete all ${all.length}`],
    ];
    const answer = askWith(`Delete ${model.id}?`, choices, ...text, field);
    const button = document.querySelector('dialog button[value="delete"]');
    button.classList.add("danger");
    button.disabled = !isOne;
    field.addEventListener("input", () => (button.disabled = field.value.trim() !== model.id));
    if ((await answer) !== "delete") return;
    const done = await this.#try(() => deleteModel(model.id, !isOne));
    if (done) note(`Deleted ${isOne ? model.id : plural(all.length, "model")}; ${bytes(done.freed)} are free again.`);
    await this.again();
    byId("search").focus();
  }

  /** The ids of models that came from this one, and from those. */
  #descendants(id, seen = new Set([id])) {
    const children = this.models
      .filter(({ parent, id: own }) => parent === id && !seen.has(own))
      .map(({ id: own }) => own);
    for (const child of children) seen.add(child);
    return children.flatMap((child) => [child, ...this.#descendants(child, seen)]);
  }

  #mayChange() {
    if (!this.state.training) note(sentence(this.state.training_off));
    return this.state.training;
  }

  async #try(act) {
    try {
      return await act();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      note(error.message);
      return null;
    }
  }
}

/** [stage, title, models] of every stage that has some. */
function grouped(models) {
  const known = new Set(STAGES.map(([stage]) => stage));
  const groups = STAGES.map(([stage, title]) => [stage, title, models.filter((model) => model.stage === stage)]);
  groups.push(["other", OTHERS, models.filter((model) => !known.has(model.stage))]);
  return groups.filter(([, , some]) => some.length);
}

function nothing() {
  return h(
    "div",
    { class: "nothing" },
    h("h2", {}, "No models yet"),
    h(
      "p",
      {},
      "A model appears here when a run has saved its first checkpoint. ",
      h("a", { href: pageOf("train") }, "Start one"),
    ),
  );
}
