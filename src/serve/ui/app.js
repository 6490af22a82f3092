// The page: which view is shown, which model answers, whether a key is needed.
import { showAccess } from "./access.js";
import { asked, call, hasKey } from "./api.js";
import { fill } from "./ask.js";
import { enter, startCorrect } from "./correct.js";
import { $, show } from "./dom.js";
import { showAbout } from "./kept.js";
import { startKey } from "./key.js";
import { startTry } from "./try.js";
import { startWatch, watch } from "./watch.js";
import { startZoom } from "./zoom.js";

const VIEWS = [...document.querySelectorAll("[data-view]")];
const ASK_AGAIN_MS = 15_000;
let forCorrection = null;

function view(focus) {
  const [, wanted, given] = /^#?([^/?]*)[/?]?(.*)$/.exec(location.hash);
  if (wanted === "main") return;
  const shown = VIEWS.find((view) => view.dataset.view === wanted) ?? VIEWS[0];
  VIEWS.forEach((view) => (view.hidden = view !== shown));
  const name = shown.dataset.view;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${name[0].toUpperCase()}${name.slice(1)} · Candor`;
  if (focus) {
    scrollTo(0, 0);
    shown.querySelector("h1").focus({ preventScroll: true });
  }
  if (name === "try" && given) {
    fill(new URLSearchParams(given));
    $("question").dispatchEvent(new Event("input"));
    // A reload shows what was typed since, not the link again.
    history.replaceState(null, "", "#try");
  }
  watch(name === "watch");
  if (name === "correct") enter(forCorrection);
  forCorrection = null;
}

/** Asks until there is an answer which model is served; then whether the server is still there. */
function server() {
  let tell;
  const named = new Promise((resolve) => (tell = resolve));
  const say = (state, text) => {
    $("server").dataset.state = state;
    $("server-text").textContent = text;
  };
  const ask = async () => {
    try {
      const models = await (await call("v1/models")).json();
      tell(models.data[0].id);
      await call("health/ready");
      say("ready", models.data[0].id);
    } catch (problem) {
      say(problem.status === 0 ? "gone" : "waiting", problem.status === 401 ? "needs a key" : problem.status === 0 ? "no answer" : "not ready");
    }
  };
  ask();
  setInterval(ask, ASK_AGAIN_MS);
  return { named, ask };
}

addEventListener("candor:correct", ({ detail }) => {
  forCorrection = detail;
  location.hash = "#correct";
});
const { named, ask } = server();
startKey(async () => {
  await ask();
  if (!hasKey()) return;
  await showAccess();
  // What was refused for want of a key is asked for again.
  show($("try-problem"), null);
  if (!$("view-correct").hidden) enter();
  if (!$("view-watch").hidden) watch(true);
});
const about = asked("ui/about.json");
about.then(showAbout);
const access = about.then((said) => said && (!said.keys || hasKey()) && showAccess());
startCorrect();
startWatch(about);
startZoom();
addEventListener("hashchange", () => view(true));
await startTry(named);
await access;
view(false);
