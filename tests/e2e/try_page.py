"""The Try page in a real browser: try_page.py TEST BASE_URL [MORE]. A test is a function of this file."""

import base64
import json
import os
import re
import signal
import subprocess
import time

from browser import PHOTOS, ask, describe, expect, look, opened, photo, run, settled, words

KEY = "candor-page-test"


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
        flagged = page.locator(".answer [data-stands=flagged]")
        lack = lambda option: float(option.evaluate("option => option.style.getPropertyValue('--lack')"))
        sure = min(words(page).all(), key=lack)
        assert lack(max(flagged.all(), key=lack)) > 0.6 and lack(sure) < 0.1
        assert flagged.first.evaluate("e => getComputedStyle(e).backgroundColor") != sure.evaluate("e => getComputedStyle(e).backgroundColor")
        flagged.first.hover()
        for said in ["Reward", "How sure the model was of this word", "Other words the model considered"]:
            expect(page.locator("#word")).to_contain_text(said)
        assert re.search(r", flagged, reward \d+.%$", flagged.first.get_attribute("aria-label"))
        alt_text = page.locator(".alt-text").inner_text()
        assert re.search("may be|[Pp]erhaps|[Pp]ossibly", alt_text) and page.locator("#photo-shown").get_attribute("alt") == alt_text
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


def abstained(base):
    """A question that no photograph answers gets a sentence that says so, with the reason, and nothing to correct."""
    with opened(base) as page:
        photo(page)
        page.fill("#question", "What does the sign say?")
        describe(page)
        expect(page.locator(".answer .verdict")).to_have_text("no answer")
        assert page.locator(".answer .words").inner_text() == "I cannot read text in photographs."
        expect(page.locator(".answer .numbers")).to_contain_text("No answer: it asks for text in the picture")
        expect(page.locator(".answer .fixit")).to_be_hidden()
        expect(page.locator("#try-said")).to_contain_text("no answer: I cannot read text in photographs.")


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
        photo(page, "cat.jpg")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        expect(page.locator(".answer")).to_have_count(3)
        expect(page.locator(".verdict")).to_have_text(["not checked", "flagged", "repaired"])
        off, flag, again = [page.locator(".answer").nth(i) for i in range(3)]
        assert off.locator(".words").inner_text() == flag.locator(".words").inner_text() != again.locator(".words").inner_text()
        assert off.locator("[data-stands=flagged]").count() == 0 < flag.locator("[data-stands=flagged]").count()
        again.locator("[data-stands=repaired]").first.focus()
        expect(page.locator("#word")).to_contain_text("It first wrote")
        # What stood there is struck out beside it, and neither read twice nor copied with the text.
        was = "[...document.querySelectorAll('.answer:last-child [data-was]')].map(e => [e.dataset.was, getComputedStyle(e, '::before').content, getComputedStyle(e, '::before').textDecorationLine])"
        struck = page.evaluate(was)
        assert struck and all(json.loads(content) == text and line == "line-through" for text, content, line in struck), struck
        assert all(text not in again.locator(".words").inner_text() for text, _, _ in struck)
        look(page, "compared")


def bad_image(base):
    """What is no picture is refused here; what the server refuses, it explains."""
    with opened(base) as page:
        sent = []
        page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        page.set_input_files("#photo-file", {"name": "notes.jpg", "mimeType": "image/jpeg", "buffer": b"no picture"})
        expect(page.get_by_role("alert")).to_contain_text("notes.jpg is no picture that can be read")
        page.get_by_role("button", name="Describe", exact=True).click()
        expect(page.get_by_role("alert")).to_have_text("First choose a photograph.")
        assert page.evaluate("document.activeElement.id") == "photo-file" and not sent
        photo(page)
        # What was said before is no longer of interest.
        expect(page.get_by_role("alert")).to_have_count(0)
        page.get_by_role("button", name="Describe", exact=True).click()
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
        page.get_by_role("button", name="Describe", exact=True).click()
        expect(page.locator("#try-problem")).to_contain_text("does not answer. Is it running?")
        look(page, "offline")
        # By and by the head of the page says it too.
        expect(page.locator("#server-text")).to_have_text("no answer")


