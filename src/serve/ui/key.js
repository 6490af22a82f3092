// The form for the API key, which is shown when the server asks for one, and says when a key is wrong.
import { hasKey, setKey } from "./api.js";
import { $, show } from "./dom.js";

/** `retry` is called with a key to try; where it is refused, `candor:key` comes back. */
export function startKey(retry) {
  addEventListener("candor:key", ({ detail: refused }) => {
    const wasAsked = !$("key").hidden;
    $("key").hidden = false;
    if (!refused) return;
    show($("key-problem"), `${refused.replace(/\.?$/, ".")} Check it and type it again.`);
    $("key-text").setAttribute("aria-invalid", "true");
    // Who was not typing a key just now is left where they are.
    if (wasAsked) $("key-text").focus();
  });
  $("other-key").addEventListener("click", () => {
    $("key").hidden = false;
    $("key-text").focus();
  });
  $("key-text").addEventListener("input", accept);
  $("key").addEventListener("submit", async (event) => {
    event.preventDefault();
    const key = $("key-text").value.trim();
    if (!key) return $("key-text").focus();
    setKey(key);
    $("key-text").value = "";
    await retry();
    if (!hasKey()) return;
    accept();
    $("key").hidden = true;
  });
}

function accept() {
  show($("key-problem"), null);
  $("key-text").removeAttribute("aria-invalid");
}
