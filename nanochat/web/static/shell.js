// What every page has around its own content: icons, the colours' switch, the sidebar that opens and closes.

import { byId, h, icon } from "./dom.js";
import { preference, setPreference } from "./preferences.js";

// Below this width the sidebar lies over the page; as in the stylesheet.
const narrow = matchMedia("(max-width: 800px)");

/** Draw the icons that the page's HTML names, and fill its place for the colours' switch. */
export function furnish() {
  for (const element of document.querySelectorAll("[data-icon]")) element.prepend(icon(element.dataset.icon));
  byId("theme").replaceWith(themeSwitch());
}

function themeSwitch() {
  const choose = ({ target }) => {
    setPreference("theme", target.value);
    document.documentElement.dataset.theme = target.value;
  };
  const chosen = preference("theme", "system");
  const choices = [
    ["system", "System", "screen"],
    ["light", "Light", "sun"],
    ["dark", "Dark", "moon"],
  ].map(([value, label, sign]) =>
    h(
      "label",
      { title: label },
      icon(sign),
      h("input", { type: "radio", name: "theme", value, checked: value === chosen, onchange: choose }),
      h("span", { class: "visually-hidden" }, label),
    ),
  );
  return h("fieldset", { class: "segments theme" }, h("legend", { class: "visually-hidden" }, "Colours"), ...choices);
}

/** The sidebar, beside the page or, in a narrow window, a drawer over it. */
export class Drawer {
  /** first: id of what gets the focus when the drawer opens over the page. */
  constructor(first) {
    this.first = first;
    byId("open-sidebar").addEventListener("click", () => this.open());
    byId("close-sidebar").addEventListener("click", () => this.close());
    byId("backdrop").addEventListener("click", () => this.close());
    narrow.addEventListener("change", () => this.show(this.#startsOpen()));
    this.show(this.#startsOpen());
  }

  #startsOpen() {
    return !narrow.matches && preference("sidebar", true);
  }

  get isOpen() {
    return document.body.classList.contains("sidebar-open");
  }

  /** Does it lie over the page? */
  get covers() {
    return this.isOpen && narrow.matches;
  }

  open() {
    this.show(true);
    if (!narrow.matches) setPreference("sidebar", true);
    byId(narrow.matches ? this.first : "close-sidebar").focus();
  }

  close() {
    this.show(false);
    if (!narrow.matches) setPreference("sidebar", false);
    byId("open-sidebar").focus();
  }

  show(open) {
    document.body.classList.toggle("sidebar-open", open);
    byId("sidebar").inert = !open;
    byId("main").inert = open && narrow.matches;
    byId("open-sidebar").setAttribute("aria-expanded", String(open));
  }
}
