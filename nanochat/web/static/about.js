// What is recorded of a model: how it was made, its training curve, its scores, and a way to compare it with its parent.

import { ApiError, trainingCurve } from "./api.js";
import { copyButton, h, iconButton } from "./dom.js";
import { duration, nameOf, rounded, sizeOf } from "./words.js";

const STAGES = { base: "pretraining", mid: "mid-training", sft: "fine-tuning", dpo: "preferences", rl: "reinforcement" };
const CURVES = { loss: "Training loss", reward: "Mean reward" };
const DATA = { tinyworld: "the little world", littleworld: "the little world", real: "public conversations and exams" };
const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT] = [600, 150]; // of the curve's own coordinates; the page stretches them

export function openAbout(chat, model) {
  if (!model) return;
  const close = () => dialog.close();
  const curve = h("div", {});
  const { trained } = model;
  const dialog = h(
    "dialog",
    { id: "about-dialog", "aria-labelledby": "about-title" },
    h(
      "div",
      { class: "bar" },
      h("h2", { id: "about-title" }, nameOf(model)),
      iconButton("close", "Close", close, { autofocus: true }),
    ),
    h("p", {}, model.about),
    facts(model),
    trained ? curve : h("p", { class: "field-hint" }, "How it was trained and what it scores is not recorded with its files."),
    trained && scoreTable(model),
    trained?.parent && comparison(chat, model, close),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  if (trained) draw(model, curve);
}

function facts(model) {
  const { trained } = model;
  const rows = [
    ["Size", `${sizeOf(model)}, ${model.dtype} on ${model.device}`],
    ["Context", `${model.context_length.toLocaleString("en")} tokens`],
  ];
  for (const stage of trained?.stages ?? []) rows.push([stage.model, made(stage)]);
  if (trained?.dataset) rows.push(["Text", inWords(trained.dataset)]);
  const conversations = [trained?.conversations, ...(trained?.own_files ?? [])].filter((each) => each && each !== "none");
  if (conversations.length) rows.push(["Conversations", conversations.map(inWords).join(", ")]);
  for (const [name, label] of [
    ["core", "CORE"],
    ["chatcore", "ChatCORE"],
  ])
    if (trained?.scores[name] !== undefined) rows.push([label, trained.scores[name].toFixed(4)]);
  if (Number.isFinite(trained?.val_bpb)) rows.push(["Validation", `${trained.val_bpb.toFixed(3)} bits per byte`]);
  return h("dl", { class: "facts" }, ...rows.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]));
}

const inWords = (name) => DATA[name] ?? name;

function made({ stage, step, tokens, seconds }) {
  const parts = [STAGES[stage], `${step.toLocaleString("en")} steps`];
  if (tokens) parts.push(`${rounded(tokens)} tokens`);
  if (seconds) parts.push(duration(seconds));
  return parts.join(", ");
}

// The curve

async function draw(model, place) {
  let rows;
  try {
    rows = await trainingCurve(model.id);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    place.append(h("p", { class: "field-hint" }, error.message));
    return;
  }
  const name = rows.reward.length ? "reward" : "loss";
  const points = rows[name];
  if (points.length < 2) return; // one dot is no curve
  const [first, last] = [points[0], points.at(-1)];
  const text = `${CURVES[name]}: ${first[1].toFixed(2)} at step ${Math.round(first[0])}, ${last[1].toFixed(2)} at step ${Math.round(last[0])}`;
  place.append(h("figure", { class: "training-curve" }, line(points, text), h("figcaption", {}, text)));
}

function line(points, text) {
  const values = points.map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [from, to] = [points[0][0], points.at(-1)[0]];
  const x = (step) => (WIDTH * (step - from)) / (to - from || 1);
  const y = (value) => HEIGHT - (HEIGHT * (value - low)) / (high - low || 1);
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", text);
  const path = document.createElementNS(SVG, "polyline");
  path.setAttribute("points", points.map(([step, value]) => `${x(step).toFixed(1)},${y(value).toFixed(1)}`).join(" "));
  svg.append(path);
  return svg;
}

// Scores

function scoreTable(model) {
  const { scores, parent_scores: before, parent } = model.trained;
  const tasks = Object.entries(scores.tasks ?? {});
  if (Object.keys(scores).length === 0) {
    const command = `python -m scripts.${model.chat ? "chat_eval" : "base_eval"} --source ${model.source}:${model.tag}`;
    return h("p", { class: "field-hint" }, "It has not been evaluated. ", h("code", {}, command), " does that.");
  }
  if (tasks.length === 0) return null;
  const earlier = before.tasks ?? {};
  const compared = tasks.some(([name]) => earlier[name]);
  const head = h(
    "tr",
    {},
    ...["task", "right", "", "questions", ...(compared ? [parent] : [])].map((text) =>
      text ? h("th", { scope: "col" }, text) : h("td", {}),
    ),
  );
  const rows = tasks.map(([name, { n, correct, interval }]) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, name.replaceAll("_", " ")),
      h("td", { class: "number" }, percent(correct)),
      h("td", { class: "bar-cell" }, bar(correct, interval)),
      h("td", { class: "number" }, n.toLocaleString("en")),
      compared && h("td", { class: "number" }, earlier[name] ? percent(earlier[name].correct) : ""),
    ),
  );
  return h(
    "div",
    { class: "score-table", role: "group", tabindex: "0", "aria-label": "Scores" },
    h("table", {}, h("caption", {}, "What it got right, on questions held out from training"), head, ...rows),
  );
}

const percent = (fraction) => `${Math.round(100 * fraction)} %`;

/** A bar with the 95 % interval as a whisker. */
function bar(correct, [low, high]) {
  const fill = h("span", { class: "score-fill" });
  fill.style.width = `${100 * correct}%`;
  const track = h("span", { class: "score-track" }, fill);
  if (low === null) return track;
  const whisker = h("span", { class: "score-whisker" });
  whisker.style.left = `${100 * low}%`;
  whisker.style.width = `${100 * (high - low)}%`;
  track.append(whisker);
  return track;
}

// The parent

function comparison(chat, model, close) {
  const { parent } = model.trained;
  const other = chat.models.find(({ id, source, tag }) => id === parent || `${source}:${tag}` === parent);
  if (other) {
    const compare = () => {
      close();
      chat.compareWith(other.id);
    };
    return h(
      "div",
      { class: "dialog-buttons" },
      h("button", { type: "button", class: "button primary", onclick: compare }, `Compare with ${nameOf(other)}`),
    );
  }
  const command = `python -m scripts.chat_web --model ${model.source}:${model.tag} --model ${parent}`;
  return h(
    "div",
    {},
    h("p", { class: "field-hint" }, `It was trained from ${parent}. To compare the two side by side, serve both:`),
    h("div", { class: "command" }, h("code", {}, command), copyButton("Copy command", () => command)),
  );
}
