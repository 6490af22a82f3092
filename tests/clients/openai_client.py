"""The official OpenAI client against a running Candor: openai_client.py BASE_URL PHOTO.jpg"""

import asyncio
import base64
import sys
import unittest
import urllib.request

import openai
from prometheus_client.parser import text_string_to_metric_families

BASE_URL, PHOTO = sys.argv.pop(1), sys.argv.pop(1)
client = openai.OpenAI(base_url=BASE_URL, api_key="unused", max_retries=0)


def messages(text="What is in this picture?", url=None):
    if url is None:
        with open(PHOTO, "rb") as photo:
            url = "data:image/jpeg;base64," + base64.b64encode(photo.read()).decode()
    image = {"type": "image_url", "image_url": {"url": url}}
    return [{"role": "user", "content": [{"type": "text", "text": text}, image]}]


def create(**more):
    return client.chat.completions.create(**{"model": "candor-mini", "messages": messages(), **more})


class Chat(unittest.TestCase):
    def test_plain(self):
        answer = create()
        choice = answer.choices[0]
        self.assertTrue(choice.message.content)
        self.assertEqual(choice.message.role, "assistant")
        self.assertIn(choice.finish_reason, ("stop", "length"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertEqual(answer.model, "candor-mini")

    def test_stream_is_the_whole_answer(self):
        whole = create(seed=3, temperature=1).choices[0].message.content
        stream = create(seed=3, temperature=1, stream=True, stream_options={"include_usage": True})
        chunks = list(stream)
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        self.assertEqual(text, whole)
        self.assertGreater(chunks[-1].usage.completion_tokens, 0)
        self.assertTrue(any(c.choices and c.choices[0].finish_reason for c in chunks))

    def test_stream_helper(self):
        with client.chat.completions.stream(model="candor-mini", messages=messages()) as stream:
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, create().choices[0].message.content)

    def test_guard_through_extra_body(self):
        guard = create(extra_body={"guard": {"mode": "flag", "threshold": 1.0}}).choices[0].guard
        self.assertEqual((guard["verdict"], guard["threshold"]), ("flagged", 1.0))
        self.assertTrue(guard["spans"])
        off = create(extra_body={"guard": {"mode": "off"}}).choices[0].guard
        self.assertEqual(off["verdict"], "unscored")
        summaries = [c.choices[0].guard for c in create(stream=True, extra_body={"guard": {"threshold": 1.0}}) if getattr(c.choices[0], "guard", None)]
        self.assertEqual(summaries[-1]["verdict"], "flagged")

    def test_headers(self):
        raw = client.chat.completions.with_raw_response.create(
            model="candor-mini", messages=messages(), extra_headers={"x-request-id": "trace-1"}
        )
        self.assertEqual(raw.headers["x-request-id"], "trace-1")
        self.assertEqual(raw.headers["x-candor-verdict"], raw.parse().choices[0].guard["verdict"])

    def test_several_answers_and_logprobs(self):
        answer = create(n=2, seed=1, temperature=1.2, logprobs=True, top_logprobs=2)
        self.assertEqual([c.index for c in answer.choices], [0, 1])
        for choice in answer.choices:
            tokens = choice.logprobs.content
            self.assertEqual(b"".join(bytes(t.bytes) for t in tokens).decode(), choice.message.content)
            self.assertTrue(all(len(t.top_logprobs) == 2 and t.logprob <= 0 and 0 <= t.reward <= 1 for t in tokens))

    def test_asynchronous(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="unused") as many:
                one = lambda: many.chat.completions.create(model="candor-mini", messages=messages())
                return await asyncio.gather(*(one() for _ in range(4)))

        self.assertEqual(len({a.choices[0].message.content for a in asyncio.run(ask())}), 1)

    def test_models(self):
        self.assertEqual([m.id for m in client.models.list()], ["candor-mini"])
        self.assertEqual(client.models.retrieve("candor-mini").object, "model")

    def test_errors_are_the_clients_exceptions(self):
        for exception, param, more in (
            (openai.BadRequestError, "temperature", {"temperature": 9}),
            (openai.NotFoundError, "model", {"model": "gpt-4o"}),
            (openai.BadRequestError, "messages", {"messages": []}),
            (openai.BadRequestError, "messages[0].content[1].image_url.url", {"messages": messages(url="https://example.org/a.jpg")}),
            (openai.BadRequestError, "guard.mode", {"extra_body": {"guard": {"mode": "repair"}}}),
            (openai.BadRequestError, "tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
        ):
            with self.assertRaises(exception) as caught:
                create(**more)
            self.assertEqual(caught.exception.param, param)
            self.assertIn(param.split(".")[0].split("[")[0], str(caught.exception))

    def test_prometheus_reads_the_metrics(self):
        def scrape():
            with urllib.request.urlopen(BASE_URL.removesuffix("/v1") + "/metrics") as page:
                families = text_string_to_metric_families(page.read().decode())
                return {(s.name, tuple(sorted(s.labels.items()))): s.value for f in families for s in f.samples}

        before = scrape()
        used = create(extra_body={"guard": {"threshold": 1.0}}).usage
        after = scrape()
        grown = lambda name, *labels: after[name, labels] - before[name, labels]
        self.assertGreaterEqual(grown("candor_generation_tokens_total"), used.completion_tokens)
        self.assertGreaterEqual(grown("candor_prompt_tokens_total"), used.prompt_tokens)
        self.assertGreaterEqual(grown("candor_responses_total", ("verdict", "flagged")), 1)
        self.assertGreaterEqual(grown("candor_token_reward_count"), 1)

    def test_too_much(self):
        with self.assertRaises(openai.APIStatusError) as caught:
            create(messages=messages(text="x" * 30_000_000))
        self.assertEqual(caught.exception.status_code, 413)


if __name__ == "__main__":
    unittest.main()
