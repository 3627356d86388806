// How likely every token of an answer or of a text was: the server reads it once more and reports what it expected.
//
// A token is {id, text, special, start, logprob, top: [{id, text, special, logprob}, ...]}. `start` counts characters
// of a text; logprob is null, and top empty, where the model has read nothing before.

import { ApiError, complete, tokenize } from "./api.js";
import { asMessages, path, pathTo, textOf } from "./tree.js";

export const TOP = 5; // candidates in each place

/** Log probabilities in the form of chats, or in that of completions, as tokens. */
export function tokensOf(logprobs, special = new Set()) {
  if (!logprobs) return [];
  const token = (id, text, logprob) => ({ id, text: written(text), special: special.has(id), logprob });
  const sorted = (top) => top.sort((a, b) => b.logprob - a.logprob);
  if (logprobs.content)
    return logprobs.content.map((each) => ({
      ...token(each.id, each.token, each.logprob),
      top: sorted(each.top_logprobs.map((other) => token(other.id, other.token, other.logprob))),
    }));
  return logprobs.tokens.map((text, i) => ({
    ...token(logprobs.token_ids[i], text, logprobs.token_logprobs[i]),
    start: logprobs.text_offset[i],
    // The keys of an object that look like numbers come first, wherever they were.
    top: sorted(
      Object.entries(logprobs.top_logprobs[i] ?? {}).map(([other, logprob]) =>
        token(logprobs.top_token_ids[i][other], other, logprob),
      ),
    ),
  }));
}

/** A token's text; the API writes one that is only part of a character as "bytes:\xe2". */
const written = (token) => token.replace(/^bytes:(?=\\x)/, "");

const specialOf = (model) => new Set(Object.values(model.special_tokens ?? {}));

/** The tokens of a text, or those of given ids; of more ids than the model's context holds only the last are scored. */
export async function score(model, prompt, signal) {
  const over = Array.isArray(prompt) ? Math.max(0, prompt.length - model.context_length) : 0;
  const body = { model: model.id, echo: true, logprobs: TOP, max_tokens: 0, prompt: over ? prompt.slice(over) : prompt };
  const tokens = tokensOf((await complete(body, signal)).choices[0].logprobs, specialOf(model));
  return { over, tokens };
}

/** A text's tokens; `unread` is the beginning that did not fit into the context. */
export async function scoreText(model, text, signal) {
  if (text === "") return { unread: "", tokens: [] };
  const { tokens: ids, texts } = await tokenize({ model: model.id, text }, signal);
  // The text itself has a token before it, which begins a document.
  if (ids.length < model.context_length) return { unread: "", tokens: (await score(model, text, signal)).tokens };
  const { over, tokens } = await score(model, ids, signal);
  return { unread: texts.slice(0, over).join(""), tokens };
}

/**
 * All tokens that the model has read when these messages end, scored. `closed`: the last answer came to its end, which
 * is a token, too.
 */
export async function readMessages(model, messages, closed, known = null, signal = null) {
  const ids = await idsOf(model, messages, closed, known, signal);
  return score(model, ids, signal);
}

async function idsOf(model, messages, closed, known, signal) {
  const special = specialOf(model);
  const read = async (more) => (await tokenize({ model: model.id, messages: [...messages, ...more] }, signal)).tokens;
  if (messages.at(-1).role === "assistant" && closed) {
    // A question after it closes the answer; the three tokens after its end are those around the empty question.
    const ids = await read([{ role: "user", content: "" }]);
    if (ids.slice(-4).every((id) => special.has(id)))
      return known ? [...known, ids.at(-4)] : ids.slice(0, -3);
  }
  return known ?? read([]);
}

/** Scores the answers that are shown, while the inspector is open. */
export class Scorer {
  #busy = false;
  #failed = new Map(); // node id → why

  constructor(chat) {
    this.chat = chat;
    chat.addEventListener("change", () => this.#work());
  }

  /** Why an answer could not be scored, or undefined. */
  failure(node) {
    return this.#failed.get(node.id);
  }

  /** One after the other, the last first: it is what one looks at. */
  async #work() {
    if (this.#busy) return;
    this.#busy = true;
    try {
      for (let next = this.#next(); next; next = this.#next()) await this.#score(...next);
    } finally {
      this.#busy = false;
    }
  }

  #next() {
    const { chat } = this;
    if (!chat.inspecting || !chat.models.length || chat.down) return null;
    for (const column of chat.current.columns)
      for (const node of path(column).reverse())
        if (node.role === "assistant" && node.finish !== null && node.parts.length && !node.scored)
          if (!this.#failed.has(node.id)) return [chat.current, column, node];
    return null;
  }

  async #score(conversation, column, node) {
    const model = this.chat.modelOf(column, node);
    try {
      await scoreAnswer(model, column, node, conversation.system);
      if (node.finish !== null) node.scored = model.id;
      this.chat.store.save(conversation);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#failed.set(node.id, error.message);
    }
    this.chat.dispatchEvent(new CustomEvent("change"));
  }

  /** Try again what failed. */
  forget() {
    this.#failed.clear();
  }
}

/** Gives the parts of an answer their tokens, and the node the one that ended it as `end`. */
async function scoreAnswer(model, column, node, system) {
  const nodes = pathTo(column, node);
  if (!model.chat) return scoreContinuation(model, nodes);
  const messages = asMessages(nodes, system, node.view?.dropped);
  const before = asMessages(nodes.slice(0, -1), system, node.view?.dropped);
  // Without anything before it, an answer follows the token that begins a document and the one that begins a turn.
  const prompt = before.length ? (await tokenize({ model: model.id, messages: before })).tokens : null;
  const known = prompt && sampledIds(node);
  const closed = node.finish === "stop";
  const { over, tokens } = await readMessages(model, messages, closed, known && [...prompt, ...known]);
  const first = Math.max(0, (prompt?.length ?? 2) - over);
  if (node.finish === null) return; // it is being continued in the meantime
  node.end = shareOut(node.parts, tokens.slice(first));
}

/** The ids that the model sampled, where the inspector saw all of them; encoding the text might give others. */
function sampledIds(node) {
  const [part] = node.parts;
  const tokens = part.tokens ?? [];
  const isWhole = node.parts.length === 1 && tokens.map(({ text }) => text).join("") === part.text;
  return isWhole && tokens.every(({ id }) => Number.isInteger(id)) ? tokens.map(({ id }) => id) : null;
}

async function scoreContinuation(model, nodes) {
  const [before, text] = [nodes.at(-2), nodes.at(-1)].map((node) => (node ? textOf(node) : ""));
  const { unread, tokens } = await scoreText(model, before + text);
  const [part] = nodes.at(-1).parts;
  part.tokens = tokens.filter(({ start, text }) => unread.length + start + text.length > before.length);
}

/** Distributes an answer's tokens among its parts; special ones stand around tool calls. Returns the one at the end. */
function shareOut(parts, tokens) {
  let at = 0;
  for (const part of parts) {
    const from = at;
    const around = part.type === "text" ? 0 : 1;
    at += around;
    while (at < tokens.length && !tokens[at].special) at++;
    at += around;
    part.tokens = tokens.slice(from, at);
  }
  return tokens[at] ?? null;
}
