// Not a module: it must run before the first paint, or a dark page would flash white. preferences.js writes the value.
(() => {
  let theme = null;
  try {
    theme = JSON.parse(localStorage.getItem("nanochat.theme"));
  } catch {
    // Storage is switched off, or holds what this page has not written: follow the system.
  }
  document.documentElement.dataset.theme = ["light", "dark"].includes(theme) ? theme : "system";
})();
