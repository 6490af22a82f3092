// The numbers behind one word: reward, likelihood, what else the model had in mind, what was tried in its place.
import { el, percent } from "./dom.js";
import { instead, likelihood, standing } from "./words.js";

const SAID = { doubted: "doubted", repaired: "written again" };

/** Fills the panel; `threshold` is the one in force, where one is. */
export function describeWord(panel, part, threshold) {
  const { text, kind, reward, tokens, span } = part;
  const stands = standing(part);
  const word = kind === "gap" ? el("s", {}, span.original) : text;
  panel.replaceChildren(
    el("p", { className: "word-head" }, el("b", {}, word), stands && el("span", { className: "verdict", dataset: { verdict: stands } }, SAID[stands])),
    el("div", { className: "word-body" }, measures(reward, threshold, tokens, part, kind), others(part), tries(span)),
  );
  panel.hidden = false;
}

function measures(reward, threshold, tokens, part, kind) {
  const rows = [];
  if (reward !== undefined) {
    const against = threshold === undefined ? "" : reward < threshold ? ` under ${percent(threshold)}` : ` over ${percent(threshold)}`;
    rows.push(row("reward", percent(reward) + against, reward, threshold));
  }
  if (tokens.length > 0) {
    const chance = likelihood(part);
    rows.push(row("likelihood", percent(chance), chance));
    if (tokens.length > 1) rows.push(el("li", { className: "hint" }, `tokens: ${tokens.map((t) => t.text.trim()).join(" · ")}`));
  }
  if (rows.length === 0) rows.push(el("li", { className: "hint" }, kind === "gap" ? "Nothing stands here any more." : "Nobody looked at this word."));
  return el("div", {}, el("h3", {}, "This word"), el("ul", { className: "bars" }, ...rows));
}

function others(part) {
  const words = instead(part);
  if (words.length === 0) return null;
  const rows = words.map(({ text, probability }) => row(text, percent(probability), probability));
  return el("div", {}, el("h3", {}, "Also in mind"), el("ul", { className: "bars" }, ...rows));
}

function tries(span) {
  if (!span?.original && !span?.alternatives?.length) return null;
  const tried = (span.alternatives ?? []).slice(0, 6);
  const rows = tried.map(({ text, score }) => row(text, score === undefined ? "claims nothing" : percent(score), score ?? 0));
  const was = span.original && el("p", { className: "hint" }, "It first wrote ", el("s", {}, span.original), ".");
  return el("div", {}, el("h3", {}, "Tried here"), was, el("ul", { className: "bars" }, ...rows));
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
