// The turns so far, as they are shown and as the model is told them.

import { Exchange } from "./exchange.js";

export class Conversation {
  constructor(list) {
    this.list = list;
    this.exchanges = [];
  }

  get items() { return this.exchanges.flatMap((exchange) => exchange.items); }

  begin(question, items, actions) {
    for (const earlier of this.exchanges) earlier.fold();
    const exchange = new Exchange(question, items, actions);
    this.exchanges.push(exchange);
    this.list.append(exchange.entry);
    return exchange;
  }

  remove(exchange) {
    this.exchanges = this.exchanges.filter((other) => other !== exchange);
    exchange.entry.remove();
  }

  clear() {
    for (const item of this.items) URL.revokeObjectURL(item.url);
    this.exchanges = [];
    this.list.replaceChildren();
  }

  // What stands before `exchange` and was answered, then its question. `items`: the media of it all, in order.
  async upTo(exchange, system) {
    const before = this.exchanges.slice(0, this.exchanges.indexOf(exchange)).filter(({ text, calls }) => text || calls.length);
    const messages = system ? [{ role: "system", content: system }] : [];
    let open = []; // calls that wait for their result: the words that come next
    for (const turn of [...before, exchange]) {
      messages.push(...open.map(({ id }) => ({ role: "tool", tool_call_id: id, content: turn.question })));
      if (open.length === 0 || turn.items.length) messages.push(await asked(turn.question, turn.items));
      if (turn !== exchange) messages.push(said(turn));
      open = turn.calls;
    }
    return { messages, items: [...before, exchange].flatMap(({ items }) => items) };
  }
}

function said({ text, calls }) {
  return { role: "assistant", content: text, ...(calls.length ? { tool_calls: calls } : {}) };
}

async function asked(question, items) {
  if (items.length === 0) return { role: "user", content: question };
  const parts = await Promise.all(items.map((item) => item.part()));
  return { role: "user", content: [...parts, { type: "text", text: question }] };
}
