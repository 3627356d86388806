// Vercel's AI SDK, as for any server that speaks OpenAI's API.
import assert from "node:assert/strict";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { EXTRACT, HELLO, KEY, REPORT, SAID, SUNNY, WEATHER, main } from "./checks.js";

const City = z.object({ city: z.string() });
const provider = (url, more = {}) => createOpenAICompatible({ name: "nanochat", baseURL: `${url}/v1`, apiKey: KEY, ...more });
const get_weather = tool({ description: "Weather of a city", inputSchema: City, execute: async () => SUNNY });
const common = { maxRetries: 0 };

await main({
  async text(url) {
    assert.equal((await generateText({ ...common, model: provider(url)("bot"), prompt: HELLO })).text, SAID);
  },
  async stream(url) {
    let text = "";
    for await (const piece of streamText({ ...common, model: provider(url)("bot"), prompt: HELLO }).textStream) text += piece;
    assert.equal(text, SAID);
  },
  async structured(url) {
    for (const supportsStructuredOutputs of [true, false]) {
      const model = provider(url, { supportsStructuredOutputs })("bot");
      const reply = await generateText({ ...common, model, prompt: EXTRACT, output: Output.object({ schema: City }) });
      assert.deepEqual(reply.output, { city: "Rome" });
    }
  },
  async tools(url) {
    const asked = { ...common, model: provider(url)("bot"), prompt: WEATHER, tools: { get_weather }, stopWhen: stepCountIs(4) };
    assert.equal((await generateText(asked)).text, REPORT);
    assert.equal(await streamText(asked).text, REPORT);
  },
});
