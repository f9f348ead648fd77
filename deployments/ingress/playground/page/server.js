// What this server is and allows, from GET /ready, /v1/models and /v1/limits.

import { Fault, authorization, faultOf, reached } from "./chat.js";
import { bytesInWords, element } from "./dom.js";
import { KINDS, WORDS } from "./kinds.js";

const PERIOD_MS = 1500;
const DEMO = "The built-in demo model is tiny: it knows simple shapes, their colours and ways, and beeps.";

export class Server {
  constructor() { Object.assign(this, { models: [], model: null, limits: null }); }

  // Resolves once the server is ready and has said who it is; `onState` hears what is being waited for.
  async meet(key, onState) {
    for (;;) {
      try {
        const ready = await reached("/ready");
        if (ready.status !== 503) break; // where it is kept inside, as behind a public address, it says nothing
        onState(startingInWords(await ready.json().catch(() => ({}))));
      } catch (error) {
        onState(error.message);
      }
      await new Promise((resolve) => { setTimeout(resolve, PERIOD_MS); });
    }
    this.models = (await this.#get("/v1/models", key)).data;
    await this.choose(this.model?.id ?? this.models[0].id, key);
  }

  // From now on, questions are for this one of its models.
  async choose(id, key) {
    this.limits = await this.#get(`/v1/limits?model=${encodeURIComponent(id)}`, key);
    this.model = this.models.find((model) => model.id === id) ?? this.models[0];
  }

  // A choice where there is one.
  offer(select, label) {
    select.hidden = label.hidden = this.models.length < 2;
    select.replaceChildren(...this.models.map(({ id }) => new Option(id, id, false, id === this.model.id)));
  }

  // Why the server would refuse these media in one request; null when it would not. `sent`: files of earlier turns.
  refusal(items, sent = []) {
    if (!this.limits) return null;
    for (const { name, kind, size } of items) {
      const most = this.limits[kind].max_bytes;
      if (size > most) return `${name} is ${bytesInWords(size)}; this server takes ${WORDS[kind]}s of ${bytesInWords(most)} at most.`;
    }
    const all = [...sent, ...items];
    for (const kind of KINDS) {
      const count = all.filter((item) => item.kind === kind).length;
      const most = this.limits[kind].max_items;
      if (count > most) return `This server takes ${most} ${WORDS[kind]}s in one conversation; this would be number ${count}.`;
    }
    const encoded = all.reduce((sum, { size }) => sum + 4 * Math.ceil(size / 3), 0);
    const most = this.limits.max_body_bytes;
    if (encoded <= most) return null;
    return `The files of this conversation would be ${bytesInWords(encoded)} as they are sent; this server takes ${bytesInWords(most)}.`;
  }

  show(list, card) {
    const { limits, model } = this;
    card.textContent = model.id === "demo" ? DEMO : "";
    const rows = [
      ["Model", model.id],
      ["Takes", ["text", ...KINDS.filter((kind) => limits.modalities.includes(kind)).map((kind) => `${WORDS[kind]}s`)].join(", ")],
      ["Context", `${limits.context_length} tokens`],
      ...KINDS.filter((kind) => limits.modalities.includes(kind)).map((kind) => [
        `${WORDS[kind][0].toUpperCase()}${WORDS[kind].slice(1)}s`, `${limits[kind].max_items}, of ${bytesInWords(limits[kind].max_bytes)} each`,
      ]),
      ["Request", `${bytesInWords(limits.max_body_bytes)}, ${limits.request_timeout_s} s`],
    ];
    list.replaceChildren(...rows.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
  }

  async #get(path, key) {
    const answer = await reached(path, { headers: authorization(key) });
    if (!answer.ok) throw await faultOf(answer);
    try {
      return await answer.json();
    } catch {
      throw new Fault("refused", `${path} did not answer in JSON.`);
    }
  }
}

function startingInWords({ status, waiting_for: waiting = [], reasons = {} }) {
  if (status === "draining") return "Shutting down …";
  const stages = waiting.map((stage) => (reasons[stage] ? `${stage} (${reasons[stage]})` : stage));
  return stages.length ? `Starting: waiting for ${stages.join(", ")} …` : "Starting …";
}
