// The Watch page: what the server's own metrics say, every few seconds.
import { call } from "./api.js";
import { VERDICTS } from "./answer.js";
import { columns, line, stacked } from "./chart.js";
import { $, el, percent, show } from "./dom.js";
import { keep, rates } from "./history.js";
import { corrected, ranked, reliability } from "./judged.js";
import { buckets, by, parse, value } from "./prometheus.js";
import { remembered } from "./session.js";
import { standing } from "./words.js";

const EVERY_MS = 5000;
const DOUBTED = ["flagged", "repaired", "blocked"];
let timer = null;

export function startWatch() {
  document.addEventListener("visibilitychange", () => watch(!$("view-watch").hidden));
}

/** Begins or ends asking. */
export function watch(on) {
  clearInterval(timer);
  timer = null;
  if (!on || document.hidden) return;
  look();
  timer = setInterval(look, EVERY_MS);
}

async function look() {
  try {
    const samples = parse(await (await call("metrics")).text());
    show($("watch-problem"), null);
    draw(samples, await judgedToday(), await asked("v1/queue"));
  } catch (problem) {
    const elsewhere = problem.status === 404 ? "This server shows its metrics on another address (metrics.listen), not here." : problem.message;
    show($("watch-problem"), elsewhere);
  }
}

/** The newest records of the last day; `null` where the server keeps none. */
async function judgedToday() {
  const list = await asked("v1/feedback?limit=100");
  const yesterday = Date.now() / 1000 - 86_400;
  return list && list.data.filter(({ created }) => created > yesterday);
}

/** What the server answers; `null` where it has no such thing, or does not show it. */
const asked = (path) => call(path).then((response) => response.json()).catch(() => null);

function draw(samples, records, waiting) {
  const verdicts = by(samples, "candor_responses_total", "verdict");
  const of = (names) => names.reduce((sum, name) => sum + (verdicts[name] ?? 0), 0);
  const [scored, doubted] = [of(["clean", ...DOUBTED]), of(DOUBTED)];
  const now = { at: Math.floor(Date.now() / 1000), answers: scored, doubted, tokens: value(samples, "candor_scored_tokens_total") ?? 0 };
  const kept = keep(now);
  $("watch-span").textContent = `Counted since the server was started, ${scored} scored ${scored === 1 ? "answer" : "answers"} ago. Asked again every ${EVERY_MS / 1000} s.`;
  const cards = [
    doubtedAnswers(scored, doubted, value(samples, "candor_flagged_tokens_total") / (now.tokens || 1), kept),
    verdictsCard(verdicts),
    rewards(samples),
    objects(),
    work(samples, kept),
    people(samples),
    waiting && queue(waiting),
    agreement(samples),
    records && ranks("Most corrected", corrected(records), "in the last day."),
    records && calibration(records),
  ];
  $("cards").replaceChildren(...cards.filter(Boolean));
}

function card(title, big, ...more) {
  const headline = big === null ? null : el("p", { className: "big" }, big);
  return el("section", { className: "card", "aria-label": title }, el("h2", {}, title), headline, ...more);
}

const note = (text) => el("p", { className: "hint" }, text);
const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });

function doubtedAnswers(scored, doubted, tokens, kept) {
  if (scored === 0) return card("Answers with doubted words", "–", note("Nothing was scored yet."));
  const share = doubted / scored;
  const points = rates(kept);
  const chart = points.length > 1 ? line(points, `Between ${percent(Math.min(...points.map((p) => p.share)))} and ${percent(Math.max(...points.map((p) => p.share)))} since ${clock(points[0].at)}`, clock(points[0].at), "now") : note("The line begins with the next answers.");
  return card("Answers with doubted words", percent(share), note(`${doubted} of ${scored} scored answers; ${percent(tokens, 1)} of their tokens`), chart);
}

