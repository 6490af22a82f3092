// The Correct page: one item at a time, from word to word, and on to the next.
import { call } from "./api.js";
import { idempotencyKey, submission } from "./corrections.js";
import { $, show } from "./dom.js";
import { corrections, focusFirstFlagged, showWords, startFix } from "./fix.js";
import { added, removed, showMine, showProgress, startMine } from "./mine.js";
import { current, following, goTo, hasPrevious, itemOfRecord, nextOpen, previous, show as showAgain, skip } from "./queue.js";
import { describeRecord } from "./records.js";
import { update } from "./session.js";

const NAME = "candor.annotator";

let item = null;
let key = null;
let busy = false;

export function startCorrect() {
  $("annotator").value = localStorage.getItem(NAME) ?? "";
  $("annotator").addEventListener("change", () => {
    localStorage.setItem(NAME, annotator());
    showMine(annotator());
    if (!item) go(() => nextOpen(annotator()));
  });
  startFix(() => send(corrections()));
  startMine(takeBack);
  $("previous").addEventListener("click", () => go(previous));
  $("next").addEventListener("click", () => go(() => following(annotator())));
  $("take-back").addEventListener("click", () => takeBack(item.record));
  $("send").addEventListener("click", () => send(corrections()));
  $("good").addEventListener("click", () => send({ good: true }));
  $("skip").addEventListener("click", () => go(async () => {
    await skip(item, annotator());
    await nextOpen(annotator());
  }));
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
  showMine(annotator());
  if (item && !id) focusFirstFlagged();
  else await go(() => (id ? goTo(id) : nextOpen(annotator())));
}

/** Goes to another item; what was said about the one before is no longer of interest. */
async function go(move, said = "") {
  if (busy) return;
  busy = true;
  show($("correct-problem"), null);
  $("correct-said").textContent = said;
  try {
    await move();
  } catch (problem) {
    show($("correct-problem"), problem.message);
  } finally {
    busy = false;
  }
  showItem();
  showProgress();
}

function showItem() {
  item = current();
  key = idempotencyKey();
  ["missing", "edit"].forEach((name) => openForm(name, false));
  $("item").hidden = !item;
  $("correct-empty").hidden = Boolean(item);
  $("previous").disabled = !hasPrevious();
  $("next").disabled = !item;
  if (!item) return;
  Object.assign($("item-photo"), { src: item.photo.url, alt: "The photograph that the answer is about" });
  $("item-prompt").textContent = item.prompt;
  $("item-plain").hidden = !item.unassisted;
  $("item-judged").hidden = !item.record;
  $("item-judged-text").replaceChildren(...(item.record ? ["You sent: ", describeRecord(item.record)] : []));
  $("judge").hidden = Boolean(item.record);
  $("edit-text").value = item.text;
  showWords(item);
  focusFirstFlagged();
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
    item.record = await submit(said);
    update(item);
    added(item.record);
  } catch (problem) {
    const none = problem.status === 404 && ["unknown_url", "feedback_disabled"].includes(problem.code);
    show($("correct-problem"), none ? "This server does not accept corrections." : problem.message);
    return;
  } finally {
    busy = false;
  }
  await go(() => nextOpen(annotator()), "Recorded.");
  $("correct-said").textContent = item ? "Recorded. Here is the next one." : "Recorded. Nothing else is waiting.";
  if (!item) $("correct-title").focus();
}

async function submit(said) {
  const post = async (remembered) => {
    const body = submission(item, said, annotator(), remembered);
    return (await call("v1/feedback", { body, headers: { "idempotency-key": key } })).json();
  };
  try {
    return await post(true);
  } catch (problem) {
    if (problem.code !== "completion_not_found") throw problem;
    return post(false);
  }
}

/** Deletes a record; the answer that it is about comes back with what was corrected in it, where this page has it. */
async function takeBack(record) {
  if (busy) return;
  busy = true;
  try {
    await call(`v1/feedback/${encodeURIComponent(record.id)}`, { method: "DELETE" });
  } catch (problem) {
    // Gone is what was wanted.
    if (problem.code !== "feedback_not_found") {
      show($("correct-problem"), problem.message);
      return;
    }
  } finally {
    busy = false;
  }
  removed(record);
  const about = itemOfRecord(record.id);
  if (about) {
    delete about.record;
    update(about);
  }
  // Where this page has not seen it, it may wait in the server's queue again.
  await go(() => (about ? showAgain(about) : item || nextOpen(annotator())), about ? "Taken back. Here is the answer again." : "Taken back.");
  if (!about) $("mine-title").focus();
}
