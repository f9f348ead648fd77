// Talks to POST /v1/chat/completions, and words the same request for curl.

const PATH = "/v1/chat/completions";

// Streams the answer's text to `onText`; resolves to the usage object. Throws an Error with the server's own words.
export async function ask(body, key, signal, onText) {
  const headers = { "content-type": "application/json" };
  if (key) headers.authorization = `Bearer ${key}`;
  const answer = await fetch(PATH, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  let usage = null;
  for await (const data of events(answer.body)) {
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Error(chunk.error.message);
    for (const choice of chunk.choices) onText(choice.delta.content ?? "");
    usage = chunk.usage ?? usage;
  }
  return usage;
}

// The payloads of server-sent events, without the closing [DONE].
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const line = text.slice(0, end);
      text = text.slice(end + 2);
      if (line.startsWith("data: ") && line !== "data: [DONE]") yield line.slice(6);
    }
  }
}

// A command for a shell in the folder that holds the files. The here-document is read by that shell: what it would
// expand is masked, but for the commands that put the files in.
export function curlFor(body, names, origin, withKey) {
  const { messages: [{ content }], stream, stream_options, ...options } = body;
  let item = 0;
  const parts = content.map((part) => (part.type === "text" ? masked(part) : withFile(part, names[item++])));
  const key = withKey ? ` -H "authorization: Bearer $SLUICE_API_KEY"` : "";
  const head = masked({ ...options, messages: [] }).slice(0, -3);
  return `curl -s ${origin}${PATH} -H 'content-type: application/json'${key} -d @- <<JSON
${head}[{"role":"user","content":[
  ${parts.join(",\n  ")}]}]}
JSON`;
}

function withFile({ type, [type]: { url } }, name) {
  const mediaType = url.slice(5, url.indexOf(";"));
  return `{"type":"${type}","${type}":{"url":"data:${mediaType};base64,$(base64 -w0 ${quoted(name)})"}}`;
}

function masked(value) { return JSON.stringify(value).replace(/[\\$`]/g, "\\$&"); }

function quoted(name) { return `'${name.replaceAll("'", "'\\''")}'`; }
