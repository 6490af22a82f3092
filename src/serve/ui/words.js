// From tokens to words: what is shaded, pointed at and corrected. Offsets count code points, as the API does.

const WORD = /[\p{L}\p{M}\p{N}]+(?:['’.,:/-][\p{L}\p{M}\p{N}]+)*/gu;

export const codePoints = (text) => [...text].length;
export const lettersBetween = (text, start, end) => [...text].slice(start, end).join("");

/** Reads tokens in the order of a stream; a character whose bytes two tokens share belongs to the later. */
export class TokenReader {
  #decoder = new TextDecoder();
  #at = 0;

  read({ bytes, reward, logprob, top_logprobs: top }) {
    const text = this.#decoder.decode(Uint8Array.from(bytes), { stream: true });
    const start = this.#at;
    this.#at += codePoints(text);
    return { text, start, end: this.#at, reward, logprob, top };
  }
}

const least = (numbers) => numbers.reduce((least, n) => (n === undefined ? least : Math.min(least ?? n, n)), undefined);
const meet = (a, b) => a.start < b.end && b.start < a.end;

/**
 * The parts of an answer: words, what stands between them, and gaps where the guard took something out.
 * A word's reward is the least of its tokens', as everywhere in Candor.
 */
export function parts(text, tokens, spans) {
  // Where the answer was worded anew, its tokens are not those of the text.
  const known = tokens.map((token) => token.text).join("") === text ? tokens : [];
  const gaps = spans.filter((span) => span.start === span.end && span.original);
  const found = [];
  let at = 0;
  const add = (kind, piece, more = {}) => {
    if (piece) found.push({ kind, text: piece, start: at, end: (at += codePoints(piece)), ...more });
  };
  const between = (piece) => {
    const start = at;
    let said = 0;
    const points = [...piece];
    for (const gap of gaps.filter((gap) => gap.start >= start && gap.start < start + points.length)) {
      add("between", points.slice(said, gap.start - start).join(""));
      said = gap.start - start;
      found.push({ kind: "gap", text: "", start: at, end: at, span: gap, tokens: [] });
    }
    add("between", points.slice(said).join(""));
  };
  let last = 0;
  for (const { 0: word, index } of text.matchAll(WORD)) {
    between(text.slice(last, index));
    last = index + word.length;
    const range = { start: at, end: at + codePoints(word) };
    const own = known.filter((token) => meet(token, range));
    const span = spans.find((span) => meet(span, range));
    add("word", word, { span, tokens: own, reward: least(own.map((token) => token.reward)) });
  }
  between(text.slice(last));
  for (const gap of gaps.filter((gap) => gap.start === at && !found.some((part) => part.span === gap))) {
    found.push({ kind: "gap", text: "", start: at, end: at, span: gap, tokens: [] });
  }
  return found;
}

/** How a part stands: `flagged`, `repaired` or nothing of note. */
export function standing({ span }) {
  if (!span) return "";
  return span.action === "regenerated" ? "repaired" : "flagged";
}

/** How sure the model was of a word: the product of its tokens' probabilities. */
export const certainty = ({ tokens }) => Math.exp(tokens.reduce((sum, token) => sum + token.logprob, 0));

/** What the model could have begun the word with instead: whole words only. */
export function instead({ text, tokens: [first] }) {
  const word = /^ ?[\p{L}\p{N}]+$/u;
  return (first?.top ?? [])
    .filter(({ token }) => word.test(token) && token.startsWith(" ") === first.text.startsWith(" ") && token.trim() !== text)
    .map(({ token, logprob }) => ({ text: token.trim(), probability: Math.exp(logprob) }));
}
