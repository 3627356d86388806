// The chip in the composer that shows the conversation's system prompt, where it has one.

import { note } from "./dialogs.js";
import { byId, h, iconButton } from "./dom.js";

export class SystemChip {
  /** open() is called when the user wants to read or change the whole prompt. */
  constructor(chat, open) {
    this.chat = chat;
    this.element = byId("system-chip");
    this.text = h("button", { type: "button", class: "chip-text", onclick: open });
    this.element.append(
      this.text,
      iconButton("close", "Remove the system prompt", () => this.#remove()),
    );
    chat.addEventListener("change", () => this.render());
  }

  render() {
    const { system, columns } = this.chat.current;
    // A base model continues a text; it is sent no system prompt.
    const isRead = columns.some((column) => this.chat.model(column)?.chat !== false);
    this.element.hidden = system.trim() === "" || !isRead;
    this.text.textContent = `System: ${system}`;
    this.text.title = system;
  }

  #remove() {
    const { chat } = this;
    const conversation = chat.current;
    const before = conversation.system;
    chat.setSystem("");
    byId("prompt").focus();
    note("The system prompt is removed.", () => chat.setSystem(before, conversation));
  }
}
