// The npm clients `openai` and `ai` with `@ai-sdk/openai`, whose default is the Responses API; see README.md beside this.
import assert from "node:assert/strict";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText, tool } from "ai";
import OpenAI from "openai";
import { z } from "zod";

const baseURL = `${process.env.SLUICE_URL ?? "http://localhost:8000"}/v1`;
const parameters = {
  type: "object",
  properties: { x: { type: "integer", enum: [1, 2, 3] } },
  required: ["x"],
  additionalProperties: false,
};

const openai = new OpenAI({ baseURL, apiKey: "unused" });
const called = await openai.chat.completions.create({
  model: "demo",
  messages: [{ role: "user", content: "look" }],
  tools: [{ type: "function", function: { name: "look", parameters } }],
  tool_choice: "required",
});
const call = called.choices[0].message.tool_calls[0];
assert.ok([1, 2, 3].includes(JSON.parse(call.function.arguments).x));
console.log("openai: a required call");

const provider = createOpenAI({ baseURL, apiKey: "unused" });
for (const [name, model] of [["responses", provider("demo")], ["chat", provider.chat("demo")]]) {
  const look = tool({ description: "Looks.", inputSchema: z.object({ x: z.enum(["1", "2", "3"]) }) });
  const { toolCalls } = await generateText({ model, prompt: "look", tools: { look }, toolChoice: "required" });
  assert.ok(["1", "2", "3"].includes(toolCalls[0].input.x));
  let text = "";
  for await (const piece of streamText({ model, prompt: "hi", maxOutputTokens: 8 }).textStream) text += piece;
  assert.ok(text.length > 0);
  console.log(`ai, ${name}: a required call, a stream`);
}
