// One answer on its way: what the server streams goes into a node of the tree, which view and store then follow.
//
// An answer's node has, beside its parts:
//   model     who answers
//   finish    null on its way; then "stop" (the model ended), "length" (cut off), "cancelled" (by the user), "lost"
//   stream    {id, after}: where to take the stream up again; null when there is nothing to take up
//   error     {code, message, retryAt} when it failed
//   usage     {prompt, completion, context, speed}: tokens, and tokens a second
// A part may have tokens, [{text, logprob, top: [{text, logprob}, ...]}, ...], when the token inspector was on.

import { ApiError, resumeStream, sentence, startStream, stopStream } from "./api.js";

// A broken connection is taken up by itself before the user is asked; the server keeps a stream for 30 s.
const RECONNECT_AFTER_MS = [300, 1000, 3000];

export class Reply {
  /** onChange() is called after every change of the node. */
  constructor(node, onChange) {
    this.node = node;
    this.onChange = onChange;
    this.controller = new AbortController();
    this.stopped = false;
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

  /** Ask, and follow to the end. What the node already holds stays; the answer is appended. */
  async ask(path, body) {
    Object.assign(this.node, { finish: null, error: null, stream: null });
    this.onChange();
    await this.#guard(async () => {
      const { id, events } = await startStream(path, body, this.controller.signal);
      // The user may have been faster than the server.
      if (this.stopped) return this.#stopAtServer(id);
      this.node.stream = id && { id, after: -1 };
      this.onChange();
      await this.#follow(events);
    });
  }

  /** Take up a stream that was left. */
  async resume() {
    Object.assign(this.node, { finish: null, error: null });
    this.onChange();
    await this.#guard(() => this.#follow(null));
  }

  /** What has come stays. */
  stop() {
    const id = this.node.stream?.id;
    this.stopped = true;
    this.#end("cancelled");
    // Without its id the stream cannot be stopped yet: ask() does it as soon as the server names it.
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

  #end(finish, error = null) {
    // A stream that merely cannot be reached can be taken up again.
    const stream = error?.code === "away" ? this.node.stream : null;
    Object.assign(this.node, { finish, error, stream });
    this.onChange();
  }

  async #guard(work) {
    try {
      await work();
    } catch (error) {
      if (this.stopped) return;
      if (!(error instanceof ApiError)) throw error;
      const retryAt = error.retryAfter === null ? null : Date.now() + error.retryAfter * 1000;
      this.#end("lost", { code: error.code, message: error.message, retryAt });
    }
  }

  /** Read events to the end; without any (null), and whenever the connection breaks, take up the stream. */
  async #follow(events) {
    for (let failures = 0; ;) {
      try {
        events ??= await resumeStream(this.node.stream.id, this.node.stream.after, this.controller.signal);
        for await (const { id, data } of events) {
          if (this.stopped) return;
          failures = 0;
          if (data === null) return this.#end(this.finish ?? "stop");
          this.#take(data);
          if (this.node.stream && id !== null) this.node.stream.after = id;
          this.onChange();
        }
        throw new ApiError("The answer broke off.", { code: "away" });
      } catch (error) {
        if (this.stopped || error.code !== "away" || !this.node.stream || failures === RECONNECT_AFTER_MS.length)
          throw error;
        await new Promise((resolve) => setTimeout(resolve, RECONNECT_AFTER_MS[failures++]));
        events = null;
      }
    }
  }

  #take(data) {
    if (data.error) throw new ApiError(sentence(data.error.message), { code: data.error.code });
    const choice = data.choices?.[0];
    if (choice) {
      const part = choice.delta?.part ?? { type: "text", text: choice.delta?.content ?? choice.text ?? "" };
      this.#append(part, tokensOf(choice.logprobs));
      this.finish = choice.finish_reason ?? this.finish;
    }
    if (data.usage) {
      const { context_length: context, tokens_per_second: speed } = data.nanochat ?? {};
      this.node.usage = { prompt: data.usage.prompt_tokens, completion: data.usage.completion_tokens, context, speed };
    }
  }

  #append({ type, text }, tokens) {
    if (text === "" && tokens.length === 0) return;
    this.since ??= performance.now();
    this.count += tokens.length || 1;
    const { parts } = this.node;
    // Tokens without text belong to what is being written, such as the half of a character.
    if (parts.at(-1)?.type !== type && !(text === "" && parts.length)) parts.push({ type, text: "" });
    const part = parts.at(-1);
    part.text += text;
    if (tokens.length) (part.tokens ??= []).push(...tokens);
  }
}

/** Log probabilities in the form of chats, or in that of completions, as tokens. */
function tokensOf(logprobs) {
  if (!logprobs) return [];
  if (logprobs.content) {
    const scored = ({ token, logprob }) => ({ text: written(token), logprob });
    return logprobs.content.map((token) => ({ ...scored(token), top: token.top_logprobs.map(scored) }));
  }
  return logprobs.tokens.map((text, i) => ({
    text: written(text),
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs[i]).map(([other, logprob]) => ({ text: written(other), logprob })),
  }));
}

/** A token's text; the API writes one that is only part of a character as "bytes:\xe2". */
const written = (token) => token.replace(/^bytes:(?=\\x)/, "");
