// OpenAI's own library for JavaScript.
import assert from "node:assert/strict";
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { EXTRACT, HELLO, KEY, REPORT, SAID, STORY, SUNNY, TALE, WEATHER, main } from "./checks.js";

const City = z.object({ city: z.string() });
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const tools = [{ type: "function", function: { name: "get_weather", description: "Weather of a city", parameters } }];
const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: KEY, maxRetries: 0 });
const said = (content) => [{ role: "user", content }];
const model = "gpt-4o";

await main({
  async chat(url) {
    const reply = await client(url).chat.completions.create({ model, messages: said(HELLO) });
    assert.equal(reply.choices[0].message.content, SAID);
  },
  async chat_streamed(url) {
    let text = "";
    for await (const chunk of await client(url).chat.completions.create({ model, messages: said(HELLO), stream: true }))
      text += chunk.choices[0]?.delta?.content ?? "";
    assert.equal(text, SAID);
  },
  async completions(url) {
    assert.equal((await client(url).completions.create({ model, prompt: STORY })).choices[0].text, TALE);
  },
  async parse(url) {
    const response_format = zodResponseFormat(City, "city");
    const reply = await client(url).chat.completions.parse({ model, messages: said(EXTRACT), response_format });
    assert.deepEqual(reply.choices[0].message.parsed, { city: "Rome" });
  },
  async tools(url) {
    const messages = said(WEATHER);
    const { message, finish_reason } = (await client(url).chat.completions.create({ model, messages, tools })).choices[0];
    assert.equal(finish_reason, "tool_calls");
    assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), { city: "Rome" });
    messages.push(message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: SUNNY });
    const last = await client(url).chat.completions.create({ model, messages, tools });
    assert.equal(last.choices[0].message.content, REPORT);
  },
  async tools_run(url) {
    const called = { ...tools[0].function, parse: JSON.parse, function: ({ city }) => (city === "Rome" ? SUNNY : "rain") };
    for (const stream of [false, true]) {
      const runner = client(url).chat.completions.runTools({
        model, messages: said(WEATHER), tools: [{ type: "function", function: called }], stream,
      });
      assert.equal(await runner.finalContent(), REPORT);
    }
  },
  async responses(url) {
    const reply = await client(url).responses.create({ model, input: HELLO });
    assert.equal(reply.output_text, SAID);
    const again = await client(url).responses.create({ model, input: [...said(HELLO), ...reply.output, ...said(HELLO)] });
    assert.equal(again.output_text, SAID);
    let text = "";
    for await (const event of await client(url).responses.create({ model, input: HELLO, stream: true }))
      if (event.type === "response.output_text.delta") text += event.delta;
    assert.equal(text, SAID);
    const text_format = { format: zodTextFormat(City, "city") };
    const parsed = await client(url).responses.parse({ model, input: EXTRACT, text: text_format });
    assert.deepEqual(parsed.output_parsed, { city: "Rome" });
  },
  async errors(url) {
    await assert.rejects(client(url).chat.completions.create({ model, messages: said("a b ".repeat(9000)) }), (error) => {
      return error instanceof OpenAI.BadRequestError && error.code === "context_length_exceeded" && !!error.requestID;
    });
  },
});
