// The same request as a command for a shell in the folder that holds the files. The here-document is read by that
// shell: what it would expand is masked, but for the commands that put the files in.

import { PATH } from "./chat.js";

export function curlFor(body, names, origin, withKey) {
  const { messages, stream, stream_options, ...options } = body;
  const left = [...names];
  const key = withKey ? ` -H "authorization: Bearer $SLUICE_API_KEY"` : "";
  const head = masked({ ...options, messages: [] }).slice(0, -2);
  return `curl -s ${origin}${PATH} -H 'content-type: application/json'${key} -d @- <<JSON
${head}
  ${messages.map((message) => worded(message, left)).join(",\n  ")}]}
JSON`;
}

function worded(message, names) {
  const { role, content } = message;
  if (typeof content === "string") return masked(message);
  const parts = content.map((part) => (part.type === "text" ? masked(part) : withFile(part, names.shift())));
  return `{"role":"${role}","content":[\n    ${parts.join(",\n    ")}]}`;
}

function withFile({ type, [type]: { url } }, name) {
  const mediaType = url.slice(5, url.indexOf(";"));
  return `{"type":"${type}","${type}":{"url":"data:${mediaType};base64,$(base64 < ${quoted(name)} | tr -d '\\n')"}}`;
}

function masked(value) { return JSON.stringify(value).replace(/[\\$`]/g, "\\$&"); }

function quoted(name) { return `'${name.replaceAll("'", "'\\''")}'`; }
