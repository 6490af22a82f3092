// The official OpenAI client for JavaScript against a running Candor: node client.mjs BASE_URL PHOTO.jpg

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import OpenAI, { APIError, BadRequestError, NotFoundError } from "openai";

const [baseURL, photo] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "unused", maxRetries: 0 });
const dataUrl = `data:image/jpeg;base64,${readFileSync(photo).toString("base64")}`;
// Every word is under this threshold.
const strict = { mode: "flag", threshold: 1 };

function asked(more = {}, url = dataUrl) {
  const content = [{ type: "text", text: "What is in this picture?" }, { type: "image_url", image_url: { url } }];
  return { model: "candor-mini", messages: [{ role: "user", content }], ...more };
}

const create = (more, url) => client.chat.completions.create(asked(more, url));

const tests = {
  async plain() {
    const answer = await create();
    assert.equal(answer.choices[0].message.role, "assistant");
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
  },

  async guard() {
    const [{ message, guard }] = (await create({ guard: strict })).choices;
    assert.deepEqual([guard.verdict, guard.threshold], ["flagged", 1]);
    // Offsets count code points, strings of JavaScript UTF-16.
    const letters = [...message.content];
    for (const { start, end, text } of guard.spans) assert.equal(letters.slice(start, end).join(""), text);
    assert.equal((await create({ guard: { mode: "off" } })).choices[0].guard.verdict, "unscored");
  },

  async stream() {
    const whole = (await create({ guard: strict })).choices[0];
    const chunks = [];
    for await (const chunk of await create({ guard: strict, stream: true, stream_options: { include_usage: true } })) chunks.push(chunk);
    const choices = chunks.flatMap((chunk) => chunk.choices);
    assert.equal(choices.map((choice) => choice.delta.content ?? "").join(""), whole.message.content);
    const guards = choices.flatMap((choice) => choice.guard ?? []);
    assert.equal(guards.at(-1).alt_text, whole.guard.alt_text);
    assert.deepEqual(guards.slice(0, -1).flatMap((guard) => guard.spans).map((span) => span.text), whole.guard.spans.map((span) => span.text));
    assert.ok(chunks.at(-1).usage.completion_tokens > 0);
  },

  async streamHelper() {
    const final = await client.chat.completions.stream(asked()).finalChatCompletion();
    assert.equal(final.choices[0].message.content, (await create()).choices[0].message.content);
  },

  async headers() {
    const { data, response } = await client.chat.completions.create(asked(), { headers: { "x-request-id": "trace-js" } }).withResponse();
    assert.equal(response.headers.get("x-request-id"), "trace-js");
    assert.equal(response.headers.get("x-candor-verdict"), data.choices[0].guard.verdict);
  },

  async warnings() {
    const messages = [{ role: "system", content: "Be brief." }, ...asked().messages];
    const { data, response } = await client.chat.completions.create(asked({ messages })).withResponse();
    assert.deepEqual(data.warnings.map(({ code, param }) => [code, param]), [["ignored", "messages[0]"]]);
    assert.equal(response.headers.get("x-candor-warnings"), "1");
    const final = await client.chat.completions.stream(asked({ messages })).finalChatCompletion();
    assert.equal(final.choices[0].message.content, data.choices[0].message.content);
  },

  async models() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    assert.deepEqual(names, ["candor-mini"]);
    assert.equal((await client.models.retrieve("candor-mini")).object, "model");
  },

  async errors() {
    const cases = [
      [BadRequestError, "temperature", { temperature: 9 }],
      [BadRequestError, "messages", { messages: [] }],
      [BadRequestError, "guard.mode", { guard: { mode: "strict" } }],
      [BadRequestError, "repetition_penalty", { repetition_penalty: 1.2 }],
      [BadRequestError, "extra_body", { extra_body: { guard: { mode: "flag" } } }],
      [BadRequestError, "tools", { tools: [{ type: "function", function: { name: "f" } }], stream: true }],
      [BadRequestError, "messages[0].content[1].image_url.url", {}, "https://example.org/a.jpg"],
      [NotFoundError, "model", { model: "gpt-4o" }],
    ];
    for (const [kind, param, more, url] of cases) {
      const error = await create(more, url).then(() => assert.fail(`no error about ${param}`), (error) => error);
      assert.ok(error instanceof kind && error instanceof APIError, `${error}`);
      assert.deepEqual([error.param, error.type], [param, "invalid_request_error"]);
      assert.ok(error.requestID);
    }
  },
};

for (const [name, test] of Object.entries(tests)) {
  await test();
  console.log(`${name}: passed`);
}
console.log("OK");
