// What the counters were, minute by minute for a day, so that the page can say what is new. Kept in this browser.

const NAME = "candor.history";
const DAY_S = 86_400;
const EVERY_S = 60;

const read = () => {
  try {
    return JSON.parse(localStorage.getItem(NAME)) ?? [];
  } catch {
    return [];
  }
};

/** Adds a sample `{at, …counters}` and returns those of the last day, this one at the end. */
export function keep(sample) {
  let kept = read().filter(({ at }) => at > sample.at - DAY_S && at <= sample.at);
  // Counters that fell: the server was started anew, and what was before cannot be compared.
  if (kept.some((old) => old.answers > sample.answers || old.tokens > sample.tokens)) kept = [];
  if (!kept.length || sample.at - kept.at(-1).at >= EVERY_S) {
    localStorage.setItem(NAME, JSON.stringify([...kept, sample]));
  }
  return [...kept, sample];
}

/** Shares of answers that were doubted between one sample and the next with at least `least` answers between them: `[{at, share}]`. */
export function rates(samples, least = 1) {
  const out = [];
  let from = samples[0];
  for (const sample of samples.slice(1)) {
    const answers = sample.answers - from.answers;
    if (answers < least) continue;
    out.push({ at: sample.at, share: (sample.doubted - from.doubted) / answers });
    from = sample;
  }
  return out;
}
