// The page that starts training: a stage, its form, what it will take, and the jobs.

import { ApiError, sentence } from "../../static/api.js";
import { note } from "../../static/dialogs.js";
import { byId, h, icon } from "../../static/dom.js";
import { preference, setPreference } from "../../static/preferences.js";
import { address, addressOf, setAddress } from "./address.js";
import { Form } from "./form.js";
import { bytes, compact, duration, plural } from "./format.js";
import { command, JobList, JobPage } from "./jobs.js";
import { check, getForms, getJobs, getState, keepAsking, startJob, upload } from "./server.js";

const REFRESH_SECONDS = 2;
const CHECK_MS = 300; // after the last key

export class View {
  constructor({ side, content, chosen }) {
    this.list = new JobList(side, chosen);
    this.off = h("p", { class: "banner quiet", hidden: true });
    this.stages = h("fieldset", { class: "stages" });
    this.place = h("div", {});
    this.plan = h("div", { class: "plan" });
    this.problem = h("p", { class: "notice error", role: "alert", hidden: true });
    this.startButton = h("button", { type: "submit", class: "button primary" }, "Start");
    this.aside = h(
      "section",
      { class: "outlook", "aria-label": "What it will take" },
      this.plan,
      this.problem,
      this.startButton,
    );
    this.drop = this.#dropZone();
    const form = h(
      "form",
      { class: "train", onsubmit: (event) => this.#start(event) },
      h("div", {}, this.drop, this.place),
      this.aside,
    );
    this.page = h("div", { class: "sheet", hidden: true }, this.stages, form);
    this.sheet = h("div", { class: "sheet", hidden: true });
    content.replaceChildren(this.off, this.page, this.sheet);
  }

  async start() {
    const [state, forms] = await Promise.all([getState(), getForms()]);
    this.forms = new Map(forms.map((form) => [form.stage, form]));
    this.training = state.training;
    this.off.hidden = state.training;
    this.off.textContent = state.training_off ? sentence(state.training_off) : "";
    this.startButton.disabled = !state.training;
    this.drop.hidden = !state.training;
    this.#renderStages(forms);
    this.again = keepAsking(async () => {
      const { jobs, queue } = state.training ? await getJobs() : { jobs: [], queue: {} };
      Object.assign(this, { jobs, queue });
      this.#renderJobs();
    }, REFRESH_SECONDS);
    this.job = new JobPage(() => this.again(), state.training);
    this.sheet.append(this.job.element);
    addEventListener("hashchange", () => this.#follow());
    this.#follow();
    await this.again();
  }

  #renderStages(forms) {
    const legend = h("legend", { class: "visually-hidden" }, "Stage");
    this.stages.replaceChildren(
      legend,
      ...forms.map(({ stage, title, about }) => {
        const choose = () => {
          setAddress({ stage });
          this.#follow();
        };
        const words = { "aria-label": title, "aria-describedby": `about-${stage}` };
        const input = h("input", { type: "radio", name: "stage", value: stage, onchange: choose, ...words });
        const text = h("span", { class: "quiet", id: `about-${stage}` }, about);
        return h("label", {}, input, h("strong", {}, title), text);
      }),
    );
  }

  /** Show what the address says: a job, or the form of a stage, which may start from a model. */
  #follow() {
    const values = address();
    this.jobId = values.get("job");
    const asked = values.get("stage") ?? preference("train.stage");
    const stage = this.forms.has(asked)
      ? asked
      : this.forms.has("base_train")
        ? "base_train"
        : [...this.forms.keys()][0];
    this.#renderJobs();
    if (this.jobId) return;
    setPreference("train.stage", stage);
    this.#renderForm(stage);
    if (values.has("from") && this.form.enter("model", values.get("from"))) setAddress({ stage });
  }

  #renderForm(stage) {
    if (this.form && this.stage === stage) return;
    this.stage = stage;
    for (const input of this.stages.querySelectorAll("input")) input.checked = input.value === stage;
    const about = this.forms.get(stage);
    this.form = new Form(about, preference("train.drafts", {})[stage] ?? {});
    this.form.addEventListener("input", () => this.#changed());
    this.place.replaceChildren(this.form.element);
    this.drop.hidden = !this.training || !about.fields.some(({ type }) => type === "file");
    this.problem.hidden = true;
    this.plan.replaceChildren();
    this.#check();
  }

