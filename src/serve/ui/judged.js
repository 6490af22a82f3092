// What people's judgments say about the rewards.

const BINS = 5;

/** Rewards of judged tokens against how many people found right: `{bins: [{from, to, count, good}], count, error}`; the error is the expected calibration error. */
export function reliability(records) {
  const bins = Array.from({ length: BINS }, (_, i) => ({ from: i / BINS, to: (i + 1) / BINS, count: 0, good: 0, reward: 0 }));
  const judged = records.flatMap(({ tokens }) => tokens ?? []).filter(({ label, reward }) => label !== "none" && reward !== undefined);
  for (const { label, reward } of judged) {
    const bin = bins[Math.min(Math.floor(reward * BINS), BINS - 1)];
    bin.count += 1;
    bin.good += label === "good";
    bin.reward += reward;
  }
  const error = bins.reduce((sum, { count, good, reward }) => sum + (count ? Math.abs(good - reward) : 0), 0) / judged.length;
  return { bins, count: judged.length, error };
}

/** What was corrected most often: `[[text, times]]`. */
export function corrected(records) {
  return ranked(records.flatMap(({ errors }) => errors ?? []).map(({ text }) => text.toLowerCase()).filter(Boolean));
}

/** The most frequent of these texts. */
export function ranked(texts, most = 8) {
  const counts = new Map();
  texts.forEach((text) => counts.set(text, (counts.get(text) ?? 0) + 1));
  return [...counts].sort((a, b) => b[1] - a[1]).slice(0, most);
}
