// What the counters were, scrape by scrape for an hour, so that the page can say what is new. Kept in this tab.

const NAME = "candor.scrapes";
const MINUTE_S = 60;
const HOUR_S = 3600;

const read = () => {
  try {
    return JSON.parse(sessionStorage.getItem(NAME)) ?? [];
  } catch {
    return [];
  }
};

/** Adds a scrape `{at, text, answers, flagged}` and returns those of the last hour, this one at the end: all of the last two minutes, and one a minute before. */
export function keep(scrape) {
  let kept = read().filter(({ at }) => at > scrape.at - HOUR_S - MINUTE_S && at < scrape.at);
  // Counters that fell: the server was started anew, and what was before cannot be compared.
  if (kept.some((old) => old.answers > scrape.answers)) kept = [];
  const thinned = [];
  for (const old of kept) {
    if (old.at > scrape.at - 2 * MINUTE_S || !thinned.length || old.at - thinned.at(-1).at >= MINUTE_S) thinned.push(old);
  }
  const all = [...thinned, scrape];
  try {
    sessionStorage.setItem(NAME, JSON.stringify(all));
  } catch {
    // No room: the tab knows what it has seen until it is reloaded.
  }
  return all;
}

/** Where the last so many minutes begin among scrapes: the newest that is old enough, else the oldest. */
export function beginning(scrapes, minutes) {
  const from = scrapes.at(-1).at - minutes * MINUTE_S;
  return scrapes.findLast(({ at }) => at <= from) ?? scrapes[0];
}

/** Shares of answers with flagged words between one scrape and the next with answers in between: `[{at, share}]`. */
export function rates(scrapes) {
  const out = [];
  let from = scrapes[0];
  for (const scrape of scrapes.slice(1)) {
    const answers = scrape.answers - from.answers;
    if (answers < 1) continue;
    out.push({ at: scrape.at, share: (scrape.flagged - from.flagged) / answers });
    from = scrape;
  }
  return out;
}
