// The answers of the last day in this browser, newest first. They survive a reload; a key is never among them.
import { dropAnswers, storeAnswer, storedAnswers } from "./storage.js";

const MOST = 20;
/** Until then what was kept is shown again; after that it is removed when the page is opened. */
export const KEPT_MS = 86_400_000;
let answers = [];

/** `{id, choice, asked, mode, photo, prompt, text, parts, guard, took}`; and `record` once it was judged, `skipped` once it was left to others. */
export const remembered = () => answers;

/** Reads what was kept. */
export async function restore() {
  const stored = (await storedAnswers()).sort((a, b) => b.asked - a.asked);
  const fresh = stored.filter(({ asked }) => asked > Date.now() - KEPT_MS).slice(0, MOST);
  dropAnswers(stored.filter((answer) => !fresh.includes(answer)).map(({ id }) => id));
  answers = fresh;
}

/** Adds a new answer; the oldest gives way. */
export function remember(answer) {
  answers = [answer, ...answers];
  storeAnswer(answer);
  dropAnswers(answers.splice(MOST).map(({ id }) => id));
}

/** Keeps what became of an answer, where it is one of these. */
export function update(answer) {
  if (answers.includes(answer)) storeAnswer(answer);
}