function verdictsCard(verdicts) {
  const pieces = Object.keys(VERDICTS).map((name) => ({ name: VERDICTS[name], count: verdicts[name] ?? 0, tone: name }));
  const said = pieces.filter((piece) => piece.count > 0).map(({ name, count }) => `${name} ${count}`).join(", ");
  if (!said) return null;
  const legend = pieces.filter((piece) => piece.count > 0).map(({ name, count, tone }) => el("li", { dataset: { verdict: tone } }, `${name} `, el("b", {}, count)));
  return card("Verdicts", null, stacked(pieces, said), el("ul", { className: "legend" }, ...legend));
}

function rewards(samples) {
  const all = buckets(samples, "candor_token_reward");
  const sum = all.reduce((sum, { count }) => sum + count, 0);
  if (sum === 0) return null;
  const tenths = all.filter(({ to }) => Number.isFinite(to)).map(({ to, count }) => ({ name: percent(to).replace("\u00a0%", ""), count, tone: to <= 0.3 ? "flagged" : "clean" }));
  const low = all.filter(({ to }) => to <= 0.3).reduce((sum, { count }) => sum + count, 0);
  return card("Rewards of tokens", percent(low / sum, 1), note("have a reward of 30 % or less. Columns: rewards up to so many percent."), columns(tenths, `${low} of ${sum} tokens at 30 % or less`));
}

function objects() {
  const doubted = (part) => part.kind === "word" && standing(part) === "doubted" && part.reward < 0.5;
  const words = remembered().flatMap(({ parts }) => parts.filter(doubted)).map(({ text }) => text.toLowerCase());
  return ranks("Most doubted words", ranked(words), "in the answers of this page.");
}

function ranks(title, most, where) {
  if (most.length === 0) return card(title, null, note(`None ${where}`));
  const rows = most.map(([word, count]) => el("li", {}, word, " ", el("b", {}, count)));
  return card(title, null, el("ol", { className: "ranks" }, ...rows), note(`Counted ${where}`));
}

function work(samples, kept) {
  const [running, waiting] = ["running", "waiting"].map((name) => value(samples, `candor_requests_${name}`) ?? 0);
  const fresh = kept.at(-1).answers - kept[0].answers;
  return card("At work", `${running}`, note(`being written, ${waiting} waiting. ${fresh} scored answers since ${clock(kept[0].at)}.`));
}

const SAID = { bad: "corrected", good: "all good", missing: "something missing" };

function people(samples) {
  if (!samples.has("candor_feedback_total")) return null;
  const labels = Object.entries(by(samples, "candor_feedback_total", "label"));
  const rows = labels.map(([label, count]) => el("li", {}, `${SAID[label] ?? label} `, el("b", {}, count)));
  const count = labels.reduce((sum, [, count]) => sum + count, 0);
  return card("Judgements of people", `${count}`, note("since the server was started"), el("ul", { className: "legend plain" }, ...rows));
}

function queue({ open, leased, done }) {
  return card("Annotation queue", `${open}`, note(`waiting, ${leased} of them being judged now; ${done} done.`));
}

function agreement(samples) {
  const { all, ...kinds } = by(samples, "candor_feedback_agreement_ratio", "kind");
  if (all === undefined) return null;
  const rows = Object.entries(kinds).map(([kind, alpha]) => el("li", {}, `${kind} `, el("b", {}, alpha.toFixed(2))));
  return card("Agreement of annotators", all.toFixed(2), note("Krippendorff’s alpha: 1 is perfect, 0 is chance."), el("ul", { className: "legend plain" }, ...rows));
}

function calibration(records) {
  const { bins, count, error } = reliability(records);
  if (count === 0) return card("Calibration of rewards", "–", note("No scored word was judged in the last day."));
  const share = ({ count, good }) => (count ? good / count : 0);
  const bars = bins.map((bin) => ({ name: `${Math.round(100 * bin.from)}–${Math.round(100 * bin.to)}`, count: share(bin), mark: bin.count ? bin.reward / bin.count : null }));
  const said = bins.filter(({ count }) => count > 0).map((bin) => `rewards from ${percent(bin.from)} to ${percent(bin.to)}: ${percent(share(bin))} of ${bin.count} right`);
  return card("Calibration of rewards", percent(error, 1), note(`mean distance between reward (line) and the share that people found right (column), ${count} tokens judged in the last day.`), columns(bars, said.join("; "), 1));
}
