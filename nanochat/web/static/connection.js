// Whether the server can be reached: one state for the whole page.
//
// While somebody looks at the page, the server is asked often, which costs it about a millisecond each time. A kept
// connection would notice a loss sooner, but browsers allow six to a server, which answers need. A page in the
// background asks nothing until it is looked at again, unless the server is away.

import { AWAY, findTrouble, onLoss } from "./api.js";

// Together less than two seconds: so soon a loss shows, also that of a server that neither answers nor refuses.
const BEAT_MS = 1000;
const SILENCE_MS = 900;
const SLOWER = 3; // times the last answer's delay: on a slow line silence means less
const AGAIN_MS = 1000; // while the server is away
const AGAIN_LATER_MS = 5000; // when it has been away for long, or nobody looks
const LONG_MS = 60_000;

/** Tells "change" when `trouble` has changed. */
export class Connection extends EventTarget {
  constructor() {
    super();
    /** why the server cannot be used at the moment, or null */
    this.trouble = null;
    this.since = 0; // when the trouble began
    this.delay = 0; // of the last answer, in ms
  }

  /** Watch the server from now on. */
  start() {
    onLoss(() => this.check());
    document.addEventListener("visibilitychange", () => document.hidden || this.check());
    for (const event of ["online", "offline"]) addEventListener(event, () => this.check());
    return this.check();
  }

  /** Ask the server now. Whoever comes while the question is on its way gets the same answer. */
  async check() {
    this.checking ??= this.#ask().finally(() => (this.checking = null));
    return this.checking;
  }

  async #ask() {
    clearTimeout(this.timer);
    const asked = Date.now();
    const silence = setTimeout(() => this.#found(AWAY), Math.max(SILENCE_MS, SLOWER * this.delay));
    const trouble = await findTrouble();
    clearTimeout(silence);
    if (trouble === null) this.delay = Date.now() - asked;
    this.#found(trouble);
    const pause = this.#pause();
    if (pause !== null) this.timer = setTimeout(() => this.check(), pause);
  }

  #found(trouble) {
    if (trouble === this.trouble) return;
    if (this.trouble === null) this.since = Date.now();
    this.trouble = trouble;
    this.dispatchEvent(new Event("change"));
  }

  #pause() {
    if (this.trouble === null) return document.hidden ? null : BEAT_MS;
    return document.hidden || Date.now() - this.since > LONG_MS ? AGAIN_LATER_MS : AGAIN_MS;
  }

  /** Resolves as soon as the server can be used. */
  async back() {
    while (this.trouble !== null)
      await new Promise((resolve) => this.addEventListener("change", resolve, { once: true }));
  }
}
