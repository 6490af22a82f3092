// The numbers behind one word: its reward, how sure the model was of it, which others it considered, what was tried in its place.
import { el, percent } from "./dom.js";
import { certainty, instead, standing } from "./words.js";

/** Fills the panel; `threshold` is the one in force, where one is. */
export function describeWord(panel, part, threshold) {
  const { text, kind, reward, tokens, span } = part;
  const stands = standing(part);
  const word = kind === "gap" ? el("s", {}, span.original) : text;
  panel.replaceChildren(
    el("p", { className: "word-head" }, el("b", {}, word), stands && el("span", { className: "verdict", dataset: { verdict: stands } }, stands)),
    el("div", { className: "word-body" }, measures(reward, threshold, tokens, part, kind), others(part), tries(span)),
  );
  panel.hidden = false;
}

function measures(reward, threshold, tokens, part, kind) {
  const rows = [];
  if (reward !== undefined) {
    const against = threshold === undefined ? "" : reward < threshold ? `, below ${percent(threshold)}` : `, not below ${percent(threshold)}`;
    rows.push(row("Reward: how well the photograph supports it", percent(reward) + against, reward, threshold));
  }
  if (tokens.length > 0) {
    const sure = certainty(part);
    rows.push(row("How sure the model was of this word", percent(sure), sure));
    if (tokens.length > 1) rows.push(el("li", { className: "hint" }, `Its tokens: ${tokens.map((t) => t.text.trim()).join(" · ")}`));
  }
  if (rows.length === 0) rows.push(el("li", { className: "hint" }, kind === "gap" ? "This word was removed." : "This word was not checked."));
  return el("div", {}, el("h3", {}, "This word"), el("ul", { className: "bars" }, ...rows));
}

function others(part) {
  const words = instead(part);
  if (words.length === 0) return null;
  const rows = words.map(({ text, probability }) => row(text, percent(probability), probability));
  return el("div", {}, el("h3", {}, "Other words the model considered"), el("ul", { className: "bars" }, ...rows));
}

function tries(span) {
  if (!span?.original && !span?.alternatives?.length) return null;
  const tried = (span.alternatives ?? []).slice(0, 6);
  const rows = tried.map(({ text, score }) => row(text, score === undefined ? "makes no claim" : percent(score), score ?? 0));
  const was = span.original && el("p", { className: "hint" }, "It first wrote ", el("s", {}, span.original), ".");
  return el("div", {}, el("h3", {}, "Words tried in its place, by score"), was, el("ul", { className: "bars" }, ...rows));
}

function row(name, value, share, mark) {
  const bar = el("span", { className: "bar", "aria-hidden": "true" }, el("i"));
  bar.style.setProperty("--share", Math.min(Math.max(share, 0), 1));
  if (mark !== undefined) {
    bar.classList.add("marked");
    bar.style.setProperty("--mark", mark);
  }
  return el("li", {}, el("span", { className: "name" }, name), bar, el("span", { className: "value" }, value));
}
