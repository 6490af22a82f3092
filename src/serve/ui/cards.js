// The cards of the Watch page.
import { VERDICTS } from "./answer.js";
import { columns, line, stacked } from "./chart.js";
import { el, percent } from "./dom.js";
import { rates } from "./history.js";
import { corrected, ranked, reliability } from "./judged.js";
import { agreement, answers, errors, flaggedTokenShare, GAUGES, judgments, latency, NAMES, rewards } from "./metrics.js";
import { value } from "./prometheus.js";
import { remembered } from "./session.js";
import { standing } from "./words.js";

/** All that there is to show. `samples` are of the chosen time, `scrapes` its course; `records` and `waiting` are `null` where the server has none. */
export function cards({ samples, scrapes, records, waiting, threshold }) {
  return [
    flaggedCard(samples, scrapes),
    verdictsCard(samples),
    rewardsCard(samples, threshold),
    latencyCard(samples),
    errorsCard(samples),
    workCard(samples),
    wordsCard(),
    judgmentsCard(samples),
    waiting && queueCard(waiting),
    agreementCard(samples),
    records && ranks("Most corrected", corrected(records), "in the last day."),
    records && calibrationCard(records),
  ].filter(Boolean);
}

function card(title, big, ...more) {
  const headline = big === null ? null : el("p", { className: "big" }, big);
  return el("section", { className: "card", "aria-label": title }, el("h2", {}, title), headline, ...more);
}

const note = (text) => el("p", { className: "hint" }, text);
const clock = (at) => new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
const list = (...rows) => el("ul", { className: "legend plain" }, ...rows.map(([name, value]) => el("li", {}, `${name} `, el("b", {}, value))));

function flaggedCard(samples, scrapes) {
  const { answers: checked, flagged } = answers(samples);
  const title = "Answers with flagged words";
  if (checked === 0) return card(title, "–", note("No answer was checked in this time."));
  const points = rates(scrapes);
  const shares = points.map(({ share }) => share);
  const chart = points.length > 1
    ? line(points, `Between ${percent(Math.min(...shares))} and ${percent(Math.max(...shares))} since ${clock(points[0].at)}`, clock(points[0].at), "now")
    : note("The line starts with the next answers.");
  return card(title, percent(flagged / checked), note(`${flagged} of ${checked} checked answers; ${percent(flaggedTokenShare(samples), 1)} of their tokens`), chart);
}

function verdictsCard(samples) {
  const { verdicts } = answers(samples);
  const pieces = Object.keys(VERDICTS).map((name) => ({ name: VERDICTS[name], count: verdicts[name] ?? 0, tone: name }));
  const there = pieces.filter((piece) => piece.count > 0);
  if (there.length === 0) return null;
  const legend = there.map(({ name, count, tone }) => el("li", { dataset: { verdict: tone } }, `${name} `, el("b", {}, count)));
  return card("Verdicts", null, stacked(pieces, there.map(({ name, count }) => `${name} ${count}`).join(", ")), el("ul", { className: "legend" }, ...legend));
}

function rewardsCard(samples, threshold) {
  const all = rewards(samples).filter(({ to }) => Number.isFinite(to));
  const sum = all.reduce((sum, { count }) => sum + count, 0);
  if (sum === 0) return null;
  const bounds = all.map(({ to }) => to);
  const edge = threshold === undefined ? undefined : bounds.findLast((to) => to <= threshold);
  const tone = (to, i) => (threshold === undefined || (bounds[i - 1] ?? 0) >= threshold ? "clean" : to <= threshold ? "flagged" : "partly");
  const bars = all.map(({ to, count }, i) => ({ name: percent(to).replace("\u00a0%", ""), count, tone: tone(to, i) }));
  if (edge === undefined) return card("Rewards of tokens", null, note("Columns: rewards up to each percentage."), columns(bars, `${sum} tokens`));
  const low = all.filter(({ to }) => to <= edge).reduce((sum, { count }) => sum + count, 0);
  const said = `have a reward of ${percent(edge)} or less. Columns: rewards up to each percentage; amber: below the served threshold of ${percent(threshold)}.`;
  return card("Rewards of tokens", percent(low / sum, 1), note(said), columns(bars, `${low} of ${sum} tokens at ${percent(edge)} or less`));
}

