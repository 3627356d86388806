// What the page is about, without any element: the conversations, the models, and the answers on their way.
//
// Views call its methods and listen to its events:
//   "change"    anything but the text of an answer
//   "progress"  that text; `detail` is the node
//   "answered"  an answer has ended; `detail` is its node
//   "trouble"   a sentence for the user in `detail`
//   "leave"     a new conversation is wanted in place of this one; `detail` is why, a sentence

import { ApiError, countTokens, listModels } from "./api.js";
import { Connection } from "./connection.js";
import { newConversation, titleFrom } from "./conversation.js";
import { preference, setPreference } from "./preferences.js";
import { Reply } from "./reply.js";
import { settingsOf } from "./sampling.js";
import { readMessages, Scorer, scoreText, TOP } from "./scores.js";
import { Store } from "./store.js";
import { add, asMessages, choose, emptyTree, find, newId, path, pathTo, textOf, seenFrom, siblings } from "./tree.js";
import { accept, emptyText, remember } from "./writing.js";

const CONTINUATION = 64; // tokens of a text, where the user sets no limit
// A conversation that outgrows the model's context loses its oldest messages.
const TRUNCATION = "oldest";

export class Chat extends EventTarget {
  constructor() {
    super();
    this.store = new Store(
      (sentence) => this.#tell("trouble", sentence),
      (id) => this.#changedElsewhere(id),
    );
    /** the latest first */
    this.conversations = [];
    this.models = [];
    this.stale = true; // may the server have others by now?
    /** why the server refused to name its models, or null */
    this.refusal = null;
    this.connection = new Connection();
    this.connection.addEventListener("change", () => this.#connectionChanged());
    /** node id → Reply */
    this.replies = new Map();
    this.current = newConversation("");
    /** whether answers are asked for with the probabilities of their tokens */
    this.inspecting = preference("inspecting", false);
    /** whether the inspector shows all that the model reads in place of the messages */
    this.reading = false;
    this.scorer = new Scorer(this);
    this.sampling = preference("sampling", {});
  }

  /** Read what is kept, and resume the answers that a reload has interrupted. */
  async start() {
    const kept = await this.store.open();
    // What was said or imported meanwhile is not kept yet.
    const early = this.conversations;
    const ids = new Set(early.map(({ id }) => id));
    this.conversations = [...kept.filter(({ id }) => !ids.has(id)), ...early];
    this.#sort();
    for (const conversation of early) this.store.save(conversation);
    for (const conversation of kept)
      for (const [column, node] of unfinished(conversation)) this.#takeUp(conversation, column, node);
    this.#tell("change");
  }

  /** Ask the server what models it has. One that is away is asked again when it is back. */
  async connect() {
    this.refusal = null;
    try {
      await this.#listModels();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code !== "away") this.refusal = error.message;
    }
    this.#tell("change");
  }

  async #listModels() {
    this.models = await listModels();
    this.stale = false;
  }

