// The playground: gathers media and a question, shows the streamed answer and what it cost.

import { MediaList } from "./media.js";
import { ask, curlFor } from "./chat.js";
import { showCounts, showThumbnails, showWaterfall } from "./details.js";
import { watchStages } from "./stages.js";

const at = (id) => document.getElementById(id);
const media = new MediaList(at("items"), (message) => { at("error").textContent = message; });
let running = null;

function requestBody(model) {
  const content = [...media.parts(), { type: "text", text: at("question").value }];
  const body = {
    model,
    messages: [{ role: "user", content }],
    max_tokens: Number(at("tokens").value) || 64,
    temperature: Number(at("temperature").value),
    stream: true,
    stream_options: { include_usage: true },
  };
  if (at("frames").value) body.num_frames = Number(at("frames").value);
  if (at("listen").checked) body.use_audio_in_video = true;
  return body;
}

async function send(event) {
  event.preventDefault();
  const model = at("model").dataset.id;
  running = new AbortController();
  at("answer").textContent = "";
  at("error").textContent = "";
  at("details").hidden = true;
  at("send").disabled = true;
  at("stop").disabled = false;
  try {
    await media.ready();
    const body = requestBody(model);
    const usage = await ask(body, at("key").value, running.signal, (text) => { at("answer").textContent += text; });
    if (usage) show(usage, body);
  } catch (error) {
    if (error.name !== "AbortError") at("error").textContent = error.message;
  } finally {
    at("send").disabled = false;
    at("stop").disabled = true;
  }
}

function show(usage, body) {
  showWaterfall(at("waterfall"), usage.sluice_timing_ms ?? {});
  showCounts(at("counts"), usage);
  at("curl").textContent = curlFor(body, media.names(), location.origin, at("key").value !== "");
  at("details").hidden = false;
  const clips = media.clips();
  const sampled = Object.values(usage.sluice_videos ?? {});
  at("sampled").hidden = sampled.length === 0;
  showThumbnails(at("thumbnails"), clips, sampled);
}

async function showModel() {
  const key = at("key").value;
  const answer = await fetch("/v1/models", { headers: key ? { authorization: `Bearer ${key}` } : {} });
  if (!answer.ok) {
    at("model").textContent = "needs an API key: see Options";
    return;
  }
  const id = (await answer.json()).data[0].id;
  at("model").textContent = id;
  at("model").dataset.id = id;
}

at("ask").addEventListener("submit", send);
at("stop").addEventListener("click", () => running?.abort());
at("key").addEventListener("change", showModel);
at("file").addEventListener("change", (event) => { media.add(event.target.files); event.target.value = ""; });
at("snap").addEventListener("click", () => media.snap());
at("record-sound").addEventListener("click", (event) => media.record(event.target, { audio: true }));
at("record-clip").addEventListener("click", (event) => media.record(event.target, { audio: true, video: true }));
at("copy").addEventListener("click", () => navigator.clipboard.writeText(at("curl").textContent));
at("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    at("ask").requestSubmit();
  }
});

const drop = at("drop");
for (const name of ["dragenter", "dragover"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const name of ["dragleave", "drop"]) {
  drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.remove("over"); });
}
drop.addEventListener("drop", (event) => media.add(event.dataTransfer.files));

showModel();
watchStages(at("strip"), at("stages"), at("refused"));
