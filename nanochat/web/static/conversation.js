// What a conversation is, and how it gets into a file and out of one.
//
// {id, title, created, updated, pinned, system, columns: [{model, nodes, chosen}, ...], text}
// A column is a tree of messages with one model; two of them stand side by side. Times are milliseconds since 1970.
// `text` is there in place of messages where a base model continues a text; see writing.js. The column then has the last
// continuation only.

import { add, asMessages, emptyTree, newId, path, textOf } from "./tree.js";
import { importedText } from "./writing.js";

const FORMAT = "nanochat-conversations";

export function newConversation(model) {
  const now = Date.now();
  const columns = [{ model, ...emptyTree() }];
  return { id: newId(), title: "", created: now, updated: now, pinned: false, system: "", columns };
}

/** The first line of a question, cut at a word. */
export function titleFrom(text) {
  const line = text.trim().split("\n")[0];
  return line.length <= 48 ? line : `${line.slice(0, 48).replace(/\s+\S*$/, "")}…`;
}

/** Does every word occur in the title or in any message, shown or not? */
export function matches(conversation, words) {
  const texts = conversation.columns.flatMap((column) => column.nodes.map(textOf));
  const all = [conversation.title, conversation.text?.text ?? "", ...texts].join("\n").toLowerCase();
  return words.every((word) => all.includes(word));
}

/** JSON text; `messages` repeats what is shown, for readers that know no branches. */
export function exported(conversations) {
  const withMessages = conversations.map((conversation) => ({
    ...conversation,
    ...(conversation.text ? {} : { messages: asMessages(path(conversation.columns[0]), conversation.system) }),
  }));
  // Without the scores of tokens, which the inspector asks for again.
  const isScore = (key, value) => ["end", "scored"].includes(key) || (key === "tokens" && Array.isArray(value));
  const kept = (key, value) => (isScore(key, value) ? undefined : value);
  return JSON.stringify({ format: FORMAT, version: 1, conversations: withMessages }, kept, 1);
}

/** The conversations of a file: an export, one {"messages"}, a list of them, or JSONL. Throws Error with a reason. */
export function imported(text) {
  return read(text).map((data, index) => {
    const where = `conversation ${index + 1}`;
    if (Array.isArray(data?.columns)) return conversationFrom(data, where);
    const messages = Array.isArray(data) ? data : data?.messages;
    if (!Array.isArray(messages)) throw new Error(`${where} has no messages`);
    return conversationOf(messages, where);
  });
}

function read(text) {
  let data;
  try {
    data = JSON.parse(text);
  } catch {
    try {
      return text
        .split("\n")
        .filter((line) => line.trim())
        .map((line) => JSON.parse(line));
    } catch {
      throw new Error("the file is not JSON");
    }
  }
  if (data?.format === FORMAT) {
    if (data.version !== 1) throw new Error(`the file has version ${data.version}, this page reads version 1`);
    return listOf(data.conversations, "the file");
  }
  const isList = Array.isArray(data) && !(data[0] && "role" in data[0]);
  return isList ? data : [data];
}

// A file is somebody else's: it is copied field by field, so that only what this page understands gets in.

function conversationFrom(data, where) {
  const columns = listOf(data.columns, where)
    .slice(0, 2)
    .map((column) => {
      const nodes = listOf(column?.nodes, where).map((node) => nodeFrom(node, where));
      const ids = new Map();
      for (const node of nodes) {
        // Parents come before their children, so there are no cycles.
        if (ids.has(node.id) || !(node.parent === null || ids.has(node.parent)))
          throw new Error(`${where}: its messages do not form a tree`);
        ids.set(node.id, node);
      }
      for (const node of nodes) if (ids.get(node.chosen)?.parent !== node.id) node.chosen = null;
      const first = ids.get(column.chosen);
      return {
        model: string(column.model),
        nodes,
        chosen: first && first.parent === null ? first.id : (nodes[0]?.id ?? null),
      };
    });
  if (columns.length === 0) throw new Error(`${where} is empty`);
  const conversation = newConversation("");
  const text = importedText(data.text);
  return {
    ...conversation,
    id: /^[0-9a-f]{24}$/.test(data.id) ? data.id : conversation.id,
    title: string(data.title) || "Imported conversation",
    created: time(data.created),
    updated: time(data.updated),
    pinned: data.pinned === true,
    system: string(data.system),
    ...(text ? { text, columns: [{ model: columns[0].model, ...emptyTree() }] } : { columns }),
  };
}

function nodeFrom(data, where) {
  if (!data || !["user", "assistant"].includes(data.role) || typeof data.id !== "string") {
    throw new Error(`${where} holds something that is not a message`);
  }
  const node = {
    id: data.id,
    parent: typeof data.parent === "string" ? data.parent : null,
    chosen: typeof data.chosen === "string" ? data.chosen : null,
    role: data.role,
    created: time(data.created),
    parts: partsFrom(data.parts, where),
  };
  if (data.role === "assistant") {
    Object.assign(node, {
      model: string(data.model),
      finish: string(data.finish) || "lost",
      error: null,
      stream: null,
    });
    const { tokens, dropped, cut } = data.view ?? {};
    if ([tokens, dropped, cut].every(Number.isFinite)) node.view = { tokens, dropped, cut };
    const { prompt, completion, context, speed } = data.usage ?? {};
    if ([prompt, completion, context, speed].every(Number.isFinite))
      node.usage = { prompt, completion, context, speed };
  }
  return node;
}

function partsFrom(data, where) {
  return listOf(data, where).map((part) => {
    if (!["text", "python", "python_output"].includes(part?.type) || typeof part.text !== "string") {
      throw new Error(`${where} holds a message with an unknown part`);
    }
    return { type: part.type, text: part.text };
  });
}

/** A conversation from plain messages, as they are used for training. */
function conversationOf(messages, where) {
  const conversation = newConversation("");
  const [column] = conversation.columns;
  let last = null;
  for (const message of messages) {
    const parts =
      typeof message?.content === "string"
        ? [{ type: "text", text: message.content }]
        : partsFrom(message?.content, where);
    if (message.role === "system" && last === null) conversation.system = parts.map((part) => part.text).join("");
    else if (message.role === "user") last = add(column, last, "user", { parts });
    else if (message.role === "assistant")
      last = add(column, last, "assistant", { parts, model: "", finish: "stop", error: null, stream: null });
    else throw new Error(`${where} holds a message of the unknown role ${JSON.stringify(message?.role)}`);
  }
  if (last === null) throw new Error(`${where} has no messages`);
  conversation.title = titleFrom(textOf(column.nodes[0])) || "Imported conversation";
  return conversation;
}

function listOf(value, where) {
  if (!Array.isArray(value)) throw new Error(`${where} is damaged`);
  return value;
}

const string = (value) => (typeof value === "string" ? value : "");
const time = (value) => (Number.isFinite(value) ? value : Date.now());