  #changed() {
    setPreference("train.drafts", { ...preference("train.drafts", {}), [this.stage]: this.form.draft });
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#check(), CHECK_MS);
  }

  /** Ask what the values mean: what is wrong, the command, and what the run will take. */
  async #check() {
    this.asking?.abort();
    this.asking = new AbortController();
    try {
      const { errors, command: text, plan } = await check(this.stage, this.form.values, this.asking.signal);
      this.form.showErrors(errors);
      this.#refuse(errors[""] ?? "");
      this.plan.replaceChildren(
        ...outlook(plan),
        ...(text ? [h("h3", {}, "The same as a command"), command(text)] : []),
      );
    } catch (error) {
      if (error.name === "AbortError") return;
      if (!(error instanceof ApiError)) throw error;
      this.#refuse(error.message);
    }
  }

  #refuse(text) {
    this.problem.hidden = text === "";
    this.problem.textContent = text && sentence(text);
  }

  async #start(event) {
    event.preventDefault();
    this.startButton.disabled = true;
    try {
      const job = await startJob(this.stage, this.form.values);
      await this.again();
      location.hash = addressOf({ job: job.id });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.form.showErrors(error.details.errors ?? {});
      this.#refuse(error.message);
      this.form.element.querySelector('[aria-invalid="true"]')?.focus();
    }
    this.startButton.disabled = !this.training;
  }

  #renderJobs() {
    const { jobs = [], queue = {} } = this;
    this.list.update(jobs, queue, this.jobId);
    const job = jobs.find(({ id }) => id === this.jobId);
    this.page.hidden = this.jobId !== null;
    this.sheet.hidden = !job;
    byId("heading").textContent = this.jobId ? "Job" : "Train";
    if (job) this.job.show(job);
    else this.job?.leave();
  }

  // Files

  #dropZone() {
    const field = h("input", {
      type: "file",
      id: "upload",
      accept: ".txt,.md,.json,.jsonl,.parquet,.zip",
      onchange: () => this.#upload(field.files[0]),
    });
    const zone = h(
      "div",
      {
        class: "drop",
        ondragover: (event) => {
          event.preventDefault();
          zone.classList.add("over");
        },
        ondragleave: () => zone.classList.remove("over"),
        ondrop: (event) => {
          event.preventDefault();
          zone.classList.remove("over");
          this.#upload(event.dataTransfer.files[0]);
        },
      },
      icon("upload"),
      h("label", { for: "upload" }, "Drop your own text or conversations here, or ", h("b", {}, "choose a file")),
      field,
    );
    return zone;
  }

  async #upload(file) {
    if (!file || !this.form) return;
    this.drop.setAttribute("aria-busy", "true");
    try {
      const { path, kind, count, problem } = await upload(file);
      if (problem) return note(problem);
      this.form.enter("file", path);
      note(`${file.name}: ${plural(count, kind === "conversations" ? "conversation" : "document")}.`);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      note(`${file.name}: ${error.message}`);
    } finally {
      this.drop.removeAttribute("aria-busy");
      byId("upload").value = ""; // so that the same file can be chosen again
    }
  }
}

/** What a run will take, as far as it can be predicted. */
function outlook(plan) {
  if (!plan) return [];
  const facts = [
    ["Parameters", plan.parameters, compact],
    ["Memory", plan.memory_bytes, bytes],
    ["Time", plan.seconds, (seconds) => `about ${duration(seconds)}`],
    ["Tokens", plan.tokens, compact],
    ["Price", plan.price, (price) => `about $${price < 10 ? price.toFixed(2) : Math.round(price)}`],
  ].filter(([, value]) => Number.isFinite(value));
  const list = facts.flatMap(([name, value, write]) => [h("dt", {}, name), h("dd", {}, write(value))]);
  const notes = (plan.notes ?? []).map((text) => h("li", {}, text));
  return [
    h("h3", {}, "What it will take"),
    h("dl", { class: "facts" }, ...list),
    ...(notes.length ? [h("ul", { class: "quiet" }, ...notes)] : []),
  ];
}
