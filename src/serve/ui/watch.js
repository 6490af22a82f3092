// The Watch page: what the server's own metrics say, every few seconds, over a time of one's choice.
import { may, mayRead } from "./access.js";
import { asked, call, hasKey } from "./api.js";
import { cards } from "./cards.js";
import { $, show } from "./dom.js";
import { beginning, keep } from "./history.js";
import { answers, GAUGES, isRead } from "./metrics.js";
import { difference, parse, value } from "./prometheus.js";

const EVERY_MS = 5000;
let timer = null;
/** What the server says of itself, once it has. */
let about = null;

export function startWatch(asked) {
  asked.then((said) => (about = said));
  document.addEventListener("visibilitychange", () => watch(!$("view-watch").hidden));
  $("range").addEventListener("change", look);
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
    const text = await (await call("metrics")).text();
    show($("watch-problem"), null);
    // Without the key that is needed, asking would only add to the errors.
    const known = !about?.keys || hasKey();
    const [records, waiting] = [known && mayRead() ? await judgedToday() : null, known && may("annotate") ? await asked("v1/queue") : null];
    draw(text.split("\n").filter((line) => isRead(/^\w*/.exec(line)[0])).join("\n"), records, waiting);
  } catch (problem) {
    const elsewhere = problem.status === 404 ? "This server shows its metrics on another address (server.operations_listen), not here." : problem.message;
    show($("watch-problem"), elsewhere);
    // Another key is asked for anew.
    if (problem.status === 403) clearInterval(timer);
  }
}

/** The newest records of the last day; `null` where the server keeps none. */
async function judgedToday() {
  const list = await asked("v1/feedback?limit=100");
  const yesterday = Date.now() / 1000 - 86_400;
  return list && list.data.filter(({ created }) => created > yesterday);
}

function draw(text, records, waiting) {
  const now = parse(text);
  const scrapes = keep({ at: Math.floor(Date.now() / 1000), text, ...answers(now) });
  const minutes = Number($("range").value);
  const from = minutes ? beginning(scrapes, minutes) : null;
  const samples = from ? difference(now, parse(from.text), (name) => Object.values(GAUGES).includes(name)) : now;
  $("watch-span").textContent = span(samples, from);
  const shown = from ? scrapes.filter(({ at }) => at >= from.at) : scrapes;
  $("cards").replaceChildren(...cards({ samples, scrapes: shown, records, waiting, threshold: about?.threshold }));
}

const time = (at, options) => new Date(at * 1000).toLocaleString([], options);
const CLOCK = { hour: "2-digit", minute: "2-digit", second: "2-digit" };

/** Over which time and traffic the figures are. */
function span(samples, from) {
  const { answers: checked, verdicts } = answers(samples);
  const all = Object.values(verdicts).reduce((sum, count) => sum + count, 0);
  const traffic = `${all} ${all === 1 ? "answer" : "answers"} of all clients, ${checked} of them checked`;
  const started = value(samples, GAUGES.started);
  const since = from ? `since ${time(from.at, CLOCK)}, as far as this tab has watched` : `since the server was started${started ? `, ${time(started, { dateStyle: "medium", timeStyle: "short" })}` : ""}`;
  return `${since[0].toUpperCase()}${since.slice(1)}: ${traffic}. Texts that were only sent to be scored are not among them. Asked again every ${EVERY_MS / 1000} s.`;
}
