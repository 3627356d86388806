// Small choices that outlive a reload: theme, model, sampling. A browser that keeps nothing keeps them until then.

const memory = new Map();

function keep(storage, name, value) {
  memory.set(name, value);
  try {
    if (value === null) storage().removeItem(name);
    else storage().setItem(name, JSON.stringify(value));
  } catch {
    // Full or switched off; store.js tells the user, once, for conversations too.
  }
}

function recall(storage, name) {
  if (memory.has(name)) return memory.get(name);
  try {
    return JSON.parse(storage().getItem(name));
  } catch {
    return null;
  }
}

// Merely naming localStorage throws where it is forbidden, hence the functions.
const lasting = () => localStorage;
const session = () => sessionStorage;

/** The value kept under this name, or the fallback. */
export const preference = (name, fallback = null) => recall(lasting, `nanochat.${name}`) ?? fallback;

/** Keep a JSON value; null forgets it. */
export const setPreference = (name, value) => keep(lasting, `nanochat.${name}`, value);

/** Will a preference of this name be there at the next visit? */
export function willLast(name) {
  try {
    return lasting().getItem(`nanochat.${name}`) !== null;
  } catch {
    return false;
  }
}

/** The same for what goes with the tab. */
export const tabPreference = (name, fallback = null) => recall(session, `nanochat.${name}`) ?? fallback;
export const setTabPreference = (name, value) => keep(session, `nanochat.${name}`, value);

// A shared computer should not remember the API key.
export const apiKey = () => tabPreference("api_key");
export const setApiKey = (key) => setTabPreference("api_key", key);
