// What an answer cost: the waterfall of its stages, its tokens, the frames that were sampled.

const WORDS = { video_decode: "decode video", decode: "decode tokens" };

export function showWaterfall(list, milliseconds) {
  const stages = Object.entries(milliseconds);
  const total = stages.reduce((sum, [, ms]) => sum + ms, 0) || 1;
  let begin = 0;
  list.replaceChildren(...stages.map(([stage, ms]) => {
    const bar = element("span", "bar");
    bar.style.left = `${(100 * begin) / total}%`;
    bar.style.width = `${(100 * ms) / total}%`;
    begin += ms;
    const track = element("span", "track");
    track.append(bar);
    const entry = document.createElement("li");
    entry.append(element("span", "", WORDS[stage] ?? stage), track, element("span", "ms", `${ms.toFixed(1)} ms`));
    return entry;
  }));
}

export function showCounts(place, usage) {
  const details = usage.prompt_tokens_details ?? {};
  const counts = ["text", "image", "video", "audio"].map((kind) => [kind, details[`${kind}_tokens`] ?? 0]);
  counts.push(["answer", usage.completion_tokens]);
  const shown = counts.filter(([, count]) => count > 0);
  place.replaceChildren(...shown.map(([kind, count]) => element("span", "", `${kind} ${count}`)));
}

// Draws from the clips in the page what the server says it sampled: nothing is sent twice.
export async function showThumbnails(list, clips, sampled) {
  list.replaceChildren();
  for (const [number, video] of sampled.entries()) {
    const player = document.createElement("video");
    player.muted = true;
    player.src = clips[number].src;
    await once(player, "loadeddata");
    for (const seconds of video.frame_timestamps_s) {
      player.currentTime = seconds;
      await once(player, "seeked");
      const canvas = document.createElement("canvas");
      canvas.height = 96;
      canvas.width = Math.round((96 * player.videoWidth) / player.videoHeight);
      canvas.getContext("2d").drawImage(player, 0, 0, canvas.width, canvas.height);
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `frame at ${seconds.toFixed(2)} seconds`);
      const entry = document.createElement("li");
      entry.append(canvas, `${seconds.toFixed(2)} s`);
      list.append(entry);
    }
  }
}

function once(target, name) {
  return new Promise((resolve, reject) => {
    target.addEventListener(name, resolve, { once: true });
    target.addEventListener("error", () => reject(new Error("the browser cannot show this clip")), { once: true });
  });
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.textContent = text;
  return made;
}
