// The Try page: a photograph, a question, a guard; one answer or three side by side.
import { Answer, VERDICTS } from "./answer.js";
import { hasKey } from "./api.js";
import { DESCRIBE, mode, requestOf, startAsk } from "./ask.js";
import { awaitChosen, chosen, showPhoto, startChooser } from "./chooser.js";
import { curl } from "./curl.js";
import { $, copy, show } from "./dom.js";
import { showEarlier, startEarlier } from "./earlier.js";
import { stop as stopReading } from "./speech.js";

const COMPARED = ["off", "flag", "regenerate"];

let model = null;
let running = null;
/** The photograph that the answers on the page are about. */
let answered = null;

export async function startTry(named) {
  named.then((name) => {
    model = name;
    showCurl();
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    run([mode()]);
  });
  $("compare").addEventListener("click", () => run(COMPARED));
  $("stop").addEventListener("click", () => running?.abort());
  $("curl-copy").addEventListener("click", (event) => copy(event.target, $("curl-text").textContent));
  startAsk(showCurl);
  await startChooser(photoChanged);
  const earlier = await startEarlier(showAgain);
  const newest = earlier.find(([{ photo }]) => photo.url === chosen()?.url);
  if (newest && !running) showAnswers(newest);
}

/** Answers do not stay below a photograph that they are not about; they are among the earlier ones. */
function photoChanged() {
  if (answered && answered !== chosen().url) place([], null);
  showCurl();
}

/** Makes place for new answers, about this photograph. */
function place(answers, photo) {
  answered = photo && photo.url;
  running?.abort();
  stopReading();
  show($("try-problem"), null);
  $("word").hidden = true;
  $("answers").dataset.count = answers.length;
  $("answers").replaceChildren(...answers.map((answer) => answer.element));
}

async function run(modes) {
  const photo = await awaitChosen();
  if (!photo) {
    show($("try-problem"), "First choose a photograph.");
    $("photo-file").focus();
    return;
  }
  const answers = modes.map((mode) => new Answer(mode));
  place(answers, photo);
  const mine = (running = new AbortController());
  $("try-said").textContent = "Looking…";
  $("stop").hidden = false;
  const asked = Date.now();
  const ended = await Promise.allSettled(answers.map((answer) => answer.ask(requestOf(answer.mode, model, photo), photo, asked, mine.signal)));
  if (running !== mine) return;
  $("stop").hidden = true;
  sum(answers, ended);
  showEarlier();
}

function showAnswers(group) {
  const answers = group.map(({ mode }) => new Answer(mode));
  place(answers, group[0].photo);
  answers.forEach((answer, i) => answer.finish(group[i]));
}

/** Goes back to answers that were given before: their photograph and question are asked about again. */
function showAgain(group) {
  showAnswers(group);
  const [{ photo, prompt }] = group;
  showPhoto(photo);
  $("question").value = prompt === DESCRIBE ? "" : prompt;
  $("question").dispatchEvent(new Event("input"));
  $("try-said").textContent = "Shown again.";
  $("photo").scrollIntoView({ block: "nearest" });
}

/** Says how it went, once, for those who do not watch. */
function sum(answers, ended) {
  const said = [];
  const problems = new Set();
  ended.forEach(({ value, reason }, i) => {
    if (value) said.push(`${VERDICTS[value.guard.verdict]}: ${value.guard.alt_text ?? value.text}`);
    else answers[i].fail();
    if (reason && reason.name !== "AbortError") problems.add(reason.message);
  });
  show($("try-problem"), [...problems].join(" "));
  $("try-said").textContent = said.join(" ") || (problems.size ? "" : "Stopped.");
  const best = ended.findLast(({ value }) => value)?.value;
  if (best) $("photo-shown").alt = best.guard.alt_text ?? best.text;
}

function showCurl() {
  const photo = chosen();
  $("curl").hidden = !photo;
  if (photo) $("curl-text").textContent = curl(location.origin, requestOf(mode(), model, photo), photo.name, hasKey());
}