def key(base):
    """Where keys are needed the page asks for one, keeps it in the tab and shows commands that read it from the environment."""
    with opened(base, state="waiting") as page:
        look(page, "locked")
        for wrong, said in [("wrong", "The API key is not known to this server."), ("schlüssel 🔑", "not known to the server")]:
            page.get_by_role("textbox", name="API key").fill(wrong)
            page.keyboard.press("Enter")
            expect(page.get_by_role("alert")).to_contain_text(said)
            expect(page.get_by_role("textbox", name="API key")).to_be_focused()
            assert page.locator("#key-text").get_attribute("aria-invalid") == "true"
        look(page, "a wrong key")
        # Who asks without one is told where to type it; what was refused is there as soon as it is.
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#correct-problem")).to_contain_text("Type it at the top of the page.")
        page.get_by_role("textbox", name="API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        expect(page.locator("#key")).to_be_hidden()
        expect(page.locator("#correct-problem")).to_be_hidden()
        page.goto(f"{base}#try")
        photo(page)
        describe(page)
        command = page.locator("#curl-text").text_content()
        assert "$CANDOR_API_KEY" in command and KEY not in command
        stored = "Promise.all([dump('answers'), dump('photographs')]).then(all => JSON.stringify([all, localStorage]))"
        dump = "const dump = name => new Promise(done => indexedDB.open('candor').onsuccess = e => e.target.result.transaction(name).objectStore(name).getAll().onsuccess = r => done(r.target.result));"
        kept = page.evaluate(f"(() => {{ {dump} return {stored} }})()")
        assert "cat.jpg" in kept and KEY not in kept


def scopes(base, other):
    """Whose key it is and what may be done with it is said; what may not is said where it would be done, and another key can be typed."""
    with opened(base, state="waiting") as page:
        page.get_by_role("textbox", name="API key").fill(KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#whose")).to_have_text("Your key is “page” of the owner “readers”. It may describe photographs (complete).")
        expect(page.locator("#try-lacks")).to_be_hidden()
        photo(page)
        describe(page)
        page.goto(f"{base}#correct")
        page.fill("#annotator", "A. Reader")
        page.keyboard.press("Tab")
        expect(page.locator("#correct-lacks")).to_contain_text("may not send corrections (feedback:write) or take answers from the server’s queue (annotate).")
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#correct-problem")).to_contain_text("lacks the scope `feedback:write`")
        look(page, "a key that lacks a scope")
        page.goto(f"{base}#watch")
        expect(page.locator("#watch-lacks")).to_contain_text("(feedback:read)")
        page.get_by_role("button", name="Use another key").click()
        page.get_by_role("textbox", name="API key").fill(other)
        page.keyboard.press("Enter")
        expect(page.locator("#watch-lacks")).to_be_hidden()
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-lacks")).to_be_hidden()
        page.get_by_role("button", name="All good").click()
        expect(page.locator("#correct-said")).to_contain_text("Recorded.")


def dropped(base):
    """A file is taken wherever it falls, and shown where it is asked about; other things that are dragged are left alone."""
    with opened(base) as page:
        drop = """([bytes, view]) => {
            const transfer = new DataTransfer();
            if (bytes) transfer.items.add(new File([Uint8Array.from(atob(bytes), c => c.charCodeAt(0))], "fallen.jpg", { type: "image/jpeg" }));
            else transfer.setData("text/plain", "a word");
            const event = (type) => new DragEvent(type, { dataTransfer: transfer, bubbles: true, cancelable: true });
            const target = document.getElementById(view) ?? document.querySelector(view);
            const over = event("dragover");
            target.dispatchEvent(over);
            const marked = document.documentElement.classList.contains("over");
            const fallen = event("drop");
            target.dispatchEvent(fallen);
            return [over.defaultPrevented, marked, fallen.defaultPrevented, document.documentElement.classList.contains("over")];
        }"""
        bytes_ = base64.b64encode((PHOTOS / "cat.jpg").read_bytes()).decode()
        for view, target in [("correct", "view-correct"), ("watch", "header"), ("guide", "body"), ("try", "ask")]:
            page.goto(f"{base}#{view}")
            assert page.evaluate(drop, ["", target]) == [False, False, False, False]
            assert page.evaluate(drop, [bytes_, target]) == [True, True, True, False], view
            expect(page.locator("#view-try")).to_be_visible()
            expect(page.locator("#photo-name")).to_have_text("fallen.jpg")
        describe(page)


def examples(base):
    """Every example is there, small, and can be asked about."""
    with opened(base) as page:
        buttons = page.locator("#examples button")
        assert buttons.count() >= 4
        for button in buttons.all():
            assert button.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth > 100)")
            button.click()
            expect(page.locator("#photo-name")).to_have_text(button.get_attribute("data-file"))
        assert "CC0" in page.locator("#examples").inner_text()
        describe(page)


def shared(base):
    """A link has question, mode and rule, and no photograph; what it names wrongly is left as it was."""
    with opened(base, permissions=["clipboard-read", "clipboard-write"]) as page:
        photo(page)
        asked = '<b>What</b> & "who" is #1? 100 %'
        page.fill("#question", asked)
        page.check("input[name=mode][value=block]", force=True)
        page.select_option("#rule", "target_fpr")
        page.locator("#amount").fill("0.2")
        page.get_by_role("button", name="Copy a link").click()
        expect(page.locator("#share")).to_have_text("Copied")
        link = page.evaluate("navigator.clipboard.readText()")
        assert link.startswith(f"{base}#try?") and len(link) < 300 and "cat" not in link
    with opened(base) as page:
        for at in [link, f"{base}#try?mode=none&rule=evil&amount=1", f"{base}#try?rule=toString"]:
            page.goto(at)
            expect(page.locator("#question")).to_have_value(asked)
            assert page.locator("input[value=block]").is_checked()
            assert (page.locator("#rule").input_value(), page.locator("#amount").input_value()) == ("target_fpr", "0.2")
        page.goto(f"{base}#try?question=&mode=flag&rule=threshold&amount=7")
        expect(page.locator("#question")).to_have_value("")
        assert page.locator("#amount").input_value() == "0.95"
        page.reload()
        expect(page.locator("#amount")).to_have_value("0.95")
        # What was typed since stays, and not the link.
        page.goto(f"{base}#try?question=Who%3F")
        expect(page.locator("#question")).to_have_value("Who?")
        page.fill("#question", "Where?")
        page.reload()
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        expect(page.locator("#question")).to_have_value("Where?")


def spoken(base):
    """The alt text is read aloud where the browser can, by key too, and stops when it is asked to."""
    with opened(base) as page:
        page.context.add_init_script("window.spoken = []; speechSynthesis.speak = (u) => spoken.push(u); speechSynthesis.cancel = () => spoken.push(null);")
        page.reload()
        photo(page)
        describe(page)
        button = page.locator(".answer .speak")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_have_text("Stop reading")
        assert page.evaluate("[spoken.at(-1).text, spoken.at(-1).lang]") == [page.locator(".alt-text").inner_text(), "en"]
        page.keyboard.press("Enter")
        expect(button).to_have_text("Read aloud")
        assert page.evaluate("spoken.at(-1)") is None
        page.keyboard.press("Enter")
        page.evaluate("spoken.at(-1).onend()")
        expect(button).to_have_text("Read aloud")
        # Another answer is not the one that is being read.
        page.keyboard.press("Enter")
        describe(page)
        assert page.evaluate("spoken.at(-1)") is None
        page.context.add_init_script("delete window.SpeechSynthesisUtterance")
        page.reload()
        expect(page.locator(".answer .fixit")).to_be_visible()
        expect(page.locator(".answer .speak")).to_be_hidden()


def reloaded(base):
    """Photograph, question and answers are there after a reload, with a short history that can be cleared."""
    with opened(base) as page:
        photo(page, "coffee.jpg")
        describe(page)
        photo(page)
        page.fill("#question", "Is there a dog?")
        page.get_by_role("button", name="Compare").click()
        settled(page)
        before = page.locator(".answer .words").all_inner_texts()
        numbers = words(page).first.get_attribute("aria-label")
        page.reload()
        expect(page.locator(".answer")).to_have_count(3)
        assert page.locator(".answer .words").all_inner_texts() == before and words(page).first.get_attribute("aria-label") == numbers
        expect(page.locator("#photo-name")).to_have_text("cat.jpg")
        expect(page.locator("#question")).to_have_value("Is there a dog?")
        look(page, "reloaded")
        # What came before can be looked at again, and asked again.
        expect(page.locator("#earlier-list li")).to_have_count(2)
        page.locator("#earlier-list button").last.click()
        expect(page.locator(".answer")).to_have_count(1)
        expect(page.locator("#photo-name")).to_have_text("coffee.jpg")
        expect(page.locator("#question")).to_have_value("")
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#earlier")).to_be_hidden()
        expect(page.locator("#photo-shown")).to_be_hidden()
        page.reload()
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        assert page.locator(".answer").count() == 0 and page.locator("#earlier-list li").count() == 0
        page.goto(f"{base}#correct")
        expect(page.locator("#correct-empty")).to_be_visible()


def another(base):
    """Answers do not stay below another photograph, nor come back below it after a reload; of two files the one that was chosen last is taken."""
    with opened(base) as page:
        photo(page, "coffee.jpg")
        describe(page)
        photo(page)
        expect(page.locator(".answer")).to_have_count(0)
        expect(page.locator("#earlier-list li")).to_have_count(1)
        page.reload()
        expect(page.locator("#earlier-list li")).to_have_count(1)
        expect(page.locator("#photo-name")).to_have_text("cat.jpg")
        assert page.locator(".answer").count() == 0
        page.locator("#earlier-list button").click()
        expect(page.locator(".answer")).to_have_count(1)
        expect(page.locator("#photo-name")).to_have_text("coffee.jpg")
        # The first file is read when the second is there.
        page.evaluate("""() => {
            const read = createImageBitmap;
            window.createImageBitmap = async (file) => {
                if (file.name === "cat.jpg") await new Promise((go) => (window.release = go));
                return read(file);
            };
        }""")
        page.set_input_files("#photo-file", PHOTOS / "cat.jpg")
        photo(page, "photographer.jpg")
        page.evaluate("release()")
        describe(page)
        expect(page.locator("#photo-name")).to_have_text("photographer.jpg")
        # Asking waits for the file that was chosen.
        page.set_input_files("#photo-file", PHOTOS / "cat.jpg")
        page.get_by_role("button", name="Describe", exact=True).click()
        page.evaluate("release()")
        settled(page)
        expect(page.locator("#photo-name")).to_have_text("cat.jpg")
        expect(page.locator("#earlier-list li")).to_have_count(3)


def bounded(base):
    """The history stays short, and is removed after a day."""
    with opened(base) as page:
        photo(page)
        for _ in range(8):
            page.get_by_role("button", name="Compare").click()
            settled(page)
        # A reload cuts off what is still being written; this waits its turn behind it.
        page.evaluate("new Promise(done => indexedDB.open('candor').onsuccess = e => e.target.result.transaction('answers', 'readwrite').oncomplete = done)")
        page.reload()
        expect(page.locator(".answer")).to_have_count(3)
        count = "new Promise(done => indexedDB.open('candor').onsuccess = e => e.target.result.transaction('answers').objectStore('answers').count().onsuccess = r => done(r.target.result))"
        assert page.evaluate(count) == 20
        page.clock.set_system_time(time.time() + 90_000)
        page.reload()
        expect(page.locator("#server")).to_have_attribute("data-state", "ready")
        page.wait_for_function(f"{count}.then(count => count === 0)")
        assert page.locator(".answer").count() == 0 and page.locator("#photo-shown").is_hidden()


def enlarged(base):
    """The photograph, large, by keys and by buttons."""
    with opened(base) as page:
        expect(page.locator("#zoom")).to_be_hidden()
        photo(page)
        page.get_by_role("button", name="Enlarge").focus()
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        assert page.locator("#zoom-picture").get_attribute("alt") == "Your photograph, cat.jpg"
        page.keyboard.press("+")
        expect(page.locator("#zoom-said")).to_contain_text("150")
        page.get_by_role("button", name="Larger").click()
        expect(page.locator("#zoom-said")).to_contain_text("225")
        page.locator("#zoom-frame").focus()
        before = page.locator("#zoom-frame").evaluate("e => e.scrollTop")
        page.keyboard.press("ArrowDown")
        page.wait_for_function("before => document.getElementById('zoom-frame').scrollTop > before", arg=before)
        look(page, "enlarged")
        page.keyboard.press("0")
        expect(page.locator("#zoom-said")).to_have_text("The whole photograph")
        assert page.get_by_role("button", name="Smaller").is_disabled()
        page.keyboard.press("Escape")
        expect(page.locator("#zoom")).to_be_hidden()
        assert page.evaluate("document.activeElement.dataset.enlarges") == "photo-shown"


def kept(base, *expected):
    """What is kept, for how long and who sees it is said as this server is set up, before anything is sent."""
    with opened(base, state="ready" if "has a key" not in " ".join(expected) else "waiting") as page:
        for text in expected:
            expect(page.locator("#kept")).to_contain_text(text)
        assert page.locator("#kept").is_visible()


if __name__ == "__main__":
    run(globals())
