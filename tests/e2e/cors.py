"""Pages of other origins in a real browser: cors.py PORT BASE_URL KEY. The server takes http://127.0.0.1:PORT, and no other origin."""

import base64
import functools
import http.server
import sys
import threading

from browser import CHROMIUM, PHOTOS, ROOT
from playwright.sync_api import sync_playwright

PORT, BASE, KEY = int(sys.argv[1]), sys.argv[2], sys.argv[3]
#: The official client for JavaScript, whose modules a browser loads as they are.
CLIENT = ROOT / "tests/clients/js/node_modules/openai"

ASK = """async ([base, key, body]) => {
  const headers = {"content-type": "application/json", authorization: `Bearer ${key}`, "idempotency-key": "k"};
  const reply = await fetch(`${base}/v1/chat/completions`, {method: "POST", headers, body: JSON.stringify(body)});
  return [reply.status, reply.headers.get("x-candor-verdict"), reply.headers.get("x-request-id"), await reply.json()];
}"""

CLIENTS_ASK = """async ([base, key, body]) => {
  const {OpenAI} = await import("/index.mjs");
  const client = new OpenAI({baseURL: `${base}/v1`, apiKey: key, dangerouslyAllowBrowser: true, maxRetries: 0});
  const whole = await client.chat.completions.create(body);
  let text = "";
  for await (const chunk of await client.chat.completions.create({...body, stream: true})) text += chunk.choices[0]?.delta?.content ?? "";
  return [whole.choices[0].message.content, text, whole.choices[0].guard.verdict];
}"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    extensions_map = {".mjs": "text/javascript", ".html": "text/html", "": "text/plain"}

    def log_message(self, *_):
        pass


def page_of(playwright_browser, port):
    """A page whose origin is that port of this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), functools.partial(Quiet, directory=CLIENT))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    page = playwright_browser.new_page()
    page.goto(f"http://127.0.0.1:{server.server_port}/package.json")
    return page


url = "data:image/jpeg;base64," + base64.b64encode((PHOTOS / "cat.jpg").read_bytes()).decode()
content = [{"type": "text", "text": "Describe this photograph."}, {"type": "image_url", "image_url": {"url": url}}]
body = {"model": "candor-mini", "messages": [{"role": "user", "content": content}]}

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
    page = page_of(browser, PORT)
    status, verdict, request_id, answer = page.evaluate(ASK, [BASE, KEY, body])
    assert status == 200 and request_id and verdict == answer["choices"][0]["guard"]["verdict"], (status, verdict, request_id)
    # A page reads why it is refused.
    status, _, request_id, answer = page.evaluate(ASK, [BASE, "sk-wrong", body])
    assert (status, answer["error"]["code"]) == (401, "invalid_api_key") and request_id, (status, answer)
    whole, text, verdict = page.evaluate(CLIENTS_ASK, [BASE, KEY, body])
    assert whole and whole == text and verdict, (whole, text, verdict)
    other = page_of(browser, 0)
    refused = other.evaluate(f"(asked) => ({ASK})(asked).then(() => 'answered', error => error.name)", [BASE, KEY, body])
    assert refused == "TypeError", refused
    browser.close()
print("OK")
