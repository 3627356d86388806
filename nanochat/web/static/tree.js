// The messages of one column as a tree: an edit or a new answer becomes a sibling, so no message is ever lost.
//
// tree: {nodes: [node, ...], chosen}
// node: {id, parent, chosen, role: "user" | "assistant", parts: [{type, text, tokens?}], ...}
// `parent` is null for first messages; `chosen` is the id of the child that is shown, the tree's that of the first
// message.
// Parts are of type text, python (what a tool was given) and python_output (what it returned).

/** 96 random bits; crypto.randomUUID is missing where the page comes over plain http from another machine. */
export const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

export const emptyTree = () => ({ nodes: [], chosen: null });

export const find = (tree, id) => tree.nodes.find((node) => node.id === id) ?? null;

/** This node and those that stand beside it, in the order in which they were made. */
export const siblings = (tree, node) => tree.nodes.filter((other) => other.parent === node.parent);

/** The messages that are shown, from the first one on. */
export function path(tree) {
  const nodes = [];
  for (let id = tree.chosen; id !== null; id = nodes.at(-1).chosen) nodes.push(find(tree, id));
  return nodes;
}

/** From the first message to this one, whether it is shown or not. */
export function pathTo(tree, node) {
  const nodes = [];
  for (let at = node; at !== null; at = find(tree, at.parent)) nodes.unshift(at);
  return nodes;
}

/** Show this node in place of its sibling. */
export function choose(tree, node) {
  (find(tree, node.parent) ?? tree).chosen = node.id;
}

/** A new node below the parent (null: a first message), which is shown from now on. */
export function add(tree, parent, role, fields) {
  const node = {
    id: newId(),
    parent: parent?.id ?? null,
    chosen: null,
    role,
    parts: [],
    created: Date.now(),
    ...fields,
  };
  tree.nodes.push(node);
  choose(tree, node);
  return node;
}

/** The text of a message, without tool calls and their results. */
export const textOf = (node) =>
  node.parts
    .filter((part) => part.type === "text")
    .map((part) => part.text)
    .join("");

/** The messages as the API takes them, without the `dropped` oldest of those that are not the system's. */
export function asMessages(nodes, system, dropped = 0) {
  const messages = turnsOf(nodes).slice(dropped);
  return [
    ...(system ? [{ role: "system", content: system }] : []),
    ...messages.map(({ role, content }) => ({ role, content })),
  ];
}

/** The first node of which the model saw anything when the `dropped` oldest messages were left out; null: saw all. */
export const seenFrom = (nodes, dropped) => (dropped ? (turnsOf(nodes)[dropped]?.node ?? null) : null);

/** Messages with the first node of each. */
function turnsOf(nodes) {
  const messages = [];
  for (const node of nodes) {
    const parts = node.parts.map(({ type, text }) => ({ type, text })).filter((part) => part.text !== "");
    if (node.role === "assistant" && parts.length === 0) continue; // it failed before its first word
    const content = parts.every((part) => part.type === "text") ? textOf(node) : parts;
    // The model was trained on turns: after an answer that failed, the new question joins the one without an answer.
    if (node.role === "user" && messages.at(-1)?.role === "user") messages.at(-1).content += `\n\n${content}`;
    else messages.push({ role: node.role, content, node });
  }
  return messages;
}
