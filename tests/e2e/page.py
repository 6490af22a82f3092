"""The page in a real browser: page.py TEST BASE_URL [PROCESS]. A test is a function of this file."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request

from browser import PHOTOS, describe, expect, look, opened, photo, settled, words

KEY = "candor-page-test"


def ask(base, name):
    """Asks as another client would."""
    url = "data:image/jpeg;base64," + base64.b64encode((PHOTOS / name).read_bytes()).decode()
    content = [{"type": "text", "text": "Describe this photograph."}, {"type": "image_url", "image_url": {"url": url}}]
    body = {"model": "candor-mini", "messages": [{"role": "user", "content": content}], "guard": {"mode": "flag"}}
    request = urllib.request.Request(f"{base}v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def caption(base):
    """A photograph is described while one watches; each word has its numbers."""
    with opened(base) as page:
        with page.expect_request("**/v1/chat/completions") as asked:
            photo(page)
            describe(page)
        request = asked.value.post_data_json
        assert request["stream"] and request["logprobs"] and request["guard"] == {"mode": "flag"}
        assert page.locator(".answer .words").inner_text() == ask(base, "cat.jpg")["choices"][0]["message"]["content"]
        expect(page.locator(".answer .verdict")).to_have_text("flagged")
        doubted = page.locator(".answer [data-stands=doubted]")
        lack = lambda option: float(option.evaluate("option => option.style.getPropertyValue('--lack')"))
        sure = min(words(page).all(), key=lack)
        assert lack(max(doubted.all(), key=lack)) > 0.6 and lack(sure) < 0.1
        assert doubted.first.evaluate("e => getComputedStyle(e).backgroundColor") != sure.evaluate("e => getComputedStyle(e).backgroundColor")
        doubted.first.hover()
        for said in ["reward", "likelihood", "Also in mind"]:
            expect(page.locator("#word")).to_contain_text(said)
        assert re.search(r", doubted, reward \d+.%$", doubted.first.get_attribute("aria-label"))
        alt_text = page.locator(".alt-text").inner_text()
        assert "may be" in alt_text and page.locator("#photo-shown").get_attribute("alt") == alt_text
        expect(page.locator("#try-said")).to_contain_text(f"flagged: {alt_text}")


def question(base):
    """A question, a mode and a rule go out as they were set."""
    with opened(base) as page:
        photo(page)
        page.fill("#question", 'What\'s "100 %" \\ of it?')
        page.select_option("#rule", "target_fpr")
        page.locator("#amount").fill("0.2")
        expect(page.locator("#amount-said")).to_contain_text("20")
        with page.expect_request("**/v1/chat/completions") as asked:
            describe(page, "block")
        request = asked.value.post_data_json
        assert request["messages"][0]["content"][0]["text"] == 'What\'s "100 %" \\ of it?'
        assert request["guard"] == {"mode": "block", "target_fpr": 0.2}
        # The command that the page shows asks the same.
        page.locator("#curl summary").click()
        command = page.locator("#curl-text").inner_text().replace("curl -sN", "cat; true")
        sent = subprocess.run(["bash", "-c", command], cwd=PHOTOS, capture_output=True, check=True, text=True).stdout
        assert json.loads(sent) == {key: request[key] for key in ["model", "messages", "guard"]}


def curl(base):
    """The command, run as it is shown, gives what the page gives."""
    with opened(base) as page:
        photo(page)
        describe(page)
        command = page.locator("#curl-text").text_content()
        answer = json.loads(subprocess.run(["bash", "-c", command], cwd=PHOTOS, capture_output=True, check=True).stdout)
        assert answer["choices"][0]["message"]["content"] == page.locator(".answer .words").inner_text()


def compare(base):
    """Three modes side by side: only where nobody looked is nothing shaded, and what was written again says what it was."""
    with opened(base) as page:
        photo(page, "coffee.jpg")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        expect(page.locator(".answer")).to_have_count(3)
        expect(page.locator(".verdict")).to_have_text(["not scored", "flagged", "repaired"])
        off, flag, again = [page.locator(".answer").nth(i) for i in range(3)]
        assert off.locator(".words").inner_text() == flag.locator(".words").inner_text() != again.locator(".words").inner_text()
        assert off.locator("[data-stands=doubted]").count() == 0 < flag.locator("[data-stands=doubted]").count()
        again.locator("[data-stands=repaired]").first.focus()
        expect(page.locator("#word")).to_contain_text("It first wrote")
        look(page, "compared")


def keyboard(base):
    """Everything without a mouse, up to the field where the right word is typed."""
    with opened(base) as page:
        on = lambda: page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

        def tab_to(what):
            for _ in range(30):
                page.keyboard.press("Tab")
                if on() == what:
                    assert page.evaluate("document.activeElement.matches(':focus-visible')"), what
                    return
            raise AssertionError(f"Tab does not reach {what}")

        tab_to("Skip to the content")
        page.keyboard.press("Enter")
        tab_to("photo-example")
        page.keyboard.press("Enter")
        expect(page.locator("#photo-name")).to_have_text("cat.jpg")
        tab_to("question")
        page.keyboard.press("Tab")
        page.keyboard.press("ArrowRight")
        assert page.locator("input[value=regenerate]").is_checked()
        page.keyboard.press("ArrowLeft")
        tab_to("describe")
        page.keyboard.press("Enter")
        settled(page)
        first = words(page).first.inner_text()
        tab_to(first)
        page.keyboard.press("ArrowRight")
        second = words(page).nth(1).inner_text()
        assert on() == second
        expect(page.locator("#word b")).to_have_text(second)
        page.keyboard.press("End")
        assert on() == words(page).last.inner_text()
        page.keyboard.press("Home")
        assert on() == first
        tab_to("Correct it")
        page.keyboard.press("Enter")
        expect(page.locator("#item")).to_be_visible()
        # The first doubted word has the focus; typing begins at once.
        doubted = page.locator("#item-words [data-stands=doubted]").first.inner_text()
        assert on() == doubted
        page.keyboard.type("cat")
        assert on() == "fix-text" and page.locator("#fix-text").input_value() == "cat"
        expect(page.locator("#fix-label")).to_have_text(f"Instead of “{doubted}”, write")
        page.keyboard.press("Shift+Enter")
        expect(page.locator("#staged li")).to_have_text(re.compile(f"{doubted} → cat"))
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Delete")
        expect(page.locator("#staged li")).to_have_count(2)
        # What the model had in mind is in reach of Tab.
        page.keyboard.press("Home")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        chip = page.locator("#fix-chips button").first.inner_text()
        tab_to(chip)
        page.keyboard.press("Enter")
        assert on() == "fix-text" and page.locator("#fix-text").input_value() == chip
        page.keyboard.press("Escape")
        assert page.locator("#fix").is_hidden() and page.locator("#staged li").count() == 2


def correct(base):
    """A correction becomes a record, which the page shows; then the next item."""
    with opened(base) as page:
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-empty")).to_be_visible()
        page.goto(f"{base}#try")
        photo(page)
        for mode in ["flag", "off", "flag"]:
            describe(page, mode)
        page.get_by_role("button", name="Correct it").click()
        page.fill("#annotator", "A. Reader")
        wrong = words(page, "#item").nth(1).inner_text().strip()
        words(page, "#item").nth(1).click()
        assert page.locator("#fix-text").evaluate("e => e.selectionEnd - e.selectionStart") == len(wrong)
        page.keyboard.type("cat")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-said")).to_have_text("Recorded. Here is the next one.")
        page.locator("#records summary").first.click()
        record = json.loads(page.locator("#records pre").first.inner_text())
        assert (record["kind"], record["scope"], record["annotator"]) == ("bad", "first_error", "A. Reader")
        assert [(e["text"], e["correction"]) for e in record["errors"]] == [(wrong, "cat")]
        assert [t["label"] for t in record["tokens"]][:3] == ["good", "bad", "none"]
        expect(page.locator("#records tr[data-label=bad] th")).to_have_text(wrong)
        # What the page shows is what the server keeps.
        kept = json.load(urllib.request.urlopen(f"{base}v1/feedback/{record['id']}"))
        assert kept["errors"] == record["errors"]
        look(page, "corrected")
        # Several errors: then the rest is right.
        words(page, "#item").nth(1).click()
        page.keyboard.type("cat")
        page.get_by_role("button", name="Keep it and mark more").click()
        words(page, "#item").last.click()
        page.fill("#fix-text", "")
        page.keyboard.press("Enter")
        expect(page.locator("#records > li")).to_have_count(2)
        record = json.loads(page.locator("#records pre").first.text_content())
        assert record["scope"] == "all_errors" and [e.get("correction") for e in record["errors"]] == ["cat", ""], record
        # What is left out, at the last; then nothing is waiting.
        page.get_by_role("button", name="Something is missing").click()
        page.keyboard.type("a cat's whiskers")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-empty")).to_be_visible()
        record = json.loads(page.locator("#records pre").first.text_content())
        assert (record["kind"], record["missing"]) == ("missing", ["a cat's whiskers"])


def judge(base):
    """All good, and an edit of the whole text."""
    with opened(base) as page:
        photo(page)
        describe(page)
        describe(page, "off")
        page.goto(f"{base}#correct")
        text = page.locator("#item-words").inner_text()
        page.get_by_role("button", name="Edit the text").click()
        assert page.locator("#edit-text").input_value() == text
        page.fill("#edit-text", text.replace("dog", "cat"))
        page.locator("#edit-form button").click()
        expect(page.locator("#records > li")).to_have_count(1)
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(2)
        good, edit = [json.loads(text) for text in page.locator("#records pre").all_text_contents()]
        assert good["kind"] == "good" and {t["label"] for t in good["tokens"]} == {"good"}
        assert [(e["text"], e["correction"]) for e in edit["errors"]] == [("dog", "cat")]


def queued(base):
    """Answers that others asked for come from the server's queue, with marks; they are corrected or left to others."""
    asked = {answer["id"]: answer["choices"][0] for answer in [ask(base, "cat.jpg"), ask(base, "coffee.jpg")]}
    with opened(base) as page:
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-empty")).to_be_visible()
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#item")).to_be_visible()
        text = page.locator("#item-words").inner_text()
        choice = next(c for c in asked.values() if c["message"]["content"] == text)
        marked = page.locator("#item-words [data-stands=doubted]").all_inner_texts()
        assert marked == [word for span in choice["guard"]["spans"] for word in span["text"].split()], marked
        assert page.locator("#item-photo").evaluate("image => image.complete && image.naturalWidth > 0")
        look(page, "an item of the queue")
        page.keyboard.type("thing")
        page.keyboard.press("Enter")
        expect(page.locator("#correct-said")).to_have_text("Recorded. Here is the next one.")
        record = json.loads(page.locator("#records pre").first.text_content())
        assert asked[record["completion_id"]] == choice and record["errors"][0]["correction"] == "thing"
        assert page.locator("#item-words").inner_text() != text
        page.get_by_role("button", name="Skip").click()
        expect(page.locator("#correct-empty")).to_be_visible()
        length = json.load(urllib.request.urlopen(f"{base}v1/queue"))
        assert (length["open"], length["done"], length["leased"]) == (1, 1, 0), length
        page.goto(f"{base}#watch")
        expect(page.get_by_role("region", name="Annotation queue")).to_contain_text("1waiting, 0 of them being judged now; 1 done.")


