// Records as the server keeps them: what was derived from a correction.
import { el, percent } from "./dom.js";

const KINDS = { good: "all good", bad: "corrected", missing: "something is missing" };
const LABELS = { good: "good", bad: "wrong", none: "not judged" };

/** What a record says: its kind, and the changes. */
export function describeRecord({ kind, errors = [], missing = [] }) {
  const changes = errors.map(({ text, correction }) => el("span", { className: "change" }, el("s", {}, text || "‸"), " → ", correction || "nothing"));
  const left = missing.map((text) => el("span", { className: "change" }, text));
  return el("span", {}, el("b", {}, KINDS[kind] ?? kind), " ", ...changes, ...left);
}

/** An item for the list of what was sent, with a button to take it back. */
export function recordItem(record, undo) {
  return el("li", {},
    el("p", { className: "hint" }, record.response),
    el("p", {}, describeRecord(record), " ", undo),
    el("details", {}, el("summary", {}, "The record"), tokens(record), el("pre", { tabIndex: 0, "aria-label": "The record as JSON" }, el("code", {}, JSON.stringify(record, null, 1)))),
  );
}

function tokens(record) {
  if (!record.tokens?.length) return null;
  const rows = record.tokens.map(({ text, label, reward }) =>
    el("tr", { dataset: { label } }, el("th", { scope: "row" }, text.trim() || "␣"), el("td", {}, LABELS[label] ?? label), el("td", {}, reward === undefined ? "–" : percent(reward))));
  const head = el("tr", {}, ...["token", "label", "reward"].map((name) => el("th", { scope: "col" }, name)));
  return el("table", {}, el("caption", { className: "unseen" }, "Tokens and their labels"), el("thead", {}, head), el("tbody", {}, ...rows));
}
