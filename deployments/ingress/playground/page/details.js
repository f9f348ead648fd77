// What an answer cost: the waterfall of its stages, its tokens, the frames that were sampled.

import { copyButton, element } from "./dom.js";

const WORDS = { video_decode: "decode video", decode: "decode tokens" };
const MODEL = new Set(["queue", "encode", "prefill", "decode"]);
const THUMBNAIL_PX = 96;

// `message`: the place of the question among the messages; its clips' frames are shown.
export function showCost(place, usage, message, items, curl) {
  const milliseconds = usage.sluice_timing_ms ?? {};
  const total = Object.values(milliseconds).reduce((sum, ms) => sum + ms, 0);
  const thumbnails = element("ol", "thumbnails");
  const sampled = Object.entries(usage.sluice_videos ?? {}).flatMap(([label, video]) => {
    const part = /^messages\[(\d+)\]\.content\[(\d+)\]/.exec(label);
    return part && Number(part[1]) === message ? [{ video, item: items[Number(part[2])] }] : [];
  });
  const frames = [element("h3", "", "Frames that the model saw"), thumbnails];
  place.replaceChildren(
    element("summary", "", ["Where the time went", element("span", "total", `${total.toFixed(0)} ms in all`)]),
    waterfall(milliseconds, total),
    element("p", "counts", counts(usage), { "aria-label": "Tokens" }),
    ...reused(usage.sluice_cache ?? {}),
    ...(sampled.length ? frames : []),
    element("div", "code curl", [
      element("h3", "", "The same with curl"),
      element("pre", "", element("code", "", curl), { tabindex: 0, "aria-label": "The same with curl" }),
      copyButton("Copy", () => curl),
    ]),
  );
  showThumbnails(thumbnails, sampled);
}

function waterfall(milliseconds, total) {
  let begin = 0;
  return element("ol", "waterfall", Object.entries(milliseconds).map(([stage, ms]) => {
    const bar = element("span", MODEL.has(stage) ? "bar model" : "bar");
    bar.style.left = `${(100 * begin) / (total || 1)}%`;
    bar.style.width = `${(100 * ms) / (total || 1)}%`;
    begin += ms;
    return element("li", "", [
      element("span", "stage", WORDS[stage] ?? stage), element("span", "track", bar), element("span", "ms", `${ms.toFixed(1)} ms`),
    ]);
  }));
}

function counts(usage) {
  const details = usage.prompt_tokens_details ?? {};
  const counted = ["text", "image", "video", "audio"].map((kind) => [kind, details[`${kind}_tokens`] ?? 0]);
  counted.push(["reused", details.cached_tokens ?? 0], ["answer", usage.completion_tokens]);
  return [
    element("b", "", "Tokens"),
    ...counted.filter(([, count]) => count > 0).map(([kind, count]) => element("span", "", `${kind} ${count}`)),
  ];
}

// What of each item was there from earlier questions: one strip an item.
function reused(cache) {
  return Object.entries(cache).map(([label, uses]) => element("p", "counts reuse", [
    element("b", "", label),
    ...Object.entries(uses).map(([stage, use]) => element("span", "", `${stage} ${use}`)),
  ], { "aria-label": "Reused" }));
}

// Draws from the clips in the page what the server says it sampled: nothing is sent twice. Of a clip that the browser
// can't play, the times alone.
async function showThumbnails(list, sampled) {
  for (const { video, item } of sampled) {
    const player = element("video", "", [], { src: item.url });
    player.muted = true;
    const playable = await once(player, "loadeddata");
    for (const seconds of video.frame_timestamps_s) {
      const time = `${seconds.toFixed(2)} s`;
      const entry = element("li", "", time);
      list.append(entry);
      if (!playable) continue;
      player.currentTime = seconds;
      if (await once(player, "seeked")) entry.prepend(drawn(player, seconds));
    }
  }
}

function drawn(player, seconds) {
  const canvas = element("canvas", "", [], { role: "img", "aria-label": `frame at ${seconds.toFixed(2)} seconds` });
  canvas.height = THUMBNAIL_PX;
  canvas.width = Math.round((THUMBNAIL_PX * player.videoWidth) / player.videoHeight);
  canvas.getContext("2d").drawImage(player, 0, 0, canvas.width, canvas.height);
  return canvas;
}

// Whether `name` happened to the player, rather than an error.
function once(player, name) {
  return new Promise((resolve) => {
    player.addEventListener(name, () => resolve(true), { once: true });
    player.addEventListener("error", () => resolve(false), { once: true });
  });
}
