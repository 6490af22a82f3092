// The photograph: chosen, dropped anywhere, pasted, or one of the examples.
import { call } from "./api.js";
import { $, show } from "./dom.js";
import { pictureIn, readPhoto } from "./photo.js";
import { KEPT_MS } from "./session.js";
import { dropPhoto, storedPhoto, storePhoto } from "./storage.js";

let photo = null;
/** The file that was chosen last, and the end of reading it. */
let newest = null;
let reading = Promise.resolve();
let changed = () => {};

export const chosen = () => photo;

/** The photograph, once a file that was just chosen is read. */
export async function awaitChosen() {
  await reading;
  return photo;
}

/** `told` is called when another photograph is there. */
export async function startChooser(told) {
  changed = told;
  $("photo-file").addEventListener("change", ({ target }) => {
    take(target.files[0]);
    // So that the same file can be chosen again.
    target.value = "";
  });
  for (const button of document.querySelectorAll("#examples button")) button.addEventListener("click", () => takeExample(button.dataset.file));
  addEventListener("dragover", (event) => over(event, true));
  addEventListener("dragleave", (event) => event.relatedTarget === null && over(event, false));
  addEventListener("drop", (event) => {
    if (over(event, false)) takeElsewhere(pictureIn(event.dataTransfer));
  });
  addEventListener("paste", ({ clipboardData }) => takeElsewhere(pictureIn(clipboardData)));
  const stored = await storedPhoto();
  if (stored && stored.at < Date.now() - KEPT_MS) dropPhoto();
  else if (stored && !photo) showPhoto(stored);
}

/** Files are taken wherever they are dropped; without this the browser would leave the page for them. */
function over(event, is) {
  if (!event.dataTransfer?.types.includes("Files")) return false;
  event.preventDefault();
  document.documentElement.classList.toggle("over", is);
  return true;
}

function takeElsewhere(file) {
  if (!file) return;
  if ($("view-try").hidden) location.hash = "#try";
  take(file);
}

async function takeExample(name) {
  try {
    const response = await call(`ui/${name}`);
    await take(new File([await response.blob()], name, { type: "image/jpeg" }));
  } catch (problem) {
    show($("try-problem"), problem.message);
  }
}

function take(file) {
  if (file) reading = read(file);
  return reading;
}

/** A file that takes longer to read than one that was chosen after it is not shown. */
async function read(file) {
  newest = file;
  show($("try-problem"), null);
  try {
    const picture = await readPhoto(file);
    if (newest !== file) return reading;
    showPhoto(picture);
  } catch (problem) {
    if (newest !== file) return reading;
    show($("try-problem"), problem.message);
  }
}

/** Makes this the photograph that is asked about. */
export function showPhoto(picture) {
  photo = picture;
  storePhoto({ at: Date.now(), ...photo });
  Object.assign($("photo-shown"), { src: photo.url, alt: `Your photograph, ${photo.name}`, hidden: false });
  $("photo").classList.add("filled");
  $("kept-details").open = false;
  $("photo-name").textContent = photo.name;
  $("try-said").textContent = `${photo.name} is there.`;
  changed();
}
