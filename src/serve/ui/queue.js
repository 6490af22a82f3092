// What is waiting to be corrected: the answers of this page first, then what the server's queue leases to this annotator.
import { call } from "./api.js";
import { codePoints, lettersBetween } from "./words.js";
import { remembered } from "./session.js";

/** Answers of this page that were judged or skipped. What the queue leases is closed by the server. */
const done = new Set();
const nameOf = ({ id, choice }) => `${id}/${choice}`;

/** The next item, or this answer of the page; `null` when nothing is waiting. */
export async function next(annotator, id) {
  const waiting = remembered().filter((item) => !done.has(nameOf(item)));
  return (id && remembered().find((item) => item.id === id)) ?? waiting[0] ?? (annotator ? await lease(annotator) : null);
}

/** This one is judged. */
export function close(item) {
  if (!item.lease) done.add(nameOf(item));
}

/** This one is for others to judge. */
export async function skip(item, annotator) {
  close(item);
  if (item.lease) await call(`v1/queue/${encodeURIComponent(item.lease)}/skip`, { body: { annotator } }).catch(() => {});
}

async function lease(annotator) {
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
  return { id: completion_id, choice, lease: id, photo: { url: image }, prompt: prompt || "Describe this photograph.", text: response, parts, suggestions, unassisted };
}
