// One answer on the Try page: asked for, streamed, shaded, summed up.
import { call } from "./api.js";
import { $, copy, percent, show } from "./dom.js";
import { remember } from "./session.js";
import { speakButton } from "./speech.js";
import { chunks } from "./sse.js";
import { describeWord } from "./wordcard.js";
import { WordList } from "./wordlist.js";
import { parts, TokenReader } from "./words.js";

/** What was done with low-reward words. */
export const MODES = { off: "Not checked", flag: "Flagged", regenerate: "Repaired", block: "Stopped early" };
export const VERDICTS = { clean: "clean", flagged: "flagged", repaired: "repaired", blocked: "stopped early", unscored: "not checked", abstained: "no answer" };

/** What a question asks for that gets no answer, and why short answers are withheld. */
const REASONS = {
  text: "it asks for text in the picture",
  time: "it asks for a time or a date",
  identity: "it asks for names, ages or places",
  advice: "it asks for advice",
  price: "it asks for a price",
  language: "it is not in English",
  beyond: "it asks for what no photograph shows",
  unfamiliar: "the photograph is unlike those the model knows",
  unsure: "the answer was more likely wrong than right",
};

export class Answer {
  constructor(mode) {
    this.mode = mode;
    this.element = $("answer-template").content.firstElementChild.cloneNode(true);
    this.find(".words").setAttribute("aria-label", `Answer, ${MODES[mode].toLowerCase()}: word by word`);
    this.find("h2").textContent = MODES[mode];
    this.words = new WordList(this.find(".words"), { inspect: (part) => describeWord($("word"), part, this.guard?.threshold) });
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Asks and shows what comes, until it is complete. Returns the finished answer; those that were `asked` at the same time belong together. */
  async ask(request, photo, asked, signal) {
    this.verdict("writing");
    const body = { ...request, stream: true, logprobs: true, top_logprobs: 6 };
    const began = performance.now();
    const response = await call("v1/chat/completions", { body, signal });
    const reader = new TokenReader();
    let [text, tokens, spans, id] = ["", [], [], null];
    for await (const chunk of chunks(response)) {
      const choice = chunk.choices[0];
      if (!choice) continue;
      id = chunk.id;
      text += choice.delta.content ?? "";
      tokens = tokens.concat((choice.logprobs?.content ?? []).map((token) => reader.read(token)));
      spans = choice.finish_reason ? choice.guard.spans : spans.concat(choice.guard?.spans ?? []);
      if (choice.finish_reason) this.guard = choice.guard;
      this.words.show(parts(text, tokens, spans));
    }
    const prompt = request.messages[0].content[0].text;
    const took = performance.now() - began;
    const done = { id, choice: 0, asked, mode: this.mode, photo, prompt, text, parts: parts(text, tokens, spans), guard: this.guard, took };
    this.finish(done);
    if (text) remember(done);
    return done;
  }

  /** Shows an answer that is complete. */
  finish({ id, text, parts, guard, took }) {
    this.guard = guard;
    this.words.show(parts);
    this.verdict(guard.verdict);
    const numbers = [];
    const abstained = guard.verdict === "abstained";
    if (abstained) numbers.push(`No answer: ${REASONS[guard.reason] ?? guard.reason}`);
    if (guard.score !== undefined) numbers.push(`score ${percent(guard.score)}, its lowest reward`, `flagged below ${percent(guard.threshold)}`);
    if (guard.familiarity !== undefined) {
      const unlike = guard.familiarity < 0.5 ? ", unlike those that the model learnt from" : "";
      numbers.push(`photograph ${percent(guard.familiarity)} familiar${unlike}`);
    }
    if (guard.attempts > 0) numbers.push(`${guard.attempts} other ${guard.attempts === 1 ? "wording" : "wordings"} tried`);
    numbers.push(`${Math.round(took)}\u00a0ms`);
    this.find(".numbers").textContent = numbers.join(" · ");
    if (!text) this.find(".numbers").prepend("Every word was left out. ");
    this.find(".alt").hidden = !guard.alt_text;
    show(this.find(".alt-text"), guard.alt_text);
    this.find(".actions").hidden = !text;
    this.find(".copy").hidden = !guard.alt_text;
    this.find(".copy").onclick = (event) => copy(event.target, guard.alt_text);
    speakButton(this.find(".speak"), guard.alt_text ?? text);
    this.find(".fixit").hidden = abstained;
    this.find(".fixit").onclick = () => dispatchEvent(new CustomEvent("candor:correct", { detail: id }));
  }

  /** After a problem nothing more comes. */
  fail() {
    this.verdict("failed");
  }

  verdict(verdict) {
    const badge = this.find(".verdict");
    badge.dataset.verdict = verdict;
    badge.textContent = VERDICTS[verdict] ?? verdict;
    this.find(".words").setAttribute("aria-busy", verdict === "writing");
  }
}
