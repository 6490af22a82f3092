// One answer on the Try page: asked for, streamed, shaded, summed up.
import { call } from "./api.js";
import { $, copy, percent, show } from "./dom.js";
import { remember } from "./session.js";
import { chunks } from "./sse.js";
import { describeWord } from "./wordcard.js";
import { WordList } from "./wordlist.js";
import { parts, TokenReader } from "./words.js";

const TITLES = { off: "Not looked for", flag: "Marked", regenerate: "Written again", block: "Cut off" };
export const VERDICTS = { clean: "clean", flagged: "flagged", repaired: "repaired", blocked: "blocked", unscored: "not scored" };

export class Answer {
  constructor(mode) {
    this.mode = mode;
    this.element = $("answer-template").content.firstElementChild.cloneNode(true);
    this.find(".words").setAttribute("aria-label", `Answer, ${TITLES[mode].toLowerCase()}: word by word`);
    this.find("h2").textContent = TITLES[mode];
    this.words = new WordList(this.find(".words"), { inspect: (part) => describeWord($("word"), part, this.guard?.threshold) });
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  /** Asks and shows what comes, until it is complete. Returns the finished answer. */
  async ask(request, photo, signal) {
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
    const done = { id, choice: 0, photo, prompt, text, parts: parts(text, tokens, spans), guard: this.guard };
    this.finish(done, performance.now() - began);
    if (text) remember(done);
    return done;
  }

  finish({ id, text, guard }, took) {
    this.verdict(guard.verdict);
    const numbers = [];
    if (guard.score !== undefined) numbers.push(`weakest word ${percent(guard.score)}`);
    if (guard.score !== undefined) numbers.push(`doubted below ${percent(guard.threshold)}`);
    if (guard.extra_tokens > 0) numbers.push(`${guard.attempts} ${guard.attempts === 1 ? "try" : "tries"}, ${guard.extra_tokens} extra tokens`);
    numbers.push(`${Math.round(took)}\u00a0ms`);
    this.find(".numbers").textContent = numbers.join(" · ");
    if (!text) this.find(".numbers").prepend("Nothing was left to say. ");
    this.find(".alt").hidden = !guard.alt_text;
    show(this.find(".alt-text"), guard.alt_text);
    this.find(".actions").hidden = !text;
    this.find(".copy").hidden = !guard.alt_text;
    this.find(".copy").onclick = (event) => copy(event.target, guard.alt_text);
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
