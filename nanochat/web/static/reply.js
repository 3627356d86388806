// One answer on its way: what the server streams goes into a node of the tree, which view and store then follow.
//
// An answer's node has, beside its parts:
//   model     who answers
//   finish    null on its way; then "stop" (the model ended), "length" (cut off), "cancelled" (by the user), "lost"
//   stream    {id, after}: where to take the stream up again; null when there is nothing to take up
//   outage    whether it waits for a server that is away, or did so before it went on
//   error     {code, message, retryAt} when it failed
//   view      {tokens, dropped, cut}: of the prompt, the messages left out of it, and the tokens left out of this answer
//   unread    tokens left out of the text that it continues
//   usage     {prompt, completion, context, speed}: tokens, and tokens a second
//   begins    ids of tokens that the server is to begin the answer with, until the first of them came
//   seed      for both answers of two columns
// A part may have tokens, as scores.js makes them, when the token inspector was on.

import { ApiError, AWAY, resumeStream, sentence, startStream, stopStream } from "./api.js";
import { tokensOf } from "./scores.js";

// Of a server that is there, and yet breaks off every time. One that is away is waited for.
const MOST_FAILURES = 3;
const PAUSE_MS = 300;

export class Reply {
  /**
   * request() → promise of {path, body} that asks for the answer, or for what is missing of it
   * onChange(isText) is called after every change of the node; isText: only what streams has changed.
   */
  constructor(node, connection, request, onChange) {
    Object.assign(this, { node, connection, request, onChange });
    this.controller = new AbortController();
    this.stopped = false;
    this.stopping = new Promise((resolve) => (this.endWait = resolve));
    /** is it waiting for a server that is away? */
    this.waits = false;
    this.failures = 0; // since the last event
    this.finish = null;
    /** tokens that came here, those before a reload (an event each), and when the first one came */
    this.count = 0;
    this.before = Math.max(0, node.stream?.after ?? 0);
    this.since = null;
  }

  get total() {
    return this.before + this.count;
  }

  /** Tokens a second until now; null before the second token. */
  get speed() {
    return this.count > 1 ? (this.count - 1) / ((performance.now() - this.since) / 1000) : null;
  }

  /**
   * Follow the answer to its end: take up its stream, or ask for it. What the node already holds stays; the rest is
   * appended. A server that is away is waited for, and one that has forgotten the stream is asked for the rest.
   */
  async run() {
    Object.assign(this.node, { finish: null, error: null });
    this.onChange(false);
    for (;;) {
      // A server that refuses nothing and says nothing would keep the question without a word.
      if (this.connection.trouble === AWAY) await this.#wait();
      if (this.stopped) return;
      try {
        return await this.#follow();
      } catch (error) {
        if (this.stopped) return;
        if (!(error instanceof ApiError)) throw error;
        if (this.finish) return this.#end(this.finish); // only the end of the stream is missing
        if (++this.failures > MOST_FAILURES || !(await this.#canRecover(error))) return this.#lose(error);
      }
    }
  }

  async #follow() {
    for await (const { id, data } of await this.#events()) {
      if (this.stopped) return;
      this.failures = 0;
      if (data === null) return this.#end(this.finish ?? "stop");
      const { view } = this.node;
      this.#take(data);
      if (this.node.stream && id !== null) this.node.stream.after = id;
      this.onChange(this.node.view === view);
    }
    if (!this.stopped) throw new ApiError("The answer broke off.", { code: "away" });
  }

  async #events() {
    const { node, controller } = this;
    if (node.stream) return resumeStream(node.stream.id, node.stream.after, controller.signal);
    const { path, body } = await this.request();
    if (this.stopped) return [];
    const { id, events } = await startStream(path, body, controller.signal);
    // The user may have been faster than the server.
    if (this.stopped) {
      await this.#stopAtServer(id);
      return [];
    }
    node.stream = id && { id, after: -1 };
    this.before = this.count = 0; // what had come before is part of the prompt now
    this.since = null;
    this.onChange(false); // is kept at once: from here on a reload loses nothing
    return events;
  }

  /** Can the answer be had after this failure? Waits until the server is back. */
  async #canRecover(error) {
    const { node, connection } = this;
    if (!["away", "gone", "internal_error"].includes(error.code)) return false;
    await connection.check();
    // A server that ends tells so in the stream; otherwise the answer has failed by itself.
    if (error.code === "internal_error" && connection.trouble === null) return false;
    // Nobody has read the stream for long. If that is not because of the connection, the user decides.
    if (error.code === "gone" && !this.broken && !node.outage) return false;
    if (error.code !== "away") node.stream = null;
    this.broken = true;
    await (connection.trouble === null ? pause(PAUSE_MS * this.failures) : this.#wait());
    return true;
  }

  async #wait() {
    this.waits = this.node.outage = true;
    this.onChange(false);
    this.connection.check();
    await Promise.race([this.connection.back(), this.stopping]);
    this.waits = false;
    this.failures = 0;
    if (!this.stopped) this.onChange(false);
  }

  /** What has come stays. */
  stop() {
    const id = this.node.stream?.id;
    this.stopped = true;
    this.#end("cancelled");
    this.endWait();
    // Without its id the stream cannot be stopped yet: #events() does it as soon as the server names it.
    if (id) this.#stopAtServer(id);
  }

  async #stopAtServer(id) {
    this.controller.abort();
    try {
      if (id) await stopStream(id);
    } catch (error) {
      console.info(`stopping the stream: ${error.message}`); // it has ended by itself, or the server is gone
    }
  }

  #lose(error) {
    const retryAt = error.retryAfter === null ? null : Date.now() + error.retryAfter * 1000;
    this.#end("lost", { code: error.code, message: error.message, retryAt });
  }

  #end(finish, error = null) {
    Object.assign(this.node, { finish, error, stream: null });
    delete this.node.outage;
    this.onChange(false);
  }

  #take(data) {
    if (data.error) throw new ApiError(sentence(data.error.message), { code: data.error.code });
    const choice = data.choices?.[0];
    if (choice) {
      const part = choice.delta?.part ?? { type: "text", text: choice.delta?.content ?? choice.text ?? "" };
      this.#append(part, tokensOf(choice.logprobs));
      this.finish = choice.finish_reason ?? this.finish;
    }
    const { prompt_tokens: tokens, messages_dropped: dropped, reply_tokens_dropped: cut } = data.nanochat ?? {};
    const { prompt_tokens_dropped: unread } = data.nanochat ?? {};
    if (unread !== undefined) this.node.unread = unread;
    if (dropped !== undefined && !data.usage) this.node.view = { tokens, dropped, cut };
    if (data.usage) {
      const { context_length: context, tokens_per_second: speed } = data.nanochat ?? {};
      this.node.usage = { prompt: data.usage.prompt_tokens, completion: data.usage.completion_tokens, context, speed };
    }
  }

  #append({ type, text }, tokens) {
    if (text === "" && tokens.length === 0) return;
    this.since ??= performance.now();
    this.count += tokens.length || 1;
    delete this.node.begins;
    const { parts } = this.node;
    // Tokens without text belong to what is being written, such as the half of a character.
    if (parts.at(-1)?.type !== type && !(text === "" && parts.length)) parts.push({ type, text: "" });
    const part = parts.at(-1);
    part.text += text;
    if (tokens.length) (part.tokens ??= []).push(...tokens);
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
