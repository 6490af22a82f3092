// The answers of this page, newest first, for as long as it is open.

const MOST = 50;
const answers = [];

/** `{id, choice, photo, prompt, text, parts, guard}` */
export function remember(answer) {
  answers.unshift(answer);
  answers.length = Math.min(answers.length, MOST);
}

export const remembered = () => answers;
