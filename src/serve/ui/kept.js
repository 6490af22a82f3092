// What the server keeps of a photograph, for how long and who can see it, in words.
import { $, percent } from "./dom.js";

const UNITS = [[86_400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];

function duration(seconds) {
  const [size, name] = UNITS.find(([size]) => seconds >= size && seconds % size === 0) ?? UNITS.at(-1);
  const count = Math.round(seconds / size);
  return `${count} ${name}${count === 1 ? "" : "s"}`;
}

/** A sentence or some from the server's own `about.json`. */
function keptText({ feedback, retention_s: seconds, queue, keys }) {
  const said = ["It goes to this server and nowhere else."];
  const who = keys ? "whoever has a key of the same owner, or one that reads everybody’s" : "everybody who can open this page";
  const readers = `${who}, ${keys ? "who may be asked to correct the answer," : "where answers are offered for correction,"}`;
  if (seconds > 0) said.push(`The server keeps photograph, question and answer for ${duration(seconds)}. They can be seen by ${queue ? `${readers} and by ` : ""}those who run the server.`);
  else said.push(`The server forgets photograph and answer at once${feedback ? ", unless you correct the answer" : "; it takes no corrections"}.`);
  if (feedback) said.push(`What you correct is kept with its photograph until you take the correction back. It can be read by ${who}.`);
  return said.join(" ");
}

/** Fills in what depends on how this server is set up. */
export function showAbout(about) {
  $("kept").textContent = about ? keptText(about) : "It goes to this server and nowhere else.";
  if (!about) return;
  const { version, model, model_version: of, threshold } = about;
  $("versions").textContent = `Candor ${version}, model ${model} ${of}`;
  if (threshold !== undefined) $("rule").options[0].textContent = `server default: reward below ${percent(threshold)}`;
}
