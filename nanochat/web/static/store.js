// Conversations, kept in this browser: in IndexedDB, or only in memory where that is switched off or full.

const DATABASE = "nanochat";
const TABLE = "conversations";

// A streaming answer changes many times a second; a reload takes up the stream where the last save left it.
const SAVE_EVERY_MS = 400;

export class Store {
  /** onTrouble(sentence) is called when something could not be kept; onForeign(id) when another tab changed one. */
  constructor(onTrouble, onForeign) {
    this.onTrouble = onTrouble;
    this.database = null;
    this.waiting = new Map();
    this.timer = null;
    this.troubled = false;
    this.channel = new BroadcastChannel(DATABASE);
    this.channel.onmessage = (event) => onForeign(event.data);
  }

  /** All that is kept, in no order. */
  async open() {
    try {
      this.database = await openDatabase();
      return await done(this.#table("readonly").getAll());
    } catch {
      this.#trouble(
        "This browser does not let the page keep anything: conversations end with this tab. " +
          "Export those you want to keep.",
      );
      return [];
    }
  }

  /** As it is kept now, or undefined. */
  async read(id) {
    return this.database ? done(this.#table("readonly").get(id)) : undefined;
  }

  /** Keep this conversation as it is now. */
  save(conversation) {
    this.waiting.set(conversation.id, conversation);
    return this.flush();
  }

  /** Keep this conversation soon; the object may still change. */
  saveSoon(conversation) {
    this.waiting.set(conversation.id, conversation);
    this.timer ??= setTimeout(() => this.flush(), SAVE_EVERY_MS);
  }

  /** Keep now what waits. */
  async flush() {
    clearTimeout(this.timer);
    this.timer = null;
    const conversations = [...this.waiting.values()];
    this.waiting.clear();
    if (conversations.length)
      await this.#change(
        (table) => conversations.forEach((each) => table.put(each)),
        conversations.map(({ id }) => id),
      );
  }

  async remove(id) {
    this.waiting.delete(id);
    await this.#change((table) => table.delete(id), [id]);
  }

  async #change(work, ids) {
    if (!this.database) return;
    try {
      const table = this.#table("readwrite");
      work(table);
      table.transaction.commit(); // at once: a page that goes away does not live to do it later
      await finished(table.transaction);
      for (const id of ids) this.channel.postMessage(id);
    } catch (error) {
      const full = error?.name === "QuotaExceededError";
      this.#trouble(
        `This browser could not keep the conversation${full ? ": its storage is full" : ""}. ` +
          "Export what matters, then delete old conversations.",
      );
    }
  }

  #table(mode) {
    return this.database.transaction(TABLE, mode).objectStore(TABLE);
  }

  // Once: a message at every save of a stream would bury the page.
  #trouble(sentence) {
    if (!this.troubled) this.onTrouble(sentence);
    this.troubled = true;
  }
}

async function openDatabase() {
  const request = indexedDB.open(DATABASE, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return done(request);
}

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const finished = (transaction) =>
  new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = transaction.onerror = () => reject(transaction.error);
  });
