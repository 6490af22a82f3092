// JSON schemas as lists of fields, and examples of them.
import { el, prose } from "./dom.js";

/** How deep an example goes. */
const DEPTH = 5;
const BOUNDS = { minimum: "at least", maximum: "at most", minLength: "characters, at least", maxLength: "characters, at most", minItems: "items, at least", maxItems: "items, at most", default: "default" };

/** Follows references within a document. */
export const resolver = (whole) => function resolve(schema) {
  if (!schema?.$ref) return schema ?? {};
  return resolve(schema.$ref.slice(2).split("/").reduce((at, key) => at?.[key], whole));
};

const refName = ({ $ref }) => $ref?.split("/").at(-1);
const choices = ({ oneOf, anyOf }) => oneOf ?? anyOf;

/** The type in a word or some. */
function typeName(schema, resolve) {
  const found = resolve(schema);
  if (refName(schema)) return refName(schema);
  if (found.enum) return found.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (found.const !== undefined) return JSON.stringify(found.const);
  if (choices(found)) return choices(found).map((one) => typeName(one, resolve)).join(" or ");
  if (found.allOf) return found.allOf.map((one) => typeName(one, resolve)).join(" and ");
  const types = [found.type ?? "anything"].flat();
  return types.map((type) => (type === "array" ? `array of ${typeName(found.items, resolve)}` : type)).join(" or ");
}

/** A schema: its type, and its fields, which are opened one level at a time. */
export function describeSchema(schema, resolve) {
  const found = resolve(schema);
  const bounds = Object.entries(BOUNDS).filter(([key]) => found[key] !== undefined).map(([key, said]) => `${said} ${JSON.stringify(found[key])}`);
  const line = el("span", { className: "type" }, [typeName(schema, resolve), ...bounds].join("; "));
  const inner = parts(schema, resolve);
  if (inner.length === 0) return line;
  const details = el("details", { className: "schema" }, el("summary", {}, line));
  details.addEventListener("toggle", () => details.append(...inner.map((part) => part())), { once: true });
  return details;
}

/** What can be opened below a schema, each made when it is wanted. */
function parts(schema, resolve) {
  const found = resolve(schema);
  const named = (one) => () => el("div", { className: "choice" }, describeSchema(one, resolve));
  const out = [];
  if (found.description && schema.$ref) out.push(() => el("p", {}, ...prose(found.description)));
  const properties = Object.entries(found.properties ?? {});
  if (properties.length > 0) out.push(() => el("ul", { className: "fields" }, ...properties.map(([name, field]) => fieldItem(name, field, found, resolve))));
  for (const one of [...(choices(found) ?? []), ...(found.allOf ?? [])]) if (parts(one, resolve).length > 0) out.push(named(one));
  if (found.items && parts(found.items, resolve).length > 0) out.push(named(found.items));
  if (found.enum && schema.$ref) out.push(() => el("p", {}, el("code", {}, found.enum.map((value) => JSON.stringify(value)).join(", "))));
  return out;
}

function fieldItem(name, field, { required = [] }, resolve) {
  const { description } = field.$ref ? field : resolve(field);
  return el("li", {}, el("code", {}, name), " ", el("span", { className: "hint" }, required.includes(name) ? "required" : ""), " ", describeSchema(field, resolve), description && el("p", {}, ...prose(description)));
}

/** A value that has what is required. */
export function exampleOf(schema, resolve, depth = DEPTH) {
  const found = resolve(schema);
  const given = found.example ?? found.default ?? found.const ?? found.enum?.[0];
  if (given !== undefined) return given;
  if (found.allOf) return Object.assign({}, ...found.allOf.map((one) => exampleOf(one, resolve, depth)));
  if (choices(found)) return exampleOf(choices(found).find((one) => resolve(one).type !== "null") ?? {}, resolve, depth);
  const type = [found.type].flat().find((type) => type !== "null");
  if (type === "object" && depth > 0) {
    const wanted = found.required?.length ? found.required : [];
    return Object.fromEntries(wanted.map((name) => [name, exampleOf(found.properties?.[name], resolve, depth - 1)]));
  }
  return { array: [], object: {}, integer: found.minimum ?? 0, number: found.minimum ?? 0, boolean: false, string: "" }[type] ?? null;
}
