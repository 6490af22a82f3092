"""The official OpenAI client against a running Candor: openai_client.py BASE_URL PHOTO.jpg"""

import asyncio
import unittest
import urllib.request

import openai
from prometheus_client.parser import text_string_to_metric_families

from common import BASE_URL, STRICT, messages

client = openai.OpenAI(base_url=BASE_URL, api_key="unused", max_retries=0)


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
        choice = create(extra_body={"guard": STRICT}).choices[0]
        guard = choice.model_extra["guard"]
        self.assertEqual(choice.guard, guard)
        self.assertEqual((guard["verdict"], guard["threshold"]), ("flagged", 1.0))
        for span in guard["spans"]:
            self.assertEqual(choice.message.content[span["start"] : span["end"]], span["text"])
        off = create(extra_body={"guard": {"mode": "off"}}).choices[0].guard
        self.assertEqual(off["verdict"], "unscored")

    def test_guard_of_a_stream(self):
        whole = create(extra_body={"guard": STRICT}).choices[0].guard
        guards = [c.choices[0].model_extra["guard"] for c in create(stream=True, extra_body={"guard": STRICT}) if "guard" in c.choices[0].model_extra]
        self.assert_same_guard(guards, whole)

    def assert_same_guard(self, guards, whole):
        """The last says everything; those before it close the spans one by one."""
        *closing, summary = guards
        self.assertEqual((summary["verdict"], summary["alt_text"]), (whole["verdict"], whole["alt_text"]))
        words = lambda spans: [(s["start"], s["end"], s["text"]) for s in spans]
        self.assertEqual(words(summary["spans"]), words(whole["spans"]))
        self.assertEqual([w for guard in closing for w in words(guard["spans"])], words(whole["spans"]))

    def test_warnings(self):
        system = [{"role": "system", "content": "Be brief."}, *messages()]
        answer = create(messages=system)
        self.assertEqual([(w["code"], w["param"]) for w in answer.model_extra["warnings"]], [("ignored", "messages[0]")])
        self.assertEqual(answer.choices[0].message.content, create().choices[0].message.content)
        *others, last = list(create(messages=system, stream=True))
        self.assertTrue(last.choices[0].finish_reason and not any("warnings" in c.model_extra for c in others))
        self.assertEqual(last.model_extra["warnings"], answer.model_extra["warnings"])
        self.assertNotIn("warnings", create().model_extra)

    def test_what_is_meant_for_other_servers_is_refused(self):
        for field, value in (("repetition_penalty", 1.2), ("guided_choice", ["yes", "no"]), ("Guard", {"mode": "off"}), ("extra_body", {"guard": {}, "top_k": 1})):
            with self.assertRaises(openai.BadRequestError) as caught:
                create(extra_body={field: value})
            self.assertEqual((caught.exception.param, caught.exception.code), (field, "unsupported_parameter"))

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
        whole = create(extra_body={"guard": STRICT}).choices[0]

        async def ask():
            async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="unused", max_retries=0) as many:
                ask = lambda **more: many.chat.completions.create(
                    model="candor-mini", messages=messages(), extra_body={"guard": STRICT}, **more
                )
                answers = await asyncio.gather(*(ask() for _ in range(4)))
                chunks = [chunk async for chunk in await ask(stream=True)]
                return [a.choices[0] for a in answers], [c.choices[0] for c in chunks]

        answers, chunks = asyncio.run(ask())
        for answer in answers:
            self.assertEqual((answer.message, answer.guard["verdict"]), (whole.message, "flagged"))
        self.assertEqual("".join(c.delta.content or "" for c in chunks), whole.message.content)
        self.assert_same_guard([c.guard for c in chunks if "guard" in c.model_extra], whole.guard)

    def test_leaving_a_stream_early(self):
        with create(stream=True) as stream:
            self.assertEqual(next(iter(stream)).choices[0].delta.role, "assistant")
        self.assertTrue(create().choices[0].message.content)

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
