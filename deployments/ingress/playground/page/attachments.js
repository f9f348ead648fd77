// The media of the question that is being written: chosen, dropped, pasted or recorded.

import { button, bytesInWords, element } from "./dom.js";
import { WORDS, kindOf } from "./kinds.js";

const TAGS = { image: "img", video: "video", audio: "audio" };
const PART = { image: "image_url", video: "video_url", audio: "audio_url" };

// One file. It is read when it is sent first, and once: later questions send the same again.
export class Item {
  #dataUrl = null;

  constructor(file, { kind, mediaType }) {
    Object.assign(this, { file, kind, mediaType, name: file.name, size: file.size, url: URL.createObjectURL(file) });
  }

  async part() {
    this.#dataUrl ??= await readDataUrl(this.file, this.mediaType);
    return { type: PART[this.kind], [PART[this.kind]]: { url: this.#dataUrl } };
  }

  // A figure with the file's name; a plain tile where the browser can't draw or play it, which says nothing of the
  // server: it takes more formats.
  figure() {
    const view = element(TAGS[this.kind], "", [], { src: this.url });
    if (this.kind === "image") view.alt = this.name;
    else {
      Object.assign(view, { controls: true, preload: "metadata" });
      view.setAttribute("aria-label", this.name);
    }
    view.addEventListener("error", () => {
      view.replaceWith(element("span", "undrawn", `no preview of this ${WORDS[this.kind]}`));
    });
    const caption = element("figcaption", "", [element("span", "name", this.name), ` ${bytesInWords(this.size)}`]);
    return element("figure", `medium ${this.kind}`, [view, caption], { title: this.name });
  }
}

export class Attachments {
  // `refusal(items)` says why the server would not take these; null when it would.
  constructor(list, complain, refusal) {
    Object.assign(this, { list, complain, refusal, items: [] });
  }

  add(files) {
    for (const file of files) {
      const known = kindOf(file);
      if (!known) {
        this.complain(`${file.name} is no picture, clip or sound.`);
        continue;
      }
      const item = new Item(file, known);
      const refusal = this.refusal([...this.items, item]);
      if (refusal) this.complain(refusal);
      else this.#show(item);
    }
  }

  // Hand the items over to a question: from then on nothing here can take them away from it.
  take() {
    const taken = this.items;
    this.items = [];
    this.list.replaceChildren();
    return taken;
  }

  restore(items) {
    for (const item of items) this.#show(item);
  }

  #show(item) {
    this.items.push(item);
    const entry = element("li", "", item.figure());
    entry.append(button("×", () => {
      this.items = this.items.filter((other) => other !== item);
      entry.remove();
      URL.revokeObjectURL(item.url);
    }, { class: "remove", "aria-label": `Remove ${item.name}` }));
    this.list.append(entry);
  }
}

function readDataUrl(file, mediaType) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(`data:${mediaType};base64,${reader.result.slice(reader.result.indexOf(",") + 1)}`);
    reader.onerror = () => reject(new Error(`${file.name} can't be read any more. Was it moved or changed?`));
    reader.readAsDataURL(file);
  });
}
