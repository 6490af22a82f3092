// Prometheus' text format, as far as Candor writes it.

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Samples by name: `[{labels, value}]`. */
export function parse(text) {
  const samples = new Map();
  for (const line of text.split("\n")) {
    const [, name, labels = "", value] = LINE.exec(line) ?? [];
    if (name === undefined) continue;
    const sample = { labels: Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, said]) => [key, said])), value: Number(value) };
    samples.set(name, [...(samples.get(name) ?? []), sample]);
  }
  return samples;
}

/** The value of a metric without labels, or of the first of its kind. */
export const value = (samples, name) => samples.get(name)?.[0]?.value;

/** The values of a metric by one of its labels. */
export function by(samples, name, label) {
  return Object.fromEntries((samples.get(name) ?? []).map(({ labels, value }) => [labels[label], value]));
}

/** A histogram's buckets, each for itself: `[{to, count}]`. */
export function buckets(samples, name) {
  let before = 0;
  return (samples.get(`${name}_bucket`) ?? [])
    .map(({ labels, value }) => ({ to: Number(labels.le.replace("+Inf", "Infinity")), value }))
    .sort((a, b) => a.to - b.to)
    .map(({ to, value }) => {
      const count = value - before;
      before = value;
      return { to, count };
    });
}

/** What was added to counters and histograms from one time to another; what `isGauge` names stays as it is now. */
export function difference(now, then, isGauge) {
  const key = ({ labels }) => JSON.stringify(labels);
  return new Map([...now].map(([name, samples]) => {
    if (isGauge(name)) return [name, samples];
    const before = new Map((then.get(name) ?? []).map((sample) => [key(sample), sample.value]));
    return [name, samples.map((sample) => ({ ...sample, value: sample.value - (before.get(key(sample)) ?? 0) }))];
  }));
}
