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
export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

/** Sends a request, as JSON where there is a body. Throws a `Problem` unless the answer is a 2xx. */
export async function call(path, { body, method, headers, signal } = {}) {
  const key = sessionStorage.getItem(KEY);
  const init = {
    method: method ?? (body === undefined ? "GET" : "POST"),
    headers: {
      ...(body !== undefined && { "content-type": "application/json" }),
      ...(key && { authorization: `Bearer ${key}` }),
      ...headers,
    },
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

async function refusal(response) {
  const { error } = await response.json().catch(() => ({}));
  if (response.status === 401) dispatchEvent(new Event("candor:key"));
  const wait = response.headers.get("retry-after");
  const later = wait ? ` Try again in ${wait} s.` : "";
  const message = error?.message ?? `The server answers ${response.status}.`;
  return new Problem(message[0].toUpperCase() + message.slice(1) + later, response.status, error?.code);
}
