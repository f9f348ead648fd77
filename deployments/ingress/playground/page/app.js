// The playground: a conversation about pictures, clips and sounds, and what each answer cost.

import { Attachments } from "./attachments.js";
import { ask } from "./chat.js";
import { Conversation } from "./conversation.js";
import { at } from "./dom.js";
import { apiKey, options, systemPrompt } from "./options.js";
import { Recorder } from "./recorder.js";
import { showSamples } from "./samples.js";
import { Server } from "./server.js";
import { watchStages } from "./stages.js";

const server = new Server();
const conversation = new Conversation(at("turns"));
const complain = (message) => { at("complaint").textContent = message; };
const attachments = new Attachments(at("items"), complain, (items) => server.refusal(items, conversation.items));
const recorder = new Recorder(attach, complain);
let running = null;

function attach(files) {
  complain("");
  attachments.add(files);
}

// Send what stands in the box. While an answer runs nothing is sent: the text stays where it is.
async function send() {
  const question = at("question").value.trim();
  if (running || !server.model) return;
  if (!question) {
    if (attachments.items.length) complain("What do you want to know about it?");
    at("question").focus();
    return;
  }
  complain("");
  const exchange = conversation.begin(question, attachments.take(), { again: answer, edit, key: askForKey });
  at("question").value = "";
  fitQuestion();
  document.body.classList.add("begun");
  exchange.entry.scrollIntoView({ block: "start" });
  await answer(exchange);
}

async function answer(exchange) {
  if (running) return;
  running = new AbortController();
  showRunning();
  exchange.start();
  try {
    const { messages, items } = await conversation.upTo(exchange, systemPrompt());
    const stream = { stream: true, stream_options: { include_usage: true } };
    const body = { model: server.model.id, ...options(), ...stream, messages };
    const said = await ask(body, apiKey(), running.signal, (delta) => exchange.add(delta));
    exchange.finish(said, body, items, apiKey() !== "");
  } catch (error) {
    if (error.name === "AbortError") exchange.stopped();
    else exchange.fail(error);
    if (error.kind === "key") at("key-bar").hidden = false;
  } finally {
    running = null;
    showRunning();
  }
}

function showRunning() {
  at("send").hidden = running !== null;
  at("stop").hidden = running === null;
}

function edit(exchange) {
  if (running) return;
  conversation.remove(exchange);
  attachments.restore(exchange.items);
  at("question").value = exchange.question;
  at("question").focus();
}

function startAnew() {
  running?.abort();
  conversation.clear();
  complain("");
  document.body.classList.remove("begun");
  at("question").focus();
}

function askForKey() {
  at("key-bar").hidden = false;
  at("key").focus();
}

async function meetServer() {
  const say = (state) => { at("model").textContent = state; };
  say("…");
  try {
    await server.meet(apiKey(), say);
    server.offer(at("model-choice"), at("model-label"));
    server.show(at("limits"), at("card"));
    say(server.model.id);
    at("key-bar").hidden = apiKey() === "";
    at("send").disabled = false;
  } catch (error) {
    say(error.kind === "key" ? "needs an API key" : error.message);
    if (error.kind === "key") askForKey();
  }
}

async function chooseModel() {
  try {
    await server.choose(at("model-choice").value, apiKey());
    server.show(at("limits"), at("card"));
    at("model").textContent = server.model.id;
    complain("");
  } catch (error) {
    at("model-choice").value = server.model.id;
    complain(error.message);
  }
}

// As high as what is written in it, up to what the style allows.
function fitQuestion() {
  const box = at("question");
  box.style.height = "auto";
  box.style.height = `${box.scrollHeight + 2}px`;
}

at("ask").addEventListener("submit", (event) => { event.preventDefault(); send(); });
at("stop").addEventListener("click", () => running?.abort());
at("new").addEventListener("click", startAnew);
at("key-bar").addEventListener("submit", (event) => { event.preventDefault(); meetServer(); });
at("file").addEventListener("change", (event) => { attach(event.target.files); event.target.value = ""; });
at("model-choice").addEventListener("change", chooseModel);
at("choose").addEventListener("click", () => at("file").click());
at("snap").addEventListener("click", () => recorder.snap());
at("record-sound").addEventListener("click", (event) => recorder.record(event.currentTarget, { audio: true }));
at("record-clip").addEventListener("click", (event) => recorder.record(event.currentTarget, { audio: true, video: true }));
at("question").addEventListener("input", fitQuestion);
at("question").addEventListener("keydown", (event) => {
  const composing = event.isComposing || event.keyCode === 229; // Enter then chooses a word of the input method
  if (event.key === "Enter" && !event.shiftKey && !composing) {
    event.preventDefault();
    send();
  }
});
at("panel-toggle").addEventListener("click", () => {
  const open = document.body.classList.toggle("panel-open");
  at("panel-toggle").setAttribute("aria-expanded", String(open));
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && document.body.classList.contains("panel-open")) at("panel-toggle").click();
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) {
    event.preventDefault();
    attach(event.clipboardData.files);
  }
});

// Files are taken wherever they are let go: beside a box the browser would leave the page for them.
let over = 0;
for (const [name, change] of [["dragenter", 1], ["dragleave", -1], ["dragover", 0], ["drop", null]]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    over = change === null ? 0 : over + change;
    document.body.classList.toggle("dragging", over > 0);
  });
}
document.addEventListener("drop", (event) => attach(event.dataTransfer.files));

showSamples(at("samples"), (file, question) => { attach([file]); at("question").value = question; send(); }, complain);
meetServer();
watchStages(at("strip"), at("stages"), at("refused"));
