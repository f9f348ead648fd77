// Camera and microphone.

const INSECURE = "Browsers lend camera and microphone to pages on https:// or localhost only. Files can be attached as ever.";
const REASONS = {
  NotAllowedError: "The browser was told not to lend camera or microphone to this page.",
  NotFoundError: "There is no camera or microphone here.",
  NotReadableError: "Camera or microphone are in use by another program.",
};

export class Recorder {
  #recorded = 0;

  constructor(add, complain) { Object.assign(this, { add, complain }); }

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
    const name = `picture-${++this.#recorded}.jpeg`;
    canvas.toBlob((blob) => this.add([new File([blob], name, { type: "image/jpeg" })]), "image/jpeg", 0.92);
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
    const label = button.getAttribute("aria-label");
    recorder.ondataavailable = (event) => pieces.push(event.data);
    recorder.onstop = () => {
      for (const track of stream.getTracks()) track.stop();
      button.recorder = null;
      button.setAttribute("aria-label", label);
      button.classList.remove("recording");
      const type = recorder.mimeType.split(";")[0];
      this.add([new File(pieces, `recording-${++this.#recorded}.${type.split("/")[1]}`, { type })]);
    };
    recorder.start();
    button.recorder = recorder;
    button.setAttribute("aria-label", "Stop recording");
    button.classList.add("recording");
  }

  async #devices(what) {
    if (!navigator.mediaDevices) {
      this.complain(INSECURE);
      return null;
    }
    try {
      return await navigator.mediaDevices.getUserMedia(what);
    } catch (error) {
      this.complain(REASONS[error.name] ?? "Camera or microphone could not be started.");
      return null;
    }
  }
}
