// The server's series that the page reads, and figures from them. Names of metrics and labels stand here and nowhere else on the page.
import { buckets, by, value } from "./prometheus.js";

export const NAMES = {
  answers: "candor_responses_total",
  scoredTokens: "candor_scored_tokens_total",
  flaggedTokens: "candor_flagged_tokens_total",
  rewards: "candor_token_reward",
  firstText: "candor_time_to_first_token_seconds",
  wholeAnswer: "candor_e2e_request_latency_seconds",
  failures: "candor_request_failure_total",
  http: "candor_http_requests_total",
  judgments: "candor_feedback_total",
};
/** Of these the newest value counts, over whichever time. */
export const GAUGES = {
  running: "candor_requests_running",
  waiting: "candor_requests_waiting",
  agreement: "candor_feedback_agreement_ratio",
  started: "process_start_time_seconds",
};
const LABELS = { answers: "verdict", failures: "reason", judgments: "label", agreement: "kind", route: "route", status: "status" };
const WITH_FLAGS = ["flagged", "repaired", "blocked"];

export const isRead = (name) => [...Object.values(NAMES), ...Object.values(GAUGES)].includes(name.replace(/_(bucket|sum|count)$/, ""));

/** `{answers, flagged, verdicts}`: answers that were checked, those of them with flagged words, and all by verdict. */
export function answers(samples) {
  const verdicts = by(samples, NAMES.answers, LABELS.answers);
  const of = (names) => names.reduce((sum, name) => sum + (verdicts[name] ?? 0), 0);
  return { verdicts, answers: of(["clean", "abstained", ...WITH_FLAGS]), flagged: of(WITH_FLAGS) };
}

/** Requests to the API: `{all, refused, failed, reasons}`. */
export function errors(samples) {
  const api = (samples.get(NAMES.http) ?? []).filter(({ labels }) => labels[LABELS.route]?.startsWith("/v1/"));
  const count = (from, to) => api.filter(({ labels }) => Number(labels[LABELS.status]) >= from && Number(labels[LABELS.status]) < to).reduce((sum, { value }) => sum + value, 0);
  const reasons = Object.entries(by(samples, NAMES.failures, LABELS.failures)).filter(([, count]) => count > 0);
  return { all: count(100, 600), refused: count(400, 500), failed: count(500, 600), reasons };
}

export const judgments = (samples) => by(samples, NAMES.judgments, LABELS.judgments);
export const agreement = (samples) => by(samples, GAUGES.agreement, LABELS.agreement);
export const flaggedTokenShare = (samples) => (value(samples, NAMES.flaggedTokens) ?? 0) / Math.max(1, value(samples, NAMES.scoredTokens) ?? 0);
export const rewards = (samples) => buckets(samples, NAMES.rewards);

/** The time in which this share of answers had come: `{count, median, most}` in seconds. */
export function latency(samples, name) {
  const all = buckets(samples, name);
  const count = all.reduce((sum, { count }) => sum + count, 0);
  return { count, median: quantile(all, 0.5), most: quantile(all, 0.95) };
}

/** Read off between the bounds of a histogram's bucket. */
function quantile(all, share) {
  let left = share * all.reduce((sum, { count }) => sum + count, 0);
  let from = 0;
  for (const { to, count } of all) {
    if (count > 0 && left <= count) return Number.isFinite(to) ? from + (to - from) * (left / count) : from;
    left -= count;
    if (Number.isFinite(to)) from = to;
  }
  return from;
}
