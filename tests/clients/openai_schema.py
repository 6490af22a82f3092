"""Raw responses against the schema that OpenAI publishes, of which the `openai` package's types are generated: openai_schema.py BASE_URL PHOTO.jpg"""

import json
import math
import unittest

import openai
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.shared import ErrorObject
from pydantic import BaseModel

from common import BASE_URL, STRICT, messages

client = openai.OpenAI(base_url=BASE_URL, api_key="unused", max_retries=0)
completions = client.chat.completions
#: What Candor adds, and nothing else.
OURS = {"guard", "reward", "version", "warnings", "license", "permitted_use"}
ASKED = (
    {},
    {"extra_body": {"guard": STRICT}},
    {"extra_body": {"guard": {"mode": "off"}}, "logprobs": True},
    {"extra_body": {"guard": {"mode": "score"}}, "n": 2, "temperature": 1, "seed": 4},
    {"max_tokens": 2, "logprobs": True, "top_logprobs": 20},
    {"max_completion_tokens": 1, "stop": ["a", "e"]},
    {"messages": [{"role": "system", "content": "Be brief."}, *messages()]},
)


def raw(**more):
    return completions.with_raw_response.create(**{"model": "candor-mini", "messages": messages(), **more})


def chunks(**more):
    """The data of a stream's events, as they came."""
    with completions.with_streaming_response.create(**{"model": "candor-mini", "messages": messages(), **more}, stream=True) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line and not line.startswith(":")]
    assert lines.pop() == "[DONE]"
    return lines


class Schema(unittest.TestCase):
    def valid(self, model, text):
        value = model.model_validate_json(text, strict=True)
        self.only_ours(value)
        return value

    def only_ours(self, value):
        """No field in `value` that is neither OpenAI's nor ours."""
        if isinstance(value, list):
            for item in value:
                self.only_ours(item)
        if isinstance(value, BaseModel):
            self.assertLessEqual(set(value.model_extra or {}), OURS, type(value).__name__)
            for name in value.model_fields_set - OURS:
                self.only_ours(getattr(value, name))

    def test_completions(self):
        for more in ASKED:
            with self.subTest(more):
                answer = self.valid(ChatCompletion, raw(**more).text)
                self.assertEqual(len(answer.choices), more.get("n", 1))

    def test_chunks(self):
        for more in ASKED:
            with self.subTest(more):
                for line in chunks(**more, stream_options={"include_usage": True}):
                    self.valid(ChatCompletionChunk, line)

    def test_errors(self):
        for more in ({"temperature": 9}, {"model": "gpt-4o"}, {"messages": []}, {"messages": 7}, {"extra_body": {"guard": {"mode": "none"}}}):
            with self.subTest(more), self.assertRaises(openai.APIStatusError) as caught:
                raw(**more)
            body = json.loads(caught.exception.response.text)
            self.assertEqual(list(body), ["error"])
            error = ErrorObject.model_validate_json(json.dumps(body["error"]), strict=True)
            self.assertEqual(sorted(body["error"]), ["code", "message", "param", "type"])
            self.assertEqual((error.type, bool(error.message)), ("invalid_request_error", True))

    def test_models(self):
        page = json.loads(client.models.with_raw_response.list().text)
        self.assertEqual((page["object"], len(page["data"])), ("list", 1))
        self.valid(Model, json.dumps(page["data"][0]))
        self.valid(Model, client.models.with_raw_response.retrieve("candor-mini").text)

    def test_logprobs(self):
        for more in ({}, {"temperature": 1, "seed": 2, "n": 3}, {"temperature": 2, "seed": 3, "top_p": 0.9}, {"frequency_penalty": 2}):
            for top in (0, 1, 5, 20):
                with self.subTest(more, top=top):
                    asked = {**more, "logprobs": True, "top_logprobs": top, "max_tokens": 12}
                    answer = self.valid(ChatCompletion, raw(**asked).text)
                    for choice in answer.choices:
                        self.check_tokens(choice.logprobs.content, choice.message.content, top)
                    self.assertEqual(sum(len(c.logprobs.content) for c in answer.choices), answer.usage.completion_tokens)

    def test_logprobs_of_a_stream(self):
        choices = [self.valid(ChatCompletionChunk, line).choices[0] for line in chunks(logprobs=True, top_logprobs=5)]
        for choice in choices:
            if choice.logprobs:
                self.check_tokens(choice.logprobs.content, None, 5)
        tokens = [t for c in choices if c.logprobs for t in c.logprobs.content]
        self.check_tokens(tokens, "".join(c.delta.content or "" for c in choices), 5)

    def check_tokens(self, tokens, text, top):
        if text is not None:
            self.assertEqual(b"".join(bytes(t.bytes) for t in tokens), text.encode())
        for token in tokens:
            self.assertLessEqual(token.logprob, 0)
            self.assertEqual(bytes(token.bytes).decode(errors="replace"), token.token)
            listed = [t.logprob for t in token.top_logprobs]
            self.assertEqual(len(listed), top)
            self.assertEqual(listed, sorted(listed, reverse=True))
            self.assertLessEqual(math.fsum(map(math.exp, listed)), 1 + 1e-5)
            same = [t.logprob for t in token.top_logprobs if t.bytes == token.bytes]
            if same:
                self.assertIn(token.logprob, same)
            elif listed:
                self.assertLessEqual(token.logprob, listed[-1])


if __name__ == "__main__":
    unittest.main()
