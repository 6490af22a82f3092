// The short history: what was asked in this browser in the last day, to be looked at again or cleared.
import { MODES } from "./answer.js";
import { $, el } from "./dom.js";
import { remembered, restore } from "./session.js";
import { clearStorage } from "./storage.js";

let again = () => {};

/** Restores the answers and returns them, the newest first, in groups. `show` takes answers that were asked for together. */
export async function startEarlier(show) {
  again = show;
  $("earlier-clear").addEventListener("click", async () => {
    await clearStorage();
    sessionStorage.removeItem("candor.ask");
    location.reload();
  });
  await restore();
  showEarlier();
  return groups();
}

/** Answers that were asked for together, newest first, each group in the order of its columns. */
function groups() {
  const order = Object.keys(MODES);
  const times = [...new Set(remembered().map(({ asked }) => asked))];
  return times.map((time) => remembered().filter(({ asked }) => asked === time).sort((a, b) => order.indexOf(a.mode) - order.indexOf(b.mode)));
}

/** Lists what there is. */
export function showEarlier() {
  const row = (group) => {
    const { photo, prompt, text } = group.at(-1);
    const button = el("button", { type: "button", onclick: () => again(group) },
      el("img", { src: photo.url, alt: "", width: 64, height: 48 }), el("span", {}, el("small", {}, prompt), text || "No answer"));
    return el("li", {}, button);
  };
  const rows = groups().map(row);
  $("earlier-list").replaceChildren(...rows);
  $("earlier").hidden = rows.length === 0;
}
