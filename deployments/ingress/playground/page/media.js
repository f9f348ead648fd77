// The media of a question: chosen, dropped or recorded; shown, and worded as content parts.

const KINDS = { image: "image_url", video: "video_url", audio: "audio_url" };
const TAGS = { image: "img", video: "video", audio: "audio" };

export class MediaList {
  constructor(list, complain) {
    this.list = list;
    this.complain = complain;
    this.items = [];
    this.recorded = 0;
  }

  add(files) {
    for (const file of files) {
      const kind = file.type.split("/")[0];
      if (!(kind in KINDS)) {
        this.complain(`${file.name} is no picture, clip or sound`);
        continue;
      }
      const item = { kind, name: file.name, dataUrl: null, element: null };
      item.loading = readDataUrl(file).then((url) => { item.dataUrl = url; });
      item.element = this.#show(item, URL.createObjectURL(file));
      this.items.push(item);
    }
  }

  // A picture from the camera, as it is now.
  async snap() {
    const stream = await this.#devices({ video: true });
    if (!stream) return;
    const player = document.createElement("video");
    player.muted = true;
    player.srcObject = stream;
    await player.play();
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [player.videoWidth, player.videoHeight];
    canvas.getContext("2d").drawImage(player, 0, 0);
    for (const track of stream.getTracks()) track.stop();
    canvas.toBlob((blob) => this.add([new File([blob], "picture.jpeg", { type: "image/jpeg" })]), "image/jpeg", 0.92);
  }

  // Start recording, or finish it when the button is pressed again.
  async record(button, what) {
    if (button.recorder) {
      button.recorder.stop();
      return;
    }
    const stream = await this.#devices(what);
    if (!stream) return;
    const recorder = new MediaRecorder(stream);
    const pieces = [];
    const label = button.textContent;
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      button.recorder = null;
      button.textContent = label;
      button.classList.remove("recording");
      const type = recorder.mimeType.split(";")[0];
      this.add([new File(pieces, `recording-${++this.recorded}.${type.split("/")[1]}`, { type })]);
    };
    recorder.start();
    button.recorder = recorder;
    button.textContent = "stop recording";
    button.classList.add("recording");
  }

  ready() { return Promise.all(this.items.map((item) => item.loading)); }

  parts() { return this.items.map(({ kind, dataUrl }) => ({ type: KINDS[kind], [KINDS[kind]]: { url: dataUrl } })); }

  names() { return this.items.map((item) => item.name); }

  clips() { return this.items.filter((item) => item.kind === "video").map((item) => item.element); }

  async #devices(what) {
    try {
      return await navigator.mediaDevices.getUserMedia(what);
    } catch (error) {
      this.complain(`cannot record: ${error.message}`);
      return null;
    }
  }

  #show(item, url) {
    const entry = document.createElement("li");
    const element = document.createElement(TAGS[item.kind]);
    element.src = url;
    if (item.kind === "image") element.alt = item.name;
    else element.controls = true;
    const remove = document.createElement("button");
    remove.type = "button";
    remove.textContent = "×";
    remove.setAttribute("aria-label", `remove ${item.name}`);
    remove.addEventListener("click", () => {
      this.items = this.items.filter((other) => other !== item);
      entry.remove();
      URL.revokeObjectURL(url);
    });
    entry.append(element, remove);
    this.list.append(entry);
    return element;
  }
}

function readDataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.replace(/^data:([^;,]*)[^,]*,/, "data:$1;base64,"));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
