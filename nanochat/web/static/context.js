// What the model can read: counts of a draft while it is written, so that nobody sends more than that.

import { ApiError } from "./api.js";

const COUNT_AFTER_MS = 250; // after the last key, so that typing does not ask the server for every letter
const FRAME = 32; // more tokens than the template puts around a question

/** Counts the tokens of a draft a moment after it has changed; of several counts the latest is the one that matters. */
export class DraftCount {
  /** count(signal) → promise of a result, null where nothing can be counted; onCounted(result) */
  constructor(count, onCounted) {
    this.count = count;
    this.onCounted = onCounted;
    /** has the draft changed since the last count? */
    this.isDue = false;
  }

  soon() {
    this.isDue = true;
    this.stop();
    this.timer = setTimeout(() => this.#now(), COUNT_AFTER_MS);
  }

  stop() {
    clearTimeout(this.timer);
    this.counting?.abort();
  }

  async #now() {
    const { signal } = (this.counting = new AbortController());
    let result = null;
    try {
      result = await this.count(signal);
    } catch (error) {
      // The count is a courtesy: without one the server refuses what is too long.
      if (!(error instanceof ApiError) && error.name !== "AbortError") throw error;
    }
    if (signal.aborted) return;
    this.isDue = false;
    this.onCounted(result);
  }
}

/** Can this text be too long for `limit` tokens? A token has a byte at least. */
export const mayExceed = (limit, ...texts) =>
  texts.reduce((bytes, text) => bytes + new TextEncoder().encode(text).length, FRAME) > limit;

/** Mark a field whose text is too long, and write why into `note`. Returns whether it is. */
export function markLength(field, note, { used, limit }) {
  const isTooLong = used > limit;
  if (isTooLong) field.setAttribute("aria-invalid", "true");
  else field.removeAttribute("aria-invalid");
  note.hidden = !isTooLong;
  note.textContent = isTooLong ? `Too long: this comes to ${used} tokens, and the model reads at most ${limit}.` : "";
  return isTooLong;
}
