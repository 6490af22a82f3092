// What a person says about an answer, as `POST /v1/feedback` takes it.
import { lettersBetween } from "./words.js";

/**
 * The body of a record; `said` is one of `{good}`, `{errors, whole}`, `{edit}` and `{missing}`. Where the server has forgotten the answer
 * (`remembered` is false), the photograph and the texts go with it.
 */
export function submission(item, said, annotator, remembered) {
  const about = remembered ? { completion_id: item.id, choice: item.choice } : { image: item.photo.url, prompt: item.prompt, response: item.text };
  return { ...about, ...judgment(said), ...(annotator && { annotator }) };
}

function judgment({ good, errors, whole, edit, missing }) {
  if (good) return { label: "good" };
  if (edit !== undefined) return { label: "bad", edit };
  if (missing !== undefined) return { label: "bad", missing };
  const places = errors.toSorted((a, b) => a.start - b.start);
  // One error alone says nothing about what comes after it.
  if (places.length === 1 && !whole) return { label: "bad", error: places[0] };
  return { label: "bad", errors: places, scope: "all_errors" };
}

/** Words next to each other, and what should stand in their place; an empty text takes them out. */
export function place(text, parts, correction) {
  const [start, end] = [parts[0].start, parts.at(-1).end];
  const says = lettersBetween(text, start, end);
  const instead = correction.trim();
  return instead ? { start, end, text: says, correction: instead } : { start, end, text: says, remove: true };
}

/** The corrections with one more, which takes the place of those it overlaps. */
export function withPlace(places, added) {
  const others = places.filter((p) => p.end <= added.start || added.end <= p.start);
  return [...others, added].sort((a, b) => a.start - b.start);
}

/** A key that makes sure that a record which is sent twice is kept once. */
export function idempotencyKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
