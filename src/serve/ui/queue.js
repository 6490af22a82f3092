// What is waiting to be corrected: the answers of this page first, then the server's queue.
import { remembered } from "./session.js";

const done = new Set();
const nameOf = ({ id, choice }) => `${id}/${choice}`;

/** The next item, or the answer of this id; `null` when nothing is waiting. */
export async function next(annotator, id) {
  const waiting = remembered().filter((item) => !done.has(nameOf(item)));
  return (id && remembered().find((item) => item.id === id)) ?? waiting[0] ?? null;
}

/** Not this one again. */
export const skip = (item) => done.add(nameOf(item));