  #connectionChanged() {
    if (this.connection.trouble !== null) this.stale = true;
    else if (this.stale) this.connect();
    this.#tell("change");
  }

  /** Why the server cannot be used at the moment, or null. */
  get down() {
    return this.connection.trouble ?? this.refusal;
  }

  /** Try again now what is tried again anyway, or what the server has refused. */
  tryAgain() {
    if (this.refusal === null) this.connection.check();
    else this.connect();
  }

  // Models and settings

  /** The model of a column; the default one where it has none, or one that the server no longer has. */
  model(column) {
    const named = (id) => this.models.find((model) => model.id === id);
    return named(column.model) ?? named(preference("model")) ?? this.models[0] ?? null;
  }

  /** What people call the model of this id; the id where the server no longer has it. */
  nameOf(id) {
    return this.models.find((model) => model.id === id)?.display_name ?? id;
  }

  /** The model of an answer; that of its column where the server no longer has it. */
  modelOf(column, node) {
    return this.models.find(({ id }) => id === node.model) ?? this.model(column);
  }

  setModel(column, id) {
    const model = this.models.find((each) => each.id === id);
    if (model && this.#suitsNot(model, column)) {
      setPreference("model", id);
      return this.#tell("leave", `This model ${model.chat ? "chats: a new chat" : "continues texts: a new text"}.`);
    }
    column.model = id;
    if (column === this.current.columns[0]) setPreference("model", id);
    this.#changed(this.current);
  }

  /** Is this a conversation and the model one that continues a text, or the other way round? */
  #suitsNot(model, column) {
    const { columns, text } = this.current;
    return columns.length === 1 && (text ? model.chat : column.nodes.length > 0 && !model.chat);
  }

  setSampling(texts) {
    this.sampling = texts;
    setPreference("sampling", texts);
    this.#tell("change");
  }

  setSystem(text, conversation = this.current) {
    conversation.system = text;
    this.#changed(conversation);
  }

  setInspecting(on) {
    this.inspecting = on;
    setPreference("inspecting", on);
    this.scorer.forget();
    this.#tell("change");
  }

  setReading(on) {
    this.reading = on;
    this.#tell("change");
  }

  // Conversations

  has(id) {
    return this.conversations.some((conversation) => conversation.id === id);
  }

  /** Show a conversation; null, or one that does not exist, starts a new one. */
  open(id) {
    this.current =
      this.conversations.find((conversation) => conversation.id === id) ?? newConversation(preference("model", ""));
    this.#tell("change");
  }

  rename(conversation, title) {
    conversation.title = title;
    this.#changed(conversation);
  }

  pin(conversation, pinned) {
    conversation.pinned = pinned;
    this.#changed(conversation);
  }

  /** Returns how to undo it. */
  remove(...conversations) {
    for (const { columns } of conversations)
      for (const node of columns.flatMap((column) => column.nodes)) this.replies.get(node.id)?.stop();
    this.conversations = this.conversations.filter((other) => !conversations.includes(other));
    for (const { id } of conversations) this.store.remove(id);
    if (conversations.includes(this.current)) this.open(null);
    this.#tell("change");
    return () => this.#keep(...conversations);
  }

  /** Take in conversations from a file: how many were new. */
  async importAll(conversations) {
    let taken = 0;
    for (const conversation of conversations) {
      const known = this.conversations.find(({ id }) => id === conversation.id);
      if (known && known.updated === conversation.updated) continue;
      if (known) conversation.id = newId();
      this.#keep(conversation);
      taken++;
    }
    await this.store.flush();
    return taken;
  }

  #keep(...conversations) {
    this.conversations.push(...conversations);
    this.#sort();
    for (const conversation of conversations) this.store.save(conversation);
    this.#tell("change");
  }

  #sort() {
    this.conversations.sort((a, b) => b.updated - a.updated);
  }

  // Texts

  /** Does the page show one text that a base model continues, in place of messages? */
  get isNotebook() {
    const { columns, text } = this.current;
    const [column] = columns;
    return Boolean(text) || (columns.length === 1 && column.nodes.length === 0 && this.model(column)?.chat === false);
  }

  /** The current text, which is from now on one. */
  startText() {
    this.current.text ??= emptyText();
    return this.current.text;
  }

  /** Keep the current text, which has changed. */
  keepText() {
    const conversation = this.current;
    const { text, versions } = conversation.text;
    conversation.updated = Date.now();
    if (!versions.length) conversation.title = titleFrom(text) || "New text";
    if (this.conversations.includes(conversation)) return this.store.saveSoon(conversation);
    this.conversations.unshift(conversation);
    this.#changed(conversation);
  }

  /** Continue the current text after so many characters; `begins` has ids of tokens that the continuation begins with. */
  write(at, begins) {
    const writing = this.startText();
    this.keepText();
    if (!begins) remember(writing);
    writing.last = { text: writing.text, written: writing.written, at };
    writing.pending = { at };
    const [column] = this.current.columns;
    Object.assign(column, emptyTree());
    this.#answer(this.current, column, null, begins ? { begins } : {});
  }

  // Side by side

  /** A second column: the conversation so far, and from now on the answers of a second model. */
  split() {
    const [first] = this.current.columns;
    const copy = structuredClone({ ...first, nodes: first.nodes.filter((node) => !this.replies.has(node.id)) });
    const second = { ...emptyTree(), ...copy };
    for (const node of [second, ...second.nodes]) if (!find(second, node.chosen)) node.chosen = null;
    // Nodes are known by their ids, also across columns.
    const ids = new Map(second.nodes.map(({ id }) => [id, newId()]));
    const renamed = (id) => ids.get(id) ?? null;
    for (const node of second.nodes)
      Object.assign(node, { id: renamed(node.id), parent: renamed(node.parent), chosen: renamed(node.chosen) });
    second.chosen = renamed(second.chosen);
    const mine = this.model(first)?.id;
    second.model =
      (
        this.models.find(({ id, chat }) => id !== mine && chat) ??
        this.models.find(({ id }) => id !== mine) ??
        this.models[0]
      )?.id ?? "";
    this.current.columns.push(second);
    this.#changed(this.current);
  }

  /** Put another model beside the first one. */
  compareWith(id) {
    if (this.current.columns.length === 1) this.split();
    this.setModel(this.current.columns[1], id);
  }

  /** Continue with this column only. Returns how to undo it. */
  keepOnly(column) {
    const conversation = this.current;
    const before = conversation.columns;
    for (const other of before) if (other !== column) for (const node of other.nodes) this.replies.get(node.id)?.stop();
    conversation.columns = [column];
    this.#changed(conversation);
    return () => {
      conversation.columns = before;
      this.#changed(conversation);
    };
  }

  // Messages

  /** Is an answer on its way in this column (in any column)? */
  isBusy(column = null) {
    const columns = column ? [column] : this.current.columns;
    return columns.some((each) => path(each).some((node) => this.replies.has(node.id)));
  }

  /** One question to every column. */
  send(text) {
    const conversation = this.current;
    if (!this.conversations.includes(conversation)) {
      conversation.title = titleFrom(text);
      this.conversations.unshift(conversation);
    }
    // What differs between two answers is to be the models' own.
    const seed = conversation.columns.length > 1 ? { seed: settingsOf(this.sampling).seed ?? newSeed() } : {};
    for (const column of conversation.columns) {
      const question = add(column, path(column).at(-1) ?? null, "user", { parts: [{ type: "text", text }] });
      this.#answer(conversation, column, question, seed);
    }
  }

  /** The question asked otherwise, as a branch beside it. */
  edit(column, node, text) {
    const parent = find(column, node.parent);
    this.#answer(this.current, column, add(column, parent, "user", { parts: [{ type: "text", text }] }));
  }

  /** Another answer to the same question, as a branch beside it. */
  regenerate(column, node) {
    this.#answer(this.current, column, find(column, node.parent));
  }

  /** Another answer that begins as this one does, up to token `at` of a part, and there takes the token `id` instead. */
  branch(column, node, part, at, id) {
    const parts = structuredClone(node.parts.slice(0, part));
    const begins = [...(node.parts[part]?.tokens.slice(0, at) ?? []).map((token) => token.id), id];
    this.#answer(this.current, column, find(column, node.parent), { model: node.scored, parts, begins });
  }

  /** Continue an answer that broke off. */
  continue(column, node) {
    if (!this.models.some(({ id }) => id === node.model)) node.model = this.model(column)?.id ?? "";
    this.#run(this.current, column, node);
  }

  /** Show the sibling that stands `step` further on. Returns it. */
  turn(column, node, step) {
    const beside = siblings(column, node);
    const other = beside[beside.indexOf(node) + step];
    choose(column, other);
    this.#changed(this.current);
    return other;
  }

  stop() {
    for (const column of this.current.columns) for (const node of path(column)) this.replies.get(node.id)?.stop();
  }

  #answer(conversation, column, question, fields = {}) {
    const model = this.model(column)?.id ?? "";
    const node = add(column, question, "assistant", { model, finish: null, error: null, stream: null, ...fields });
    this.#run(conversation, column, node);
  }

  /** What to ask the server for an answer, or for the rest of one: {path, body}. Throws ApiError. */
  async #question(conversation, column, node) {
    if (this.stale) await this.#listModels();
    const model = this.models.find(({ id }) => id === node.model);
    if (!model) throw new ApiError(`The server no longer has the model ${node.model}.`, { code: "model_not_found" });
    const body = {
      model: model.id,
      stream: true,
      stream_options: { include_usage: true },
      truncation: TRUNCATION,
      ...settingsOf(this.sampling),
    };
    if (node.seed !== undefined) body.seed = node.seed;
    if (node.begins) body.begins_with = node.begins;
    if (conversation.text) {
      const { text, pending } = conversation.text;
      body.prompt = text.slice(0, pending.at) + textOf(node);
      body.max_tokens ??= CONTINUATION;
      if (this.inspecting) body.logprobs = TOP;
      return { path: "v1/completions", body };
    }
    if (!model.chat) {
      // A base model does not know about turns: it continues one text.
      body.prompt = pathTo(column, node).slice(-2).map(textOf).join("");
      body.max_tokens ??= model.defaults?.max_tokens ?? 256; // without it the API stops after 16 tokens
      if (this.inspecting) body.logprobs = TOP;
      return { path: "v1/completions", body };
    }
    body.messages = asMessages(pathTo(column, node), conversation.system);
    if (this.inspecting) Object.assign(body, { logprobs: true, top_logprobs: TOP });
    return { path: "v1/chat/completions", body };
  }

  async #run(conversation, column, node) {
    const changed = (isText) => {
      if (!isText) return this.#changed(conversation);
      this.#tell("progress", node);
      this.store.saveSoon(conversation);
    };
    delete node.scored;
    delete node.end;
    const question = () => this.#question(conversation, column, node);
    const reply = new Reply(node, this.connection, question, changed);
    this.replies.set(node.id, reply);
    conversation.updated = Date.now();
    this.#sort();
    await reply.run();
    this.replies.delete(node.id);
    if (conversation.text?.pending) accept(conversation.text, textOf(node));
    conversation.updated = Date.now();
    this.#changed(conversation);
    this.#tell("answered", node);
  }

  #takeUp(conversation, column, node) {
    if (node.stream || node.outage) this.#run(conversation, column, node);
    else {
      node.finish = "lost"; // the page was gone before the server had named the stream
      if (conversation.text?.pending) accept(conversation.text, textOf(node));
    }
  }

  /** What the model of an answer had read when it ended, as a request names it: {model, messages} or {model, text}. */
  textUpTo(column, node) {
    const model = this.modelOf(column, node);
    const nodes = pathTo(column, node);
    if (model?.chat) return { model: model.id, messages: asMessages(nodes, this.current.system, node.view?.dropped) };
    return { model: model?.id, text: nodes.slice(-2).map(textOf).join("") };
  }

  /** All that the model of this column reads, as {tokens, over} or {tokens, unread}; see scores.js. */
  read(column, signal) {
    const nodes = path(column).filter((node) => node.role === "user" || node.parts.length);
    const model = this.model(column);
    if (!model.chat) return scoreText(model, nodes.map(textOf).join(""), signal);
    const messages = asMessages(nodes, this.current.system, nodes.findLast((node) => node.view)?.view.dropped);
    return readMessages(model, messages, nodes.at(-1)?.finish === "stop", null, signal);
  }

  /** The first node of this column that the model saw for its latest answer; null: it saw all. */
  seenFrom(column) {
    const nodes = path(column);
    return seenFrom(nodes, nodes.findLast((node) => node.view)?.view.dropped);
  }

  /** How many tokens the model would read for a draft after these nodes, and how many it can: {used, limit}. */
  async count(column, nodes, draft, signal) {
    const model = this.model(column);
    const limit = model.context_length;
    if (!model.chat && draft === "") return { used: 0, limit };
    if (!model.chat) return { used: await countTokens({ model: model.id, text: draft }, signal), limit };
    const messages = asMessages(nodes, this.current.system);
    if (draft) messages.push({ role: "user", content: draft });
    const { max_tokens } = settingsOf(this.sampling);
    const body = { model: model.id, messages, truncation: TRUNCATION, max_tokens };
    return { used: messages.length ? await countTokens(body, signal) : 0, limit };
  }

  // Everything else

  #changed(conversation) {
    if (this.conversations.includes(conversation)) this.store.save(conversation);
    this.#tell("change");
  }

  async #changedElsewhere(id) {
    const now = await this.store.read(id);
    const mine = this.conversations.find((conversation) => conversation.id === id);
    // What is written here now will be saved last, and so be the other tab's to take over.
    if (mine?.columns.some((column) => column.nodes.some((node) => this.replies.has(node.id)))) return;
    this.conversations = this.conversations.filter((conversation) => conversation !== mine);
    if (now) this.conversations.push(now);
    this.#sort();
    if (this.current.id === id) this.current = now ?? newConversation(preference("model", ""));
    this.#tell("change");
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

const newSeed = () => Math.floor(Math.random() * 2 ** 31);

const unfinished = (conversation) =>
  conversation.columns.flatMap((column) =>
    column.nodes.filter((node) => node.finish === null).map((node) => [column, node]),
  );
