// Jobs, which are processes that train: the list of them, and the page of one with its log.

import { sentence } from "../../static/api.js";
import { askWith, note } from "../../static/dialogs.js";
import { copyButton, h, icon, reconcile } from "../../static/dom.js";
import { addressOf, pageOf } from "./address.js";
import { Charts } from "./charts.js";
import { Curves } from "./curves.js";
import { ago, moment } from "./format.js";
import { forgetJob, getLog, resumeJob, stopJob } from "./server.js";

const TAIL = 400; // lines of the log
const KEYS = ["loss", "reward", "val_bpb", "val_loss"];
const ENDED = ["stopped", "finished", "failed"];

/** A command as it is typed, with a button that copies it. Lines break between words only, not after "--". */
export function command(text) {
  const words = text.split(" ").flatMap((word, i) => [i ? " " : "", h("span", {}, word)]);
  return h(
    "div",
    { class: "command" },
    h("pre", { tabindex: "0", "aria-label": "Command" }, ...words),
    copyButton("Copy command", () => text),
  );
}

export const nameOf = (job) => job.run ?? job.stage;

export class JobList {
  constructor(side, chosen) {
    this.chosen = chosen;
    this.list = h("ul", {});
    this.none = h("p", { class: "found" }, "Nothing was started here yet.");
    const start = h("a", { class: "row-button", id: "search", href: "#", onclick: chosen }, icon("compose"), "New run");
    const heading = h("h2", {}, "Jobs");
    side.replaceChildren(start, h("nav", { class: "side-list", "aria-label": "Jobs" }, heading, this.list, this.none));
    this.entries = new Map();
  }

  /** queue: device → ids of jobs, those that run first. */
  update(jobs, queue, current) {
    this.none.hidden = jobs.length > 0;
    reconcile(
      this.list,
      jobs.map((job) => this.#entry(job, queue, job.id === current)),
    );
  }

  #entry(job, queue, isCurrent) {
    if (!this.entries.has(job.id)) {
      const line = h("span", {});
      const link = h(
        "a",
        { href: addressOf({ job: job.id }), onclick: this.chosen },
        h("span", { class: "name" }, nameOf(job)),
        line,
      );
      this.entries.set(job.id, { element: h("li", { class: "entry" }, link), link, line });
    }
    const { element, link, line } = this.entries.get(job.id);
    link.firstChild.textContent = nameOf(job);
    line.className = `sub ${job.state}`;
    line.textContent = `${job.stage} · ${stateOf(job, queue)}`;
    if (isCurrent) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    return element;
  }
}

function stateOf(job, queue) {
  if (ENDED.includes(job.state)) return `${job.state} ${ago(job.ended ?? job.started)}`;
  const before = job.state === "queued" ? (queue[job.device]?.indexOf(job.id) ?? -1) : -1;
  return before > 0 ? `queued, ${before} before it` : job.state;
}

