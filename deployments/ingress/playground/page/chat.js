// Talks to POST /v1/chat/completions, and puts what goes wrong into words for people.

export const PATH = "/v1/chat/completions";

// What ended an answer early. `kind`: "key" (one is needed), "refused" (the server says no), "unreachable", "broken".
export class Fault extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

export function authorization(key) { return key ? { authorization: `Bearer ${key}` } : {}; }

// Streams the answer's deltas (OpenAI's own: content, reasoning_content, tool_calls) to `onDelta`; resolves to {usage, finishReason}. Raises Fault, or AbortError when stopped.
export async function ask(body, key, signal, onDelta) {
  const headers = { "content-type": "application/json", ...authorization(key) };
  const answer = await reached(PATH, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!answer.ok) throw await faultOf(answer);
  const said = { usage: null, finishReason: null };
  let complete = false;
  try {
    for await (const data of events(answer.body)) {
      complete = data === "[DONE]";
      if (complete) break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Fault("refused", chunk.error.message);
      for (const choice of chunk.choices) {
        onDelta(choice.delta);
        said.finishReason = choice.finish_reason ?? said.finishReason;
      }
      said.usage = chunk.usage ?? said.usage;
    }
  } catch (error) {
    if (error instanceof Fault || error.name === "AbortError") throw error;
  }
  if (!complete) throw new Fault("broken", "The connection broke before the answer was complete.");
  return said;
}

// `fetch`, which speaks of a server that is down in the browser's own words otherwise.
export async function reached(path, request = {}) {
  try {
    return await fetch(path, request);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Fault("unreachable", "The server can't be reached. Is it still running?");
  }
}

// The server's own words where it has some; what stands before it may answer in HTML, which is nothing to show.
export async function faultOf(answer) {
  let message = null;
  try {
    message = (await answer.json()).error.message;
  } catch {
    message = `The server, or something in front of it, answered ${answer.status} ${answer.statusText}`.trim() + ".";
  }
  if (answer.status === 401) return new Fault("key", message);
  const wait = Number(answer.headers.get("retry-after"));
  return new Fault("refused", wait ? `${message} Try again in ${wait} s.` : message);
}

// The payloads of server-sent events.
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
      if (line.startsWith("data: ")) yield line.slice(6);
    }
  }
}
