// What this person has sent, and how far the queue has come.
import { may, mayRead } from "./access.js";
import { asked } from "./api.js";
import { $, el } from "./dom.js";
import { recordItem } from "./records.js";

const PAGE = 20;
/** Records of this page, newest first, and those that the server has under the annotator's name. */
let sent = [];
let listed = { data: [], has_more: false };
let name = "";
let takeBack = () => {};

export function startMine(undo) {
  takeBack = undo;
  $("mine-more").addEventListener("click", async () => {
    const page = await read(name, listed.last_id);
    if (page) listed = { ...page, data: [...listed.data, ...page.data] };
    list();
  });
}

/** Lists the records of this annotator, and those that were sent here without a name. */
export async function showMine(annotator) {
  name = annotator;
  const page = annotator && mayRead() ? await read(annotator) : null;
  // The name may have changed again meanwhile.
  if (name !== annotator) return;
  listed = page ?? { data: [], has_more: false };
  list();
}

function read(annotator, after) {
  const query = new URLSearchParams({ annotator, annotators: true, limit: PAGE, ...(after && { after }) });
  return asked(`v1/feedback?${query}`);
}

export function added(record) {
  sent = [record, ...sent];
  list();
}

export function removed({ id }) {
  sent = sent.filter((record) => record.id !== id);
  listed.data = listed.data.filter((record) => record.id !== id);
  list();
}

/** Elements of records that are there already stay, and with them what was opened and the focus. */
const shown = new Map();

function list() {
  const own = sent.filter(({ annotator }) => !annotator || annotator === name);
  const records = [...own, ...listed.data.filter(({ id }) => !own.some((record) => record.id === id))];
  const rows = records.map((record) => {
    if (!shown.has(record.id)) {
      const undo = el("button", { type: "button", "aria-label": `Take it back: ${record.response}`, onclick: () => takeBack(record) }, "Take it back");
      shown.set(record.id, recordItem(record, undo));
    }
    return shown.get(record.id);
  });
  $("records").replaceChildren(...rows);
  $("mine").hidden = rows.length === 0;
  $("mine-more").hidden = !listed.has_more;
}

/** Says how much of the server's queue is judged. */
export async function showProgress() {
  const queue = may("annotate") ? await asked("v1/queue") : null;
  $("progress").hidden = !queue;
  if (!queue) return;
  const { done, open } = queue;
  Object.assign($("progress-bar"), { max: Math.max(1, done + open), value: done });
  $("progress-text").textContent = `${done} ${done === 1 ? "answer" : "answers"} of this server judged, ${open} open`;
}
