// The page about the API, from the server's own description: operations by tag, what goes in and comes out, and a form to send it.
import { call, dropKey, setKey } from "./api.js";
import { $, el, prose, show } from "./dom.js";
import { describeSchema, exampleOf, resolver } from "./schema.js";
import { tryForm } from "./tryit.js";

const METHODS = ["get", "post", "put", "patch", "delete"];

function draw(api) {
  const resolve = resolver(api);
  $("version").textContent = api.info.version;
  $("about").textContent = api.info.description;
  const operations = Object.entries(api.paths).flatMap(([path, item]) =>
    METHODS.filter((method) => item[method]).map((method) => ({ path, method, ...item[method] })));
  const sections = api.tags.map(({ name, description }) => {
    const own = operations.filter(({ tags }) => tags[0] === name).map((operation) => describe(operation, resolve));
    return el("section", { "aria-label": name }, el("h2", {}, name, " ", el("span", { className: "hint" }, description)), ...own);
  });
  $("operations").replaceChildren(...sections);
  $("find").addEventListener("input", find);
  $("api-key").addEventListener("input", ({ target }) => (target.value.trim() ? setKey(target.value.trim()) : dropKey()));
  addEventListener("hashchange", openLinked);
  openLinked();
}

const nameOf = ({ method, path }) => `${method}${path}`.replace(/[^a-z0-9]+/gi, "-").replace(/-$/, "");

/** One operation, closed; what is in it is made when it is opened. */
function describe(operation, resolve) {
  const { method, path, summary } = operation;
  const details = el("details", { className: "operation", id: nameOf(operation) },
    el("summary", {}, el("b", { className: `method ${method}` }, method.toUpperCase()), " ", el("code", {}, path), " ", el("span", { className: "hint" }, ...prose(summary))));
  details.addEventListener("toggle", () => details.childElementCount === 1 && details.append(...contents(operation, resolve)), { once: true });
  return details;
}

function contents(operation, resolve) {
  const { description, parameters = [], requestBody, responses } = operation;
  const [type, body] = Object.entries(requestBody?.content ?? {})[0] ?? [];
  const example = body && (body.example ?? exampleOf(body.schema, resolve));
  const more = (title, ...children) => el("div", { className: "part" }, el("h3", {}, title), ...children);
  return [
    description && el("p", {}, ...prose(description)),
    parameters.length > 0 && more("Parameters", el("ul", { className: "fields" }, ...parameters.map((parameter) => parameterItem(parameter, resolve)))),
    body && more(`Body, ${type}`, describeSchema(body.schema, resolve)),
    more("Responses", ...Object.entries(responses).map(([status, response]) => responseItem(status, response, resolve))),
    more("Try it", tryForm(operation, example)),
  ].filter(Boolean);
}

function parameterItem({ name, in: where, required, description, schema }, resolve) {
  return el("li", {}, el("code", {}, name), " ", el("span", { className: "hint" }, `in the ${where}${required ? ", required" : ""}`), " ", describeSchema(schema, resolve), description && el("p", {}, ...prose(description)));
}

function responseItem(status, { description, content = {}, headers = {} }, resolve) {
  const bodies = Object.entries(content).map(([type, { schema }]) => el("div", {}, el("p", { className: "hint" }, type), describeSchema(schema, resolve)));
  const rows = Object.entries(headers).map(([name, { description }]) => el("li", {}, el("code", {}, name), " ", el("span", { className: "hint" }, ...prose(description))));
  return el("details", {}, el("summary", {}, el("b", {}, status), " ", ...prose(description)), ...bodies, rows.length ? el("ul", { className: "fields" }, ...rows) : null);
}

/** Only operations with these letters stay. */
function find() {
  const wanted = $("find").value.trim().toLowerCase();
  let count = 0;
  for (const section of $("operations").children) {
    const own = [...section.querySelectorAll(".operation")];
    own.forEach((operation) => (operation.hidden = !operation.firstElementChild.textContent.toLowerCase().includes(wanted)));
    const left = own.filter((operation) => !operation.hidden).length;
    section.hidden = left === 0;
    count += left;
  }
  $("found").textContent = `${count} operations`;
}

/** Opens the operation that the address names. */
function openLinked() {
  const linked = $(location.hash.slice(1));
  if (linked?.matches(".operation")) {
    linked.open = true;
    linked.scrollIntoView();
  }
}

try {
  draw(await (await call("openapi.json")).json());
} catch (problem) {
  show($("docs-problem"), problem.message);
}
