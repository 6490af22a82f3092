// A photograph, large: buttons, wheel and keys make it larger, and its frame scrolls.
import { $, percent } from "./dom.js";

const [LEAST, MOST, STEP] = [1, 8, 1.5];
const KEYS = { "+": STEP, "=": STEP, "-": 1 / STEP, "0": 0 };
let zoom = 1;

/** Every button that names a picture in `data-enlarges` shows it. */
export function startZoom() {
  for (const button of document.querySelectorAll("[data-enlarges]")) {
    button.addEventListener("click", () => enlarge($(button.dataset.enlarges)));
  }
  $("zoom-in").addEventListener("click", () => scale(STEP));
  $("zoom-out").addEventListener("click", () => scale(1 / STEP));
  $("zoom-whole").addEventListener("click", () => scale(0));
  $("zoom-close").addEventListener("click", () => $("zoom").close());
  $("zoom").addEventListener("keydown", (event) => {
    if (!(event.key in KEYS) || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    scale(KEYS[event.key]);
  });
  $("zoom-frame").addEventListener("wheel", (event) => {
    event.preventDefault();
    scale(event.deltaY < 0 ? 1.15 : 1 / 1.15);
  }, { passive: false });
  $("zoom-frame").addEventListener("pointermove", (event) => {
    if (event.buttons & 1 && event.pointerType === "mouse") $("zoom-frame").scrollBy(-event.movementX, -event.movementY);
  });
}

function enlarge({ src, alt }) {
  Object.assign($("zoom-picture"), { src, alt, draggable: false });
  $("zoom").showModal();
  scale(0);
}

/** Makes it so many times larger, about the middle of what is seen; 0 shows it whole. */
function scale(factor) {
  const frame = $("zoom-frame");
  const middle = (start, seen, all) => (start + seen / 2) / Math.max(all, 1);
  const [x, y] = [middle(frame.scrollLeft, frame.clientWidth, frame.scrollWidth), middle(frame.scrollTop, frame.clientHeight, frame.scrollHeight)];
  zoom = Math.min(MOST, Math.max(LEAST, zoom * factor));
  frame.style.setProperty("--zoom", zoom);
  frame.scrollTo(x * frame.scrollWidth - frame.clientWidth / 2, y * frame.scrollHeight - frame.clientHeight / 2);
  $("zoom-said").textContent = zoom === LEAST ? "The whole photograph" : percent(zoom);
  $("zoom-out").disabled = zoom === LEAST;
  $("zoom-in").disabled = zoom === MOST;
}