const seconds = (s) => (s < 1 ? `${Math.round(1000 * s)}\u00a0ms` : `${s.toFixed(1)}\u00a0s`);

function latencyCard(samples) {
  const [first, whole] = [NAMES.firstText, NAMES.wholeAnswer].map((name) => latency(samples, name));
  if (whole.count === 0) return card("Latency", "–", note("No answer was completed in this time."));
  return card("Latency", seconds(whole.median), note(`until half of the ${whole.count} answers were complete; read off the histograms’ bounds.`),
    list(["95 of 100 complete in", seconds(whole.most)], ["first words, half in", seconds(first.median)], ["95 of 100 in", seconds(first.most)]));
}

function errorsCard(samples) {
  const { all, refused, failed, reasons } = errors(samples);
  return card("Errors", `${failed}`, note(`of ${all} requests to the API failed (5xx); ${refused} were refused (4xx).`), reasons.length ? list(...reasons) : null);
}

function workCard(samples) {
  const [running, waiting] = [GAUGES.running, GAUGES.waiting].map((name) => value(samples, name) ?? 0);
  return card("At work now", `${running}`, note(`being written, ${waiting} waiting.`));
}

function wordsCard() {
  const flagged = (part) => part.kind === "word" && standing(part) === "flagged";
  const words = remembered().flatMap(({ parts }) => parts.filter(flagged)).map(({ text }) => text.toLowerCase());
  return ranks("Most flagged words", ranked(words), "in the answers of this browser, of the last day.");
}

function ranks(title, most, where) {
  if (most.length === 0) return card(title, null, note(`None ${where}`));
  const rows = most.map(([word, count]) => el("li", {}, word, " ", el("b", {}, count)));
  return card(title, null, el("ol", { className: "ranks" }, ...rows), note(`Counted ${where}`));
}

const JUDGED = { bad: "corrected", good: "all good", missing: "something missing" };

function judgmentsCard(samples) {
  const labels = Object.entries(judgments(samples));
  if (labels.length === 0) return null;
  const count = labels.reduce((sum, [, count]) => sum + count, 0);
  return card("Human judgments", `${count}`, note("sent, including those withdrawn later."), list(...labels.map(([label, count]) => [JUDGED[label] ?? label, count])));
}

function queueCard({ open, leased, done }) {
  return card("Annotation queue", `${open}`, note(`waiting, ${leased} of them being judged now; ${done} done.`));
}

function agreementCard(samples) {
  const { all, ...kinds } = agreement(samples);
  if (all === undefined) return null;
  return card("Agreement of annotators", all.toFixed(2), note("Krippendorff’s alpha: 1 is perfect, 0 is chance."), list(...Object.entries(kinds).map(([kind, alpha]) => [kind, alpha.toFixed(2)])));
}

function calibrationCard(records) {
  const { bins, count, error } = reliability(records);
  if (count === 0) return card("Calibration of rewards", "–", note("No scored word was judged in the last day."));
  const share = ({ count, good }) => (count ? good / count : 0);
  const bars = bins.map((bin) => ({ name: `${Math.round(100 * bin.from)}–${Math.round(100 * bin.to)}`, count: share(bin), mark: bin.count ? bin.reward / bin.count : null }));
  const said = bins.filter(({ count }) => count > 0).map((bin) => `rewards from ${percent(bin.from)} to ${percent(bin.to)}: ${percent(share(bin))} of ${bin.count} right`);
  return card("Calibration of rewards", percent(error, 1), note(`mean distance between reward (line) and the share that people found right (column), ${count} tokens judged in the last day.`), columns(bars, said.join("; "), 1));
}
