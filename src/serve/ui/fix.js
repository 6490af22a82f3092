// Words of an answer that are put right: one after the other, listed, to be sent together.
import { place, withPlace } from "./corrections.js";
import { $, el } from "./dom.js";
import { update } from "./session.js";
import { WordList } from "./wordlist.js";
import { instead } from "./words.js";

let item = null;
let staged = [];
/** The words that are being corrected. */
let open = null;
export const words = new WordList($("item-words"), { choose: openFix, erase: (parts) => stage(parts, "") });

/** `send` is called when the correction that is being typed is the last. */
export function startFix(send) {
  $("fix").addEventListener("submit", (event) => {
    event.preventDefault();
    keepFix();
    send();
  });
  $("fix").addEventListener("keydown", fixKey);
  $("fix-keep").addEventListener("click", keepAndGoOn);
  $("fix-drop").addEventListener("click", drop);
}

/** Shows an answer with the corrections that were made to it. */
export function showWords(shown) {
  item = shown;
  staged = item.staged ??= [];
  $("whole").checked = item.whole ?? false;
  closeFix();
  words.reset();
  words.show(item.parts.filter((part) => part.kind !== "gap"));
  showStaged();
}

/** What there is to send. */
export const corrections = () => ({ errors: staged, whole: $("whole").checked });

/** Puts the focus where the work most likely is. */
export function focusFirstFlagged() {
  words.focus(Math.max(0, words.parts.findIndex((part) => part.span && part.span.action !== "regenerated")));
}

function openFix(parts, typed) {
  if (item.record) return;
  const from = item.parts.indexOf(parts[0]);
  const all = item.parts.slice(from, item.parts.indexOf(parts.at(-1)) + 1);
  const before = all.map((part) => part.text).join("");
  open = parts;
  $("fix").hidden = false;
  $("fix-label").textContent = `Instead of “${before}”, write`;
  $("fix-text").value = typed ?? staged.find((p) => p.start === parts[0].start)?.correction ?? before;
  const suggestions = item.suggestions?.(parts[0]) ?? instead(parts[0]).map(({ text }) => text);
  $("fix-chips").replaceChildren(...suggestions.map((text) => el("button", { type: "button", onclick: () => takeChip(text) }, text)));
  $("fix-chips").hidden = suggestions.length === 0;
  $("fix-text").focus();
  if (typed === null) $("fix-text").select();
}

function takeChip(text) {
  $("fix-text").value = text;
  $("fix-text").focus();
}

function fixKey(event) {
  if (event.key === "Escape") drop();
  else if (event.key === "Enter" && event.shiftKey) keepAndGoOn();
  else return;
  event.preventDefault();
}

function drop() {
  closeFix();
  words.focus();
}

/** The next word, for another correction. */
function keepAndGoOn() {
  const after = words.parts.indexOf(open.at(-1)) + 1;
  keepFix();
  words.focus(after);
}

function closeFix() {
  open = null;
  $("fix").hidden = true;
}

function keepFix() {
  if (open) stage(open, $("fix-text").value);
  closeFix();
}

function stage(parts, correction) {
  if (item.record) return;
  const added = place(item.text, parts, correction);
  // Unchanged is not wrong.
  if (added.correction !== added.text) staged = withPlace(staged, added);
  showStaged();
}

function showStaged() {
  if (item.staged !== staged) {
    item.staged = staged;
    update(item);
  }
  const row = (p) => {
    const undo = () => {
      staged = staged.filter((other) => other !== p);
      showStaged();
      words.focus();
    };
    return el("li", {}, el("s", {}, p.text), " → ", p.correction ?? "nothing", " ", el("button", { type: "button", "aria-label": `Undo ${p.text}`, onclick: undo }, "Undo"));
  };
  $("staged").replaceChildren(...staged.map(row));
  $("staged").hidden = $("send").hidden = staged.length === 0;
  $("whole-field").hidden = staged.length !== 1;
  words.mark("wrong", (part) => staged.some((p) => p.start <= part.start && part.end <= p.end));
}
