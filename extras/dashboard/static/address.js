// What is shown stands in the address after the "#", so that a reload, going back and a sent link show the same.

/** The values of the address: name → text. */
export const address = () => new URLSearchParams(location.hash.slice(1));

/** The list under a name: "a,b" → ["a", "b"]; null where it is not given. */
export const listOf = (values, name) => (values.has(name) ? values.get(name).split(",").filter(Boolean) : null);

/** An address, "#name=value&…", from values; what is null, "" or an empty list is left out. Links and people read it. */
export function addressOf(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== null && value !== "" && value?.length !== 0);
  const plain = (text) => encodeURIComponent(text).replaceAll("%3A", ":").replaceAll("%2F", "/");
  return `#${pairs.map(([name, value]) => `${name}=${[value].flat().map(plain).join(",")}`).join("&")}`;
}

/** Write an address without an event; `step` adds an entry to the history. */
export function setAddress(values, step = false) {
  const wanted = addressOf(values);
  if (wanted === (location.hash || "#")) return;
  history[step ? "pushState" : "replaceState"](null, "", wanted);
}

const ROOT = new URL("../../../../", import.meta.url); // wherever a proxy shows the server

/** The address of another page, with what it is to show. */
export const pageOf = (name, values = {}) => new URL(name, ROOT).href + addressOf(values);
