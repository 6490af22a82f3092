// The items that a person goes through, in the order seen: the answers of this browser first, then what the server's queue leases to this annotator.
import { DESCRIBE } from "./ask.js";
import { may } from "./access.js";
import { call } from "./api.js";
import { remembered, update } from "./session.js";
import { codePoints, lettersBetween } from "./words.js";

/** Most items of the queue that are passed over in one go because they were seen here. */
const MOST_PASSED = 20;
const seen = [];
/** Where the person is in `seen`; behind its end where nothing is waiting. */
let at = 0;

export const current = () => seen[at] ?? null;
export const hasPrevious = () => at > 0;

const isOpen = (item) => !item.record && !item.skipped;
const bytes = ({ url }) => url.slice(url.indexOf(",") + 1);
/** The same photograph, question and answer are one item, whoever asked and whichever way. */
const same = (a, b) => a === b || (a.text === b.text && a.prompt === b.prompt && bytes(a.photo) === bytes(b.photo));

/** The item seen before. */
export function previous() {
  at = Math.max(0, at - 1);
}

/** The item after this one, judged or not; at the end a new one. */
export async function following(annotator) {
  at = Math.min(at + 1, seen.length);
  if (at === seen.length) await extend(annotator);
}

/** The next item that nobody here judged or skipped: after this one, a new one, or before. */
export async function nextOpen(annotator) {
  const ahead = seen.findIndex((item, i) => i >= at && isOpen(item));
  if (ahead >= 0) return void (at = ahead);
  at = seen.length;
  if (await extend(annotator)) return;
  const behind = seen.findIndex(isOpen);
  if (behind >= 0) at = behind;
}

/** This answer of the page. */
export function goTo(id) {
  const wanted = remembered().find((item) => item.id === id);
  if (!wanted) return;
  const there = seen.findIndex((item) => same(item, wanted));
  at = there >= 0 ? there : seen.push(wanted) - 1;
}

/** The item that a record is about, where it was seen here. */
export const itemOfRecord = (id) => [...seen, ...remembered()].find((item) => item.record?.id === id);

/** Goes to this item. */
export function show(item) {
  at = seen.includes(item) ? seen.indexOf(item) : seen.push(item) - 1;
}

/** This one is for others to judge. */
export async function skip(item, annotator) {
  item.skipped = true;
  update(item);
  await leave(item, annotator);
}

/** Adds an item that was not seen yet. */
async function extend(annotator) {
  const item = ownItem() ?? (annotator && may("annotate") ? await lease(annotator) : null);
  if (item) seen.push(item);
  return item;
}

/** One of this browser; of those that are the same, one that was checked. */
function ownItem() {
  const judged = remembered().filter((item) => !isOpen(item));
  const waiting = remembered().filter((item) => ![...seen, ...judged].some((other) => same(other, item)));
  return waiting.find(({ guard }) => guard.verdict !== "unscored") ?? waiting[0];
}

const leave = ({ lease }, annotator) => lease && call(`v1/queue/${encodeURIComponent(lease)}/skip`, { body: { annotator } }).catch(() => {});

async function lease(annotator) {
  for (let passed = 0; passed < MOST_PASSED; passed++) {
    const item = await leased(annotator);
    const twin = item && [...seen, ...remembered()].find((other) => same(other, item));
    if (!twin) return item;
    // The queue offers again what this person has and neither judged nor left.
    if (twin.lease === item.lease && isOpen(twin)) return null;
    await leave(item, annotator);
  }
  return null;
}

async function leased(annotator) {
  try {
    const response = await call("v1/queue/next", { body: { annotator } });
    return response.status === 204 ? null : itemOf(await response.json());
  } catch (problem) {
    // A server without corrections has nothing waiting.
    if (problem.status === 404) return null;
    throw problem;
  }
}

/** An item of the queue in the shape of the page's own. Those that are to be judged without help come without rewards and spans. */
function itemOf({ id, completion_id, choice, image, prompt, response, words, spans, unassisted }) {
  const parts = [];
  let at = 0;
  const between = (to) => {
    if (to > at) parts.push({ kind: "between", text: lettersBetween(response, at, to), start: at, end: to });
    at = to;
  };
  for (const { start, end, text, reward } of words) {
    between(start);
    const span = spans.find((span) => span.start < end && start < span.end);
    parts.push({ kind: "word", text, start, end, reward, span, tokens: [] });
    at = end;
  }
  between(codePoints(response));
  const suggestions = ({ span }) => [span?.original, ...(span?.alternatives ?? []).map(({ text }) => text)].filter(Boolean).slice(0, 6);
  return { id: completion_id, choice, lease: id, photo: { url: image }, prompt: prompt || DESCRIBE, text: response, parts, suggestions, unassisted };
}