/** The page of a job. */
export class JobPage {
  /** again: asks the server for the jobs at once. training: whether jobs may be changed. */
  constructor(again, training) {
    Object.assign(this, { again, training });
    this.title = h("h2", {});
    this.state = h("span", {});
    this.facts = h("p", { class: "quiet" });
    this.message = h("p", { class: "notice error", role: "alert" });
    this.buttons = h("div", { class: "buttons" });
    this.command = h("div", {});
    this.grid = h("div", { class: "charts" });
    this.log = h("pre", { class: "log", tabindex: "0", role: "log", "aria-label": "Log", "aria-live": "off" });
    this.curves = new Curves();
    this.charts = new Charts(this.grid);
    this.charts.addEventListener("zoom", ({ detail }) => this.#zoom(detail));
    this.charts.addEventListener("expand", () => (location.href = pageOf("runs", { runs: [this.job.run] })));
    this.charts.addEventListener("log", ({ detail }) => {
      if (!this.logarithmic.delete(detail)) this.logarithmic.add(detail);
      this.#draw();
    });
    this.curves.addEventListener("change", () => this.#draw());
    this.logarithmic = new Set();
    const head = h("div", { class: "job-head" }, this.title, this.state, this.buttons);
    this.element = h(
      "article",
      { class: "job" },
      head,
      this.facts,
      this.message,
      this.command,
      this.grid,
      h("h3", {}, "Log"),
      this.log,
    );
  }

  show(job) {
    const isOther = this.job?.id !== job.id;
    const hasChanged = isOther || this.job.state !== job.state;
    this.job = job;
    this.title.textContent = nameOf(job);
    this.state.textContent = job.state;
    this.state.className = `state ${job.state}`;
    this.facts.textContent = [
      job.stage,
      job.device,
      job.started && `started ${moment(job.started)}`,
      job.ended && `ended ${moment(job.ended)}`,
      job.pid && !ENDED.includes(job.state) && `process ${job.pid}`,
      job.exit !== null && job.exit !== 0 && `exit ${job.exit}`,
    ]
      .filter(Boolean)
      .join(" · ");
    this.message.hidden = !job.message;
    this.message.textContent = job.message ? sentence(job.message) : "";
    if (isOther) {
      this.command.replaceChildren(command(job.command));
      this.log.textContent = "";
      this.range = null;
    }
    if (hasChanged) this.#renderButtons();
    this.curves.want({ run: job.run ? [job.run] : [], key: KEYS, x: "step" });
    this.#draw();
    if (hasChanged || !ENDED.includes(job.state)) this.#readLog();
  }

  /** Nothing is shown any more. */
  leave() {
    this.job = null;
    this.curves.want({ run: [], key: KEYS, x: "step" });
  }

  #draw() {
    const run = this.job?.run;
    const keys = KEYS.filter((key) => this.curves.series(run, key)?.x.length);
    this.grid.hidden = !run || keys.length === 0;
    const runs = [{ id: run, name: run, slot: 0 }];
    const { curves, range = null, logarithmic: log } = this;
    this.charts.show({ keys, curves, runs, axis: "step", range, marks: [], log });
  }

  #zoom(range) {
    this.range = range;
    this.#draw();
    this.curves.zoom(range);
  }

  async #readLog() {
    const { id } = this.job;
    const text = await getLog(id, TAIL);
    if (this.job?.id !== id) return;
    const isAtEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    if (text !== this.log.textContent) this.log.textContent = text;
    if (isAtEnd) this.log.scrollTop = this.log.scrollHeight;
  }

  #renderButtons() {
    const { job } = this;
    const button = (text, act, isPrimary) =>
      h(
        "button",
        {
          type: "button",
          class: isPrimary ? "button primary" : "button",
          disabled: !this.training,
          onclick: () => this.#do(act),
        },
        text,
      );
    const found = job.run
      ? [h("a", { class: "button", href: pageOf("runs", { runs: [job.run] }) }, "Open in Runs")]
      : [];
    if (job.state === "running") found.unshift(button("Stop", () => stopJob(job.id)));
    if (job.state === "queued") found.unshift(button("Take out of the queue", () => stopJob(job.id)));
    if (job.state === "stopping") found.unshift(button("End at once", () => this.#endAtOnce(job)));
    if (["stopped", "failed"].includes(job.state)) found.unshift(button("Resume", () => resumeJob(job.id), true));
    if (ENDED.includes(job.state)) found.push(button("Forget", () => this.#forget(job)));
    this.buttons.replaceChildren(...found);
  }

  async #do(act) {
    try {
      await act();
    } catch (error) {
      note(error.message);
    }
    await this.again();
  }

  async #endAtOnce(job) {
    const text = "It is about to save and end by itself. What it has learned since its last checkpoint would be lost.";
    const choices = [
      ["wait", "Wait for it"],
      ["end", "End at once"],
    ];
    if ((await askWith(`End ${nameOf(job)} at once?`, choices, h("p", {}, text))) === "end") await stopJob(job.id);
  }

  async #forget(job) {
    await forgetJob(job.id);
    location.hash = "";
    note(`${nameOf(job)} is no longer listed; its checkpoints stay.`);
  }
}