def unmarked(base):
    """What is judged without help is shown without marks."""
    ask(base, "cat.jpg")
    with opened(base) as page:
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#item-plain")).to_be_visible()
        assert page.locator("#item-words [data-stands=doubted]").count() == 0
        assert all("reward" not in option.get_attribute("aria-label") for option in words(page, "#item").all())
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(1)


def bad_image(base):
    """What is no picture is refused here; what the server refuses, it explains."""
    with opened(base) as page:
        sent = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        page.set_input_files("#photo-file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
        expect(page.get_by_role("alert")).to_contain_text("notes.jpg is no picture that can be read")
        page.get_by_role("button", name="Describe").click()
        expect(page.get_by_role("alert")).to_have_text("First choose a photograph.")
        assert page.evaluate("document.activeElement.id") == "photo-file" and not sent
        photo(page)
        page.get_by_role("button", name="Describe").click()
        # This server takes smaller ones.
        expect(page.get_by_role("alert")).to_contain_text("pixels")
        expect(page.locator(".answer .verdict")).to_have_text("failed")
        look(page, "refused")


def offline(base, process):
    """The server goes: the page says so, and keeps what it has."""
    with opened(base) as page:
        photo(page)
        describe(page)
        before = page.locator(".answer .words").inner_text()
        os.kill(int(process), signal.SIGKILL)
        page.goto(f"{base}#correct")
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#correct-problem")).to_contain_text("does not answer. Is it running?")
        assert page.locator("#item-words").inner_text() == before
        page.goto(f"{base}#watch")
        expect(page.locator("#watch-problem")).to_contain_text("does not answer")
        page.goto(f"{base}#try")
        page.get_by_role("button", name="Describe").click()
        expect(page.locator("#try-problem")).to_contain_text("does not answer. Is it running?")
        look(page, "offline")
        # By and by the head of the page says it too.
        expect(page.locator("#server-text")).to_have_text("no answer")


def key(base):
    """Where keys are needed the page asks for one, keeps it in the tab and shows commands that read it from the environment."""
    with opened(base, state="waiting") as page:
        look(page, "locked")
        page.get_by_role("textbox", name="API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_be_visible()
        page.get_by_role("textbox", name="API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        expect(page.locator("#key")).to_be_hidden()
        photo(page)
        describe(page)
        command = page.locator("#curl-text").text_content()
        assert "$CANDOR_API_KEY" in command and KEY not in command
        assert page.evaluate("JSON.stringify(localStorage)").find(KEY) < 0


def watch(base):
    """What the page shows of the metrics is what the server counted."""
    with opened(base) as page:
        photo(page)
        describe(page)
        describe(page, "regenerate")
        describe(page, "off")
        page.goto(f"{base}#watch")
        card = lambda title: page.get_by_role("region", name=title)
        # One answer more than these three: the server asks itself when it starts.
        expect(card("Answers with doubted words")).to_contain_text("scored answers")
        shares = card("Verdicts").get_by_role("img").get_attribute("aria-label")
        text = urllib.request.urlopen(f"{base}metrics").read().decode()
        counted = {v: int(n) for v, n in re.findall(r'candor_responses_total\{verdict="(\w+)"\} (\d+)', text) if int(n)}
        assert shares == ", ".join(f"{'not scored' if v == 'unscored' else v} {counted[v]}" for v in ["clean", "flagged", "repaired", "blocked", "unscored"] if v in counted)
        below = sum(int(n) for n in re.findall(r'candor_token_reward_bucket\{le="0.3"\} (\d+)', text))
        assert card("Rewards of tokens").get_by_role("img").get_attribute("aria-label").startswith(f"{below} of ")
        expect(card("Most doubted words")).to_contain_text("dog")
        # What people say joins the figures.
        page.goto(f"{base}#correct")
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#records > li")).to_have_count(1)
        words(page, "#item").first.click()
        page.keyboard.type("One")
        page.keyboard.press("Enter")
        expect(page.locator("#records > li")).to_have_count(2)
        page.goto(f"{base}#watch")
        expect(card("Judgements of people")).to_contain_text("all good 1")
        expect(card("Most corrected").get_by_role("listitem")).to_have_text("a 1")
        judged = sum(sum(t["label"] != "none" and "reward" in t for t in json.loads(text)["tokens"]) for text in page.locator("#records pre").all_text_contents())
        expect(card("Calibration of rewards")).to_contain_text(f"{judged} tokens judged")


def every_view(base, **context):
    """All views, filled, as axe sees them."""
    with opened(base, **context) as page:
        look(page, "try, empty")
        photo(page)
        describe(page)
        page.locator(".answer [data-stands=doubted]").first.hover()
        page.locator("#curl summary").click()
        look(page, "try")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        look(page, "compare")
        page.goto(f"{base}#correct")
        expect(page.locator("#item")).to_be_visible()
        page.keyboard.type("c")
        look(page, "correct")
        page.keyboard.press("Shift+Enter")
        page.get_by_role("button", name="Something is missing").click()
        page.get_by_role("button", name="Edit the text").click()
        look(page, "correct, forms")
        page.goto(f"{base}#watch")
        expect(page.locator(".card").first).to_be_visible()
        look(page, "watch")
        page.goto(f"{base}#guide")
        expect(page.get_by_role("heading", name="Guide for annotators")).to_be_visible()
        look(page, "guide")
        return page.evaluate("getComputedStyle(document.documentElement).backgroundColor")


def light(base):
    assert every_view(base, color_scheme="light") == "rgb(248, 246, 241)"


def dark(base):
    assert every_view(base, color_scheme="dark") == "rgb(20, 23, 27)"


def narrow(base):
    """A phone of 360 px: nothing is cut off or scrolls sideways."""
    every_view(base, viewport={"width": 360, "height": 740}, has_touch=True)


def calm(base):
    """Who wants no motion has none; who enlarges letters twice still reads everything."""
    with opened(base, reduced_motion="reduce", viewport={"width": 590, "height": 450}) as page:
        moving = "[...document.querySelectorAll('*')].some(e => parseFloat(getComputedStyle(e).transitionDuration) > 0)"
        photo(page)
        describe(page)
        assert not page.evaluate(moving)
        look(page, "enlarged")


def screenshots(base, folder):
    """Not a test: the pictures of the README."""
    with opened(base, viewport={"width": 1080, "height": 1000}) as page:
        photo(page, "coffee.jpg")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        page.locator(".answer").nth(1).locator("[data-stands=doubted]").last.focus()
        shoot(page, f"{folder}/page-try.jpg")
    with opened(base, color_scheme="dark", viewport={"width": 1080, "height": 800}) as page:
        photo(page)
        describe(page)
        page.get_by_role("button", name="Correct it").click()
        page.locator("#item [data-stands=doubted]").last.focus()
        page.keyboard.type("cat")
        shoot(page, f"{folder}/page-correct.jpg")


def shoot(page, path):
    page.mouse.move(0, 0)
    page.wait_for_timeout(500)
    page.screenshot(path=path, type="jpeg", quality=82, full_page=True)


if __name__ == "__main__":
    name, base, *more = sys.argv[1:]
    globals()[name](base, *more)
