// What Options say of the next request.

import { at } from "./dom.js";

const NUMBERS = {
  max_tokens: "tokens", temperature: "temperature", top_p: "top-p", top_k: "top-k", seed: "seed", num_frames: "frames",
};

export const apiKey = () => at("key").value;

export const systemPrompt = () => at("system").value.trim();

// Fields of the body. Raises an Error that says which box holds no JSON.
export function options() {
  const fields = {};
  for (const [field, id] of Object.entries(NUMBERS)) {
    if (at(id).value !== "") fields[field] = Number(at(id).value);
  }
  if (at("listen").checked) fields.use_audio_in_video = true;
  const tools = json("tools", "Tools", true);
  if (tools) fields.tools = tools;
  const schema = json("schema", "JSON schema");
  if (schema) fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  return { ...fields, ...json("extra", "More fields") };
}

function json(id, label, list = false) {
  const text = at(id).value.trim();
  if (!text) return null;
  try {
    const value = JSON.parse(text);
    if (value !== null && typeof value === "object" && Array.isArray(value) === list) return value;
  } catch {
    // said below
  }
  throw new Error(`“${label}” under Options is no JSON ${list ? "list" : "object"}.`);
}
