// Server-sent events of a streamed completion.
import { Problem } from "./api.js";

/** The chunks of a response, parsed, as they arrive. Throws a `Problem` when the stream ends with an error or breaks off. */
export async function* chunks(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch(brokenOff);
      if (done) brokenOff();
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = field(event, "data: ");
        if (data === "[DONE]") return;
        if (data === undefined) continue;
        const parsed = JSON.parse(data);
        if (parsed.error) throw new Problem(parsed.error.message, 0, parsed.error.code);
        yield parsed;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function field(event, name) {
  return event.split("\n").find((line) => line.startsWith(name))?.slice(name.length);
}

function brokenOff(error) {
  if (error?.name === "AbortError") throw error;
  throw new Problem("The connection closed before the answer was complete.");
}
