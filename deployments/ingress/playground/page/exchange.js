// One question and its answer on the page.

import { curlFor } from "./curl.js";
import { showCost } from "./details.js";
import { button, copyButton, element } from "./dom.js";
import { showMarkdown } from "./markdown.js";

export class Exchange {
  text = "";
  calls = [];
  #thoughts = "";
  #thinking = element("p");
  #thinks = element("details", "thoughts", [element("summary", "", "Thoughts"), this.#thinking], { hidden: true });
  #calling = element("div", "calls");
  #answer = element("div", "answer", [], { "aria-live": "polite" });
  #note = element("p", "note");
  #fault = element("p", "fault", [], { role: "alert" });
  #actions = element("div", "actions");
  #cost = element("details", "cost", [], { hidden: true });
  #drawing = 0;

  // `actions`: {again(exchange), edit(exchange), key()}, what can be done after a fault.
  constructor(question, items, actions) {
    Object.assign(this, { question, items, actions });
    const media = element("ul", "media", items.map((item) => element("li", "", item.figure())), { "aria-label": "Media of this question" });
    const reply = [this.#thinks, this.#answer, this.#calling, this.#note, this.#fault, this.#actions, this.#cost];
    this.entry = element("li", "exchange", [
      element("div", "question", [...(items.length ? [media] : []), element("p", "asked", question)]),
      element("div", "reply", reply, { role: "group", "aria-label": "Answer" }),
    ]);
  }

  start() {
    this.text = this.#thoughts = "";
    this.calls = [];
    this.#thinks.hidden = true;
    for (const place of [this.#answer, this.#calling]) place.replaceChildren();
    this.#note.textContent = this.#fault.textContent = "";
    this.#actions.replaceChildren();
    this.#cost.hidden = true;
    this.entry.setAttribute("aria-busy", "true");
  }

  // Drawn at most once a frame of the screen, however many pieces come.
  add({ content, reasoning_content: thoughts, tool_calls: calls = [] }) {
    this.text += content ?? "";
    this.#thoughts += thoughts ?? "";
    for (const { index, id, function: { name, arguments: words = "" } } of calls) {
      this.calls[index] ??= { id, type: "function", function: { name, arguments: "" } };
      this.calls[index].function.arguments += words;
    }
    this.#drawing ||= requestAnimationFrame(() => this.#draw());
  }

  // The answer is complete: `usage` and `finishReason` from the server, `body` as it was asked.
  finish({ usage, finishReason }, body, items, withKey) {
    if (this.calls.length) this.#note.textContent = "What you write next is sent as the result of the call.";
    else if (!this.text) this.#note.textContent = "The model had nothing to say.";
    if (finishReason === "length") {
      const limit = usage ? ` after ${usage.completion_tokens} tokens` : "";
      this.#note.textContent = `Cut off${limit}: the limit of this answer was reached. Raise “most tokens” under Options for more.`;
    }
    this.#end();
    if (!usage) return;
    const curl = curlFor(body, items.map((item) => item.name), location.origin, withKey);
    showCost(this.#cost, usage, body.messages.length - 1, this.items, curl);
    this.#cost.hidden = false;
    this.#cost.open = true;
  }

  stopped() {
    this.#note.textContent = "Stopped by you.";
    this.#end([button("Ask again", () => this.actions.again(this))]);
  }

  fail(fault) {
    this.#fault.textContent = this.text ? `${fault.message} What had come until then stands above.` : fault.message;
    const key = fault.kind === "key" ? [button("Enter the API key", () => this.actions.key())] : [];
    this.#end([...key, button("Try again", () => this.actions.again(this)), button("Change the question", () => this.actions.edit(this))]);
  }

  fold() { this.#cost.open = false; }

  #end(buttons = []) {
    cancelAnimationFrame(this.#drawing);
    this.#draw();
    this.entry.removeAttribute("aria-busy");
    const copy = this.text ? [copyButton("Copy", () => this.text)] : [];
    this.#actions.replaceChildren(...copy, ...buttons);
  }

  #draw() {
    this.#drawing = 0;
    showMarkdown(this.#answer, this.text);
    this.#thinks.hidden = !this.#thoughts;
    this.#thinking.textContent = this.#thoughts;
    const worded = this.calls.map(({ function: { name, arguments: words } }) => `${name}(${words})`);
    this.#calling.replaceChildren(...worded.map((call) => element("pre", "", call, { tabindex: 0, "aria-label": "tool call" })));
  }
}
