// An answer as a list of words: one stop for Tab, arrows inside, shaded by reward.
import { el, percent } from "./dom.js";
import { standing } from "./words.js";

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

export class WordList {
  #options = [];
  #at = 0;
  #anchor = 0;

  /** `inspect(part, option)` on focus and hover; `choose(parts, typed)` on Enter, click or the first letter typed; `erase(parts)` on Delete. */
  constructor(element, { inspect, choose, erase } = {}) {
    Object.assign(this, { element, inspect, choose, erase, parts: [] });
    element.addEventListener("keydown", (event) => this.#key(event));
    element.addEventListener("pointerover", (event) => this.#over(event));
    element.addEventListener("focusin", (event) => this.#focused(event));
    element.addEventListener("click", (event) => this.#click(event));
  }

  /** Shows these parts; elements of words that are still there stay, and with them the focus. */
  show(parts) {
    const old = this.#options;
    this.#options = [];
    const focused = this.element.contains(document.activeElement);
    let span = null;
    const children = parts.map((part) => {
      if (part.kind === "between") return part.text;
      const option = old[this.#options.length] ?? el("span", { role: "option", className: "w" });
      dress(option, part, part.span !== span);
      span = part.span;
      this.#options.push(option);
      return option;
    });
    this.parts = parts.filter((part) => part.kind !== "between");
    this.#at = Math.min(this.#at, Math.max(this.#options.length - 1, 0));
    this.#select(this.#at, this.#at);
    if (focused && old.every((option, i) => option === this.#options[i])) {
      // Moving elements would drop the focus: only what is new is added.
      this.element.append(...children.slice(this.element.childNodes.length));
    } else {
      this.element.replaceChildren(...children);
    }
    this.element.hidden = this.#options.length === 0;
  }

  /** From the first word on. */
  reset() {
    this.#at = 0;
    this.#options = [];
    this.element.replaceChildren();
    this.element.hidden = true;
  }

  /** Puts the focus on a word: the one where it was, or this one. */
  focus(index = this.#at) {
    this.#select(index, index);
    this.#options[this.#at]?.focus();
  }

  /** Gives a class to the words of which this is true. */
  mark(name, of) {
    this.#options.forEach((option, i) => option.classList.toggle(name, of(this.parts[i])));
  }

  /** The words taken: one, or several after Shift. */
  get taken() {
    const [from, to] = [this.#anchor, this.#at].sort((a, b) => a - b);
    return this.parts.slice(from, to + 1);
  }

  #select(at, anchor) {
    this.#at = Math.min(Math.max(at, 0), Math.max(this.#options.length - 1, 0));
    this.#anchor = anchor;
    const [from, to] = [this.#anchor, this.#at].sort((a, b) => a - b);
    this.#options.forEach((option, i) => {
      option.tabIndex = i === this.#at ? 0 : -1;
      option.setAttribute("aria-selected", i >= from && i <= to);
    });
  }

  #key(event) {
    const { key, shiftKey, ctrlKey, metaKey, altKey } = event;
    if (ctrlKey || metaKey || altKey) return;
    const many = this.element.getAttribute("aria-multiselectable") === "true";
    const last = this.#options.length - 1;
    const to = key === "Home" ? 0 : key === "End" ? last : key in STEPS ? this.#at + STEPS[key] : null;
    if (to !== null) {
      this.#select(to, shiftKey && many ? this.#anchor : Math.min(Math.max(to, 0), last));
      this.#options[this.#at]?.focus();
    } else if (key === "Enter" && this.choose) this.choose(this.taken, null);
    else if ((key === "Delete" || key === "Backspace") && this.erase) this.erase(this.taken);
    else if (key.length === 1 && key !== " " && this.choose) this.choose(this.taken, key);
    else return;
    event.preventDefault();
  }

  #index(event) {
    return this.#options.indexOf(event.target.closest?.("[role=option]"));
  }

  #over(event) {
    const at = this.#index(event);
    if (at >= 0) this.inspect?.(this.parts[at], this.#options[at]);
  }

  #focused(event) {
    const at = this.#index(event);
    if (at < 0) return;
    if (at !== this.#at) this.#select(at, at);
    this.inspect?.(this.parts[at], this.#options[at]);
  }

  #click(event) {
    const at = this.#index(event);
    if (at < 0) return;
    const many = event.shiftKey && this.element.getAttribute("aria-multiselectable") === "true";
    this.#select(at, many ? this.#anchor : at);
    this.#options[at].focus();
    if (!many) this.choose?.(this.taken, null);
  }
}

function dress(option, part, first) {
  const { kind, text, reward, span } = part;
  const stands = standing(part);
  if (option.textContent !== text) option.textContent = text;
  option.dataset.stands = stands;
  option.dataset.kind = kind;
  // Struck out before the words that stand in its place; not part of the text, so that it is not copied with it.
  if (first && span?.original) option.dataset.was = span.original;
  else delete option.dataset.was;
  // A repaired word has passed; how it is shaded says how it stands now.
  option.style.setProperty("--lack", reward === undefined ? 0 : (1 - reward).toFixed(3));
  const said = [kind === "gap" ? `left out: ${span.original}` : text];
  if (stands && kind !== "gap") said.push(span.original ? `${stands}, was ${span.original}` : stands);
  if (reward !== undefined) said.push(`reward ${percent(reward)}`);
  option.setAttribute("aria-label", said.join(", "));
}
