// The Correct page: one item at a time, from word to word, and on to the next.
import { call } from "./api.js";
import { idempotencyKey, place, submission, withPlace } from "./corrections.js";
import { $, el, show } from "./dom.js";
import { close, next, skip } from "./queue.js";
import { recordItem } from "./records.js";
import { instead } from "./words.js";
import { WordList } from "./wordlist.js";

const NAME = "candor.annotator";

let item = null;
let staged = [];
/** The words that are being corrected. */
let open = null;
let key = null;
let busy = false;
const words = new WordList($("item-words"), { choose: openFix, erase: (parts) => stage(parts, "") });

export function startCorrect() {
  $("annotator").value = localStorage.getItem(NAME) ?? "";
  $("annotator").addEventListener("change", () => {
    localStorage.setItem(NAME, annotator());
    if (!item) advance();
  });
  $("fix").addEventListener("submit", (event) => {
    event.preventDefault();
    keepFix();
    send({ errors: staged, whole: $("whole").checked });
  });
  $("fix").addEventListener("keydown", fixKey);
  $("fix-keep").addEventListener("click", keepAndGoOn);
  $("fix-drop").addEventListener("click", drop);
  $("send").addEventListener("click", () => send({ errors: staged, whole: $("whole").checked }));
  $("good").addEventListener("click", () => send({ good: true }));
  $("skip").addEventListener("click", async () => {
    await skip(item, annotator());
    await advance();
  });
  for (const name of ["missing", "edit"]) {
    $(name).addEventListener("click", () => openForm(name, $(`${name}-form`).hidden));
    $(`${name}-form`).addEventListener("submit", (event) => {
      event.preventDefault();
      const text = $(`${name}-text`).value.trim();
      if (text) send({ [name]: text });
    });
  }
}

const annotator = () => $("annotator").value.trim();

/** Shows what is waiting, or this answer. */
export async function enter(id) {
  if (item && !id) focusFirstDoubt();
  else await advance(id);
}

async function advance(id) {
  item = null;
  try {
    item = await next(annotator(), id);
  } catch (problem) {
    show($("correct-problem"), problem.message);
  }
  staged = [];
  key = idempotencyKey();
  $("whole").checked = false;
  closeFix();
  ["missing", "edit"].forEach((name) => openForm(name, false));
  $("item").hidden = !item;
  $("correct-empty").hidden = Boolean(item);
  if (!item) return;
  Object.assign($("item-photo"), { src: item.photo.url, alt: "The photograph that the answer is about" });
  $("item-prompt").textContent = item.prompt;
  $("item-plain").hidden = !item.unassisted;
  $("edit-text").value = item.text;
  words.reset();
  words.show(item.parts.filter((part) => part.kind !== "gap"));
  showStaged();
  focusFirstDoubt();
}

/** Where the work most likely is. */
function focusFirstDoubt() {
  words.focus(Math.max(0, words.parts.findIndex((part) => part.span && part.span.action !== "regenerated")));
}

function openFix(parts, typed) {
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
  const added = place(item.text, parts, correction);
  // Unchanged is not wrong.
  if (added.correction !== added.text) staged = withPlace(staged, added);
  showStaged();
}

function showStaged() {
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

function openForm(name, wanted) {
  $(`${name}-form`).hidden = !wanted;
  $(name).setAttribute("aria-expanded", wanted);
  if (wanted) $(`${name}-text`).focus();
  else if (name === "missing") $("missing-text").value = "";
}

async function send(said) {
  if (busy || (said.errors && said.errors.length === 0)) return;
  busy = true;
  show($("correct-problem"), null);
  try {
    const body = submission(item, said, annotator());
    const response = await call("v1/feedback", { body, headers: { "idempotency-key": key } });
    const record = await response.json();
    $("records").prepend(recordItem(record));
    $("sent").hidden = false;
    close(item);
    await advance();
    $("correct-said").textContent = item ? "Recorded. Here is the next one." : "Recorded. Nothing else is waiting.";
    if (!item) $("correct-title").focus();
  } catch (problem) {
    const none = problem.status === 404 && problem.code === "unknown_url";
    show($("correct-problem"), none ? "This server takes no corrections." : problem.message);
  } finally {
    busy = false;
  }
}
