// The question, what is done with low-reward words, and from when on a word is one; kept for a reload, and shared as a link.
import { $, copy, percent } from "./dom.js";

const KEPT = "candor.ask";
export const DESCRIBE = "Describe this photograph.";
/** What the slider means under each rule. */
const RULES = {
  target_fpr: { min: 0.01, max: 0.3, step: 0.01, value: 0.05, said: (v) => `${percent(v)} of the words that are right get flagged by mistake` },
  threshold: { min: 0.05, max: 0.95, step: 0.05, value: 0.3, said: (v) => `words with a reward below ${percent(v)} get flagged` },
};

export const mode = () => new FormData($("ask")).get("mode");

/** `changed` is called whenever something else would be asked. */
export function startAsk(changed) {
  const note = () => {
    sessionStorage.setItem(KEPT, String(settings()));
    changed();
  };
  $("rule").addEventListener("change", () => setRule());
  $("amount").addEventListener("input", sayAmount);
  $("ask").addEventListener("change", note);
  $("question").addEventListener("input", note);
  $("share").addEventListener("click", (event) => copy(event.target, `${location.origin}${location.pathname}#try?${settings()}`));
  fill(new URLSearchParams(sessionStorage.getItem(KEPT) ?? ""));
}

/** Fills the form in from a link or from what was kept; what a link does not name, or names wrongly, stays as it is. */
export function fill(given) {
  const question = given.get("question");
  if (question !== null) $("question").value = question;
  const wanted = [...document.querySelectorAll("input[name=mode]")].find(({ value }) => value === given.get("mode"));
  if (wanted) wanted.checked = true;
  const rule = given.get("rule");
  if (rule !== "default" && !Object.hasOwn(RULES, rule ?? "")) return;
  $("rule").value = rule;
  setRule(given.get("amount"));
}

/** The form as parameters of a link: no photograph, no key. */
function settings() {
  const all = { question: $("question").value.trim(), mode: mode(), rule: $("rule").value };
  return new URLSearchParams(all.rule === "default" ? all : { ...all, amount: $("amount").value });
}

function setRule(amount) {
  const rule = RULES[$("rule").value];
  $("amount-field").hidden = !rule;
  if (!rule) return;
  const { min, max, step, value } = rule;
  const given = amount ? Number(amount) : NaN;
  Object.assign($("amount"), { min, max, step, value: Number.isFinite(given) ? given : value });
  sayAmount();
}

function sayAmount() {
  $("amount-said").textContent = RULES[$("rule").value].said(Number($("amount").value));
}

/** The request about this photograph. */
export function requestOf(mode, model, photo) {
  const rule = $("rule").value;
  // Where nothing is checked there is nothing to flag either.
  const strictness = rule === "default" || mode === "off" ? {} : { [rule]: Number($("amount").value) };
  return {
    model,
    messages: [{ role: "user", content: [
      { type: "text", text: $("question").value.trim() || DESCRIBE },
      { type: "image_url", image_url: { url: photo.url } },
    ] }],
    guard: { mode, ...strictness },
  };
}
