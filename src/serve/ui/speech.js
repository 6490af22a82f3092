// Reading aloud, with the browser's own voice, where it has one.

let reading = null;

const canSpeak = () => "speechSynthesis" in window && "SpeechSynthesisUtterance" in window;

/** Has a button read a text aloud, and stop when it is pressed again. */
export function speakButton(button, text) {
  button.hidden = !canSpeak() || !text;
  button.onclick = () => (reading === button ? stop() : start(button, text));
}

function start(button, text) {
  stop();
  const utterance = new SpeechSynthesisUtterance(text);
  utterance.lang = document.documentElement.lang;
  utterance.onend = utterance.onerror = () => reading === button && label(null);
  label(button);
  speechSynthesis.speak(utterance);
}

/** Ends what is being read. */
export function stop() {
  if (reading) speechSynthesis.cancel();
  label(null);
}

function label(button) {
  if (reading) reading.textContent = "Read aloud";
  reading = button;
  if (button) button.textContent = "Stop reading";
}
