// What a file is: by the type that the browser gives it, else by its name. The server goes by the bytes.

export const KINDS = ["image", "video", "audio"];
export const WORDS = { image: "picture", video: "clip", audio: "sound" };

const TYPES = {
  aac: "audio/aac", flac: "audio/flac", m4a: "audio/mp4", mp3: "audio/mpeg", oga: "audio/ogg", ogg: "audio/ogg",
  opus: "audio/ogg", wav: "audio/wav",
  avif: "image/avif", bmp: "image/bmp", gif: "image/gif", jpeg: "image/jpeg", jpg: "image/jpeg", png: "image/png",
  tif: "image/tiff", tiff: "image/tiff", webp: "image/webp",
  avi: "video/x-msvideo", flv: "video/x-flv", m2ts: "video/mp2t", m4v: "video/mp4", mkv: "video/x-matroska",
  mov: "video/quicktime", mp4: "video/mp4", mpg: "video/mpeg", mts: "video/mp2t", ts: "video/mp2t", webm: "video/webm",
};

// {kind, mediaType}; null for what is no picture, clip or sound.
export function kindOf(file) {
  const ending = file.name.toLowerCase().split(".").pop();
  for (const type of [file.type.split(";")[0], TYPES[ending] ?? ""]) {
    const kind = type.split("/")[0];
    if (KINDS.includes(kind)) return { kind, mediaType: type };
  }
  return null;
}
