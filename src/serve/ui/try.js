// The Try page: a photograph, a question, a guard; one answer or three side by side.
import { Answer, VERDICTS } from "./answer.js";
import { call, hasKey } from "./api.js";
import { curl } from "./curl.js";
import { $, copy, percent, show } from "./dom.js";
import { pictureIn, readPhoto } from "./photo.js";

const COMPARED = ["off", "flag", "regenerate"];
/** What the slider means under each rule. */
const RULES = {
  target_fpr: { min: 0.01, max: 0.3, step: 0.01, value: 0.05, said: (v) => `${percent(v)} of right words doubted` },
  threshold: { min: 0.05, max: 0.95, step: 0.05, value: 0.3, said: (v) => `reward under ${percent(v)}` },
};

let photo = null;
let model = null;
let running = null;

export function startTry(named) {
  named.then((name) => (model = name));
  const box = $("photo");
  $("photo-file").addEventListener("change", (event) => take(event.target.files[0]));
  $("photo-example").addEventListener("click", example);
  for (const kind of ["dragover", "dragleave", "drop"]) {
    box.addEventListener(kind, (event) => {
      event.preventDefault();
      box.classList.toggle("over", kind === "dragover");
    });
  }
  box.addEventListener("drop", (event) => take(pictureIn(event.dataTransfer)));
  addEventListener("paste", (event) => {
    const picture = $("view-try").hidden ? null : pictureIn(event.clipboardData);
    if (picture) take(picture);
  });
  $("rule").addEventListener("change", setRule);
  $("amount").addEventListener("input", sayAmount);
  $("ask").addEventListener("change", showCurl);
  $("question").addEventListener("input", showCurl);
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    run([new FormData($("ask")).get("mode")]);
  });
  $("compare").addEventListener("click", () => run(COMPARED));
  $("stop").addEventListener("click", () => running?.abort());
  $("curl-copy").addEventListener("click", (event) => copy(event.target, $("curl-text").textContent));
}

async function example() {
  try {
    const response = await call("ui/cat.jpg");
    take(new File([await response.blob()], "cat.jpg", { type: "image/jpeg" }));
  } catch (problem) {
    show($("try-problem"), problem.message);
  }
}

async function take(file) {
  if (!file) return;
  show($("try-problem"), null);
  try {
    photo = await readPhoto(file);
  } catch (problem) {
    show($("try-problem"), problem.message);
    return;
  }
  Object.assign($("photo-shown"), { src: photo.url, alt: `Your photograph, ${photo.name}`, hidden: false });
  $("photo").classList.add("filled");
  $("photo-name").textContent = photo.name;
  $("try-said").textContent = `${photo.name} is there.`;
  showCurl();
}

function setRule() {
  const rule = RULES[$("rule").value];
  $("amount-field").hidden = !rule;
  if (!rule) return;
  const { min, max, step, value } = rule;
  Object.assign($("amount"), { min, max, step, value });
  sayAmount();
}

function sayAmount() {
  $("amount-said").textContent = RULES[$("rule").value].said(Number($("amount").value));
}

function requestOf(mode) {
  const rule = $("rule").value;
  // Where nothing is looked for there is nothing to doubt either.
  const doubt = rule === "default" || mode === "off" ? {} : { [rule]: Number($("amount").value) };
  return {
    model,
    messages: [{ role: "user", content: [
      { type: "text", text: $("question").value.trim() || "Describe this photograph." },
      { type: "image_url", image_url: { url: photo.url } },
    ] }],
    guard: { mode, ...doubt },
  };
}

async function run(modes) {
  if (!photo) {
    show($("try-problem"), "First choose a photograph.");
    $("photo-file").focus();
    return;
  }
  running?.abort();
  const mine = (running = new AbortController());
  const answers = modes.map((mode) => new Answer(mode));
  show($("try-problem"), null);
  $("try-said").textContent = "Looking…";
  $("word").hidden = true;
  $("stop").hidden = false;
  $("answers").dataset.count = answers.length;
  $("answers").replaceChildren(...answers.map((answer) => answer.element));
  const asked = answers.map((answer) => answer.ask(requestOf(answer.mode), photo, mine.signal));
  const ended = await Promise.allSettled(asked);
  if (running !== mine) return;
  $("stop").hidden = true;
  sum(answers, ended);
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
  $("curl").hidden = !photo;
  if (photo) $("curl-text").textContent = curl(location.origin, requestOf(new FormData($("ask")).get("mode")), photo.name, hasKey());
}
