// The server's HTTP interface. Addresses are relative to this file's, so that a tunnel or a proxy's path does not matter.

import { apiKey, setApiKey } from "./preferences.js";

/**
 * What went wrong. `code` is OpenAI's, or "away" (nothing answers), "busy" (later, please), "gone" (a stream that has
 * expired).
 */
export class ApiError extends Error {
  constructor(message, { code = null, status = null, retryAfter = null, details = {} } = {}) {
    super(message);
    this.code = code;
    this.status = status;
    /** what else the server sent in its error */
    this.details = details;
    /** seconds, or null */
    this.retryAfter = retryAfter;
  }
}

const ROOT = new URL("../../../", import.meta.url); // above assets/<version>/static/
export const AWAY = "The server does not answer.";
const NOT_READY = {
  draining: "The server is shutting down.",
  failed: "The model has stopped; the server's log tells why.",
};
const SILENT_MS = 5000; // a server that says nothing for so long is not there

let askForKey = async () => null;
let noteLoss = () => {};

/** Sets what is called when the server wants a key: wrong (a key was refused) → promise of a key, or of null. */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/** Sets what is called whenever a request or a stream found no server. */
export function onLoss(listener) {
  noteLoss = listener;
}

function lost(message, retryAfter = null) {
  noteLoss();
  return new ApiError(message, { code: "away", retryAfter });
}

/** The server's response; `body` is sent as JSON, a Blob as it is. Asks for a key where one is needed. Throws ApiError. */
export async function request(path, { method = "GET", body = null, signal = null, headers = {} } = {}) {
  const key = apiKey();
  const isJson = body && !(body instanceof Blob);
  const all = {
    ...headers,
    ...(isJson ? { "Content-Type": "application/json" } : {}),
    ...(key ? { Authorization: `Bearer ${key}` } : {}),
  };
  const response = await reach(path, { method, signal, headers: all, body: isJson ? JSON.stringify(body) : body });
  if (response.ok) return response;
  const error = await failure(response);
  if (response.status !== 401) throw error;
  // Another request may have got a key in the meantime.
  const given = apiKey() === key ? await askForKey(key !== null) : apiKey();
  if (given === null) throw error;
  setApiKey(given);
  return request(path, { method, body, signal, headers });
}

async function reach(path, options) {
  try {
    return await fetch(new URL(path, ROOT), options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost(AWAY);
  }
}

async function failure(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  const error = await errorIn(response);
  // Not the API itself, but a proxy or a tunnel before it, or a server that is about to end.
  if (!error.message && [502, 503, 504].includes(response.status)) return lost(AWAY, retryAfter);
  if (error.code === "shutting_down") return lost(NOT_READY.draining, retryAfter);
  const code = retryAfter && [429, 503].includes(response.status) ? "busy" : (error.code ?? null);
  const message = error.message ? sentence(error.message) : `The server answered with status ${response.status}.`;
  return new ApiError(message, { code, status: response.status, retryAfter, details: error });
}

async function errorIn(response) {
  try {
    return (await response.json()).error ?? {};
  } catch {
    return {}; // no JSON: only the status is known
  }
}

/** A message of the API as a sentence on the page. */
export const sentence = (message) => message[0].toUpperCase() + message.slice(1) + (/[.!?]$/.test(message) ? "" : ".");

/** Why the server cannot be used at the moment, as a sentence; null when it can. */
export async function findTrouble() {
  let response;
  try {
    response = await fetch(new URL("health", ROOT), { cache: "no-store", signal: AbortSignal.timeout(SILENT_MS) });
  } catch {
    return AWAY; // nothing listens there, or nothing is heard
  }
  if (response.ok) return null;
  const { status } = await response.json().catch(() => ({})); // a proxy's answer is no JSON
  return NOT_READY[status] ?? AWAY;
}

/** The models that can be asked, the default one first. */
export async function listModels() {
  return (await (await request("v1/models")).json()).data;
}

/** The curves of a model's training: {loss, reward, val_bpb}, each [[step, value], ...]. */
export async function trainingCurve(model) {
  return (await request(`training?model=${encodeURIComponent(model)}`)).json();
}

/** The tokens of the messages of a conversation as the model reads them, or of a text: {tokens: ids, texts, count}. */
export async function tokenize(body, signal) {
  return (await request("tokenize", { method: "POST", body, signal })).json();
}

/** How many tokens the prompt for the messages of a conversation has, or a text. */
export async function countTokens(body, signal) {
  return (await tokenize(body, signal)).count;
}

/** The whole reply to a text or to token ids. */
export async function complete(body, signal) {
  return (await request("v1/completions", { method: "POST", body, signal })).json();
}

/** The attention of a head and the predictions of all layers for {model, messages or text, layer, head}. */
export async function inspect(body, signal) {
  return (await request("inspect", { method: "POST", body, signal })).json();
}

/** Ask for an answer as a stream that survives its reader: {id of the stream or null, events}. */
export async function startStream(path, body, signal) {
  const response = await request(path, { method: "POST", body, signal, headers: { "X-Nanochat-Resumable": "1" } });
  return { id: response.headers.get("X-Stream-Id"), events: serverEvents(response) };
}

/** The events of a stream after the one numbered `after`. */
export async function resumeStream(id, after, signal) {
  try {
    return serverEvents(await request(`v1/streams/${encodeURIComponent(id)}?after=${after}`, { signal }));
  } catch (error) {
    if (error.status === 404) error.code = "gone";
    throw error;
  }
}

export async function stopStream(id) {
  await request(`v1/streams/${encodeURIComponent(id)}`, { method: "DELETE" });
}

/** Server-sent events as {id, type, data}: id is a number or null, data is the parsed JSON or null for [DONE]. */
export async function* serverEvents(response) {
  let event = { id: null, type: "message", lines: [] };
  for await (const line of linesOf(response.body)) {
    if (line.startsWith("data:")) event.lines.push(line.slice(5).trimStart());
    else if (line.startsWith("id:")) event.id = Number(line.slice(3));
    else if (line.startsWith("event:")) event.type = line.slice(6).trim();
    else if (line === "" && event.lines.length) {
      const data = event.lines.join("\n");
      yield { id: event.id, type: event.type, data: data === "[DONE]" ? null : JSON.parse(data) };
      event = { id: null, type: "message", lines: [] };
    }
  }
}

async function* linesOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await read(reader);
    if (done) return;
    const lines = (rest + value).split(/\r?\n/);
    rest = lines.pop();
    yield* lines;
  }
}

async function read(reader) {
  try {
    return await reader.read();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw lost("The connection to the server broke.");
  }
}
