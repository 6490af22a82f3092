// The answers of this page, newest first, for as long as it is open.

const MOST = 50;
const answers = [];
const listeners = [];

/** `{id, choice, photo, prompt, text, parts, guard}` */
export function remember(answer) {
  answers.unshift(answer);
  answers.length = Math.min(answers.length, MOST);
  listeners.forEach((listener) => listener());
}

export const remembered = () => answers;
export const onAnswer = (listener) => listeners.push(listener);
