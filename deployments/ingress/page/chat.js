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

export function curlFor(body, names, origin) {
  let item = 0;
  const shown = JSON.stringify({ ...body, stream: undefined, stream_options: undefined }, (key, value) => {
    if (key !== "url") return value;
    const type = value.slice(5, value.indexOf(";"));
    return `data:${type};base64,$(base64 -w0 ${quoted(names[item++])})`;
  }, 1);
  return `curl -s ${origin}${PATH} -H 'content-type: application/json' -d @- <<JSON\n${shown}\nJSON`;
}

function quoted(name) { return `'${name.replaceAll("'", "'\\''")}'`; }
