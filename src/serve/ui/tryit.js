// A form that sends one request of the API and shows what comes back.
import { headersOf } from "./api.js";
import { el } from "./dom.js";

/** Longest answer that is shown. */
const MOST_CHARS = 200_000;
const LEFT_OUT = new Set(["x-request-id"]);

/** The form of an operation; `example` is its body, where it has one. */
export function tryForm({ method, path, parameters = [] }, example) {
  const fields = parameters.filter(({ name }) => !LEFT_OUT.has(name)).map((parameter) => {
    const input = el("input", { type: "text", autocomplete: "off", required: Boolean(parameter.required) });
    return { ...parameter, input, label: el("label", { className: "field" }, `${parameter.name}${parameter.required ? " (required)" : ""}`, input) };
  });
  const body = example === undefined ? null : el("textarea", { rows: 10, spellcheck: false, value: JSON.stringify(example, null, 1) });
  const answer = el("div", { className: "answer", role: "status" });
  const form = el("form", {}, ...fields.map(({ label }) => label), body && el("label", { className: "field" }, "Body", body),
    el("p", { className: "row" }, el("button", { className: "primary" }, method === "delete" ? "Send: this deletes" : "Send")), answer);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.replaceChildren(el("p", {}, "Waiting…"));
    answer.replaceChildren(...(await send(method, path, fields, body?.value)));
  });
  return form;
}

async function send(method, path, fields, body) {
  const filled = fields.filter(({ input }) => input.value !== "");
  const inPlace = (place) => filled.filter((field) => field.in === place);
  const address = inPlace("path").reduce((at, { name, input }) => at.replace(`{${name}}`, encodeURIComponent(input.value)), path);
  const query = new URLSearchParams(inPlace("query").map(({ name, input }) => [name, input.value])).toString();
  const url = `.${address}${query && `?${query}`}`;
  const began = performance.now();
  try {
    const own = Object.fromEntries(inPlace("header").map(({ name, input }) => [name, input.value]));
    const headers = headersOf({ ...(body !== undefined && { "content-type": "application/json" }), ...own });
    const response = await fetch(url, { method: method.toUpperCase(), headers, body });
    const text = await response.text();
    const told = [...response.headers].map(([name, value]) => `${name}: ${value}`).join("\n");
    return [
      el("p", {}, el("b", {}, `${response.status} ${response.statusText}`), ` · ${Math.round(performance.now() - began)}\u00a0ms`),
      block("Headers of the answer", told),
      block("The answer", pretty(text)),
    ];
  } catch (problem) {
    return [el("p", { className: "problem" }, problem.name === "TypeError" ? `The server at ${location.host} does not answer, or the request cannot be sent: ${problem.message}` : problem.message)];
  }
}

const block = (label, text) => el("pre", { tabIndex: 0, role: "group", "aria-label": label }, el("code", {}, text.slice(0, MOST_CHARS)));

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 1);
  } catch {
    return text;
  }
}
