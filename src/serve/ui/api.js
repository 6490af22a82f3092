// Requests to this server, and what went wrong with them in words.

const KEY = "candor.key";

/** What a person is told. */
export class Problem extends Error {
  constructor(message, status = 0, code = null) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export const setKey = (key) => sessionStorage.setItem(KEY, key);
export const dropKey = () => sessionStorage.removeItem(KEY);
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

/** Headers for a request to this server. Throws a `Problem` where the key cannot stand in one. */
export function headersOf(more = {}) {
  const key = sessionStorage.getItem(KEY);
  if (key && !/^[\x21-\x7e]+$/.test(key)) throw needsKey(new Problem("An API key cannot contain spaces or accented letters; this one is not known to the server.", 401));
  return { ...(key && { authorization: `Bearer ${key}` }), ...more };
}

/** Sends a request, as JSON where there is a body. Throws a `Problem` unless the answer is a 2xx. */
export async function call(path, { body, method, headers, signal } = {}) {
  const init = {
    method: method ?? (body === undefined ? "GET" : "POST"),
    headers: headersOf({ ...(body !== undefined && { "content-type": "application/json" }), ...headers }),
    body: body === undefined ? undefined : JSON.stringify(body),
    signal,
  };
  let response;
  try {
    response = await fetch(path, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(`The server at ${location.host} does not answer. Is it running? Nothing on this page is lost; try again.`);
  }
  if (response.ok) return response;
  throw await refusal(response);
}

/** What the server answers; `null` where it has no such thing, or does not show it. */
export const asked = (path) => call(path).then((response) => response.json()).catch(() => null);

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  const wait = response.headers.get("retry-after");
  const later = wait ? ` Try again in ${wait} s.` : "";
  const message = error?.message ?? `The server answers ${response.status}.`;
  const problem = new Problem(message[0].toUpperCase() + message.slice(1) + later, response.status, error?.code);
  return response.status === 401 ? needsKey(problem) : problem;
}

/** Has the page ask for a key: the first one, or another than the one that was refused. */
function needsKey(problem) {
  const given = hasKey();
  dispatchEvent(new CustomEvent("candor:key", { detail: given ? problem.message : null }));
  // Headers are for programs.
  if (!given) problem.message = "This server needs an API key. Type it at the top of the page.";
  dropKey();
  return problem;
}
