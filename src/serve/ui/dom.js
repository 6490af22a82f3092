// Elements, without markup in strings: what the model or a person wrote is never taken for HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties and children; `dataset`, `on…` and names with a dash are treated as what they are. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "dataset") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** A text of the API's description as nodes: what stands between backticks is code. */
export const prose = (text = "") => text.split("`").map((piece, i) => (i % 2 ? el("code", {}, piece) : piece));

/** Shows a text in an element that is hidden while there is none. */
export function show(element, text) {
  element.textContent = text ?? "";
  element.hidden = !text;
}

export const percent = (share, digits = 0) => `${(100 * share).toFixed(digits)}\u00a0%`;

/** Puts a text on the clipboard and says so on the button for a moment. Without a secure context there is no clipboard to ask for. */
export async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here; select it";
  }
  setTimeout(() => (button.textContent = label), 2000);
}
