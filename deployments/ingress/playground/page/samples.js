// Media to begin with, one click each: made by `python -m deployments.demo.samples`, served from here.

import { button, element } from "./dom.js";

const SAMPLES = [
  ["red-circle-left.mp4", "Which way does it move?"],
  ["purple-square.png", "What colour is the shape?"],
  ["yellow-triangle-right-3-high-beeps.mp4", "What do you see?"],
  ["white-circle.jpg", "What shape is it?"],
  ["4-high-beeps.flac", "How many beeps are there?"],
];

// `use(file, question)` is told of the one that was clicked.
export function showSamples(list, use, complain) {
  list.replaceChildren(...SAMPLES.map(([name, question]) => {
    const url = `/page/samples/${name}`;
    const tile = button([preview(name, url), element("span", "asks", question)], async () => {
      try {
        const blob = await fetched(url);
        use(new File([blob], name, { type: blob.type }), question);
      } catch {
        complain("The sample could not be fetched: is the server still running?");
      }
    });
    return element("li", "", tile);
  }));
}

const fetched = async (url) => (await fetch(url)).blob();

function preview(name, url) {
  if (/\.(png|jpg)$/.test(name)) return element("img", "", [], { src: url, alt: "" });
  if (/\.mp4$/.test(name)) {
    const player = element("video", "", [], { muted: true, preload: "auto", "aria-hidden": "true", tabindex: -1 });
    fetched(url).then((blob) => { player.src = `${URL.createObjectURL(blob)}#t=0.8`; }, () => {}); // drawn or not, it can be asked about
    return player;
  }
  return element("span", "sound", [3, 7, 4, 9, 5, 8, 3, 6, 4].map((height) => {
    const bar = element("i");
    bar.style.height = `${height * 10}%`;
    return bar;
  }), { "aria-hidden": "true" });
}
