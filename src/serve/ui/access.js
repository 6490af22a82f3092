// Whose key the page has, what may be done with it and, in words, what may not.
import { asked } from "./api.js";
import { $, show } from "./dom.js";

const ABLE = {
  complete: "describe photographs",
  score: "score texts",
  "feedback:write": "send corrections",
  "feedback:read": "read everybody’s corrections",
  annotate: "take answers from the server’s queue",
  admin: "administer the server",
};
/** What is done in each view. */
const NEEDS = { try: ["complete"], correct: ["feedback:write", "annotate"], watch: ["feedback:read"] };
let key = null;

/** Whether the key may do this; while nothing is known, it is tried. */
export const may = (scope) => !key || key.scopes.includes(scope);
export const mayRead = () => may("feedback:write") || may("feedback:read");

const listed = (scopes, last) => scopes.map((scope) => `${ABLE[scope]} (${scope})`).join(", ").replace(/, ([^,]*)$/, ` ${last} $1`);

/** Asks what the key may do, and says in each view what it may not. */
export async function showAccess() {
  key = await asked("v1/key");
  // Without keys everybody may do all of it.
  const named = key?.name;
  $("other-key").hidden = !named;
  show($("whose"), named && `Your key is “${key.name}” of the owner “${key.owner}”. It may ${listed(key.scopes.filter((scope) => ABLE[scope]), "and")}.`);
  for (const [view, scopes] of Object.entries(NEEDS)) {
    const lacking = scopes.filter((scope) => !may(scope));
    show($(`${view}-lacks`), named && lacking.length > 0 && `Your key, “${key.name}”, may not ${listed(lacking, "or")}. Those who run the server can give it that scope.`);
  }
}
