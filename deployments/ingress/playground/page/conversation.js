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
    const before = this.exchanges.slice(0, this.exchanges.indexOf(exchange)).filter((earlier) => earlier.text);
    const messages = system ? [{ role: "system", content: system }] : [];
    for (const { items, question, text } of before) {
      messages.push(await asked(question, items), { role: "assistant", content: text });
    }
    messages.push(await asked(exchange.question, exchange.items));
    return { messages, items: [...before, exchange].flatMap(({ items }) => items) };
  }
}

async function asked(question, items) {
  if (items.length === 0) return { role: "user", content: question };
  const parts = await Promise.all(items.map((item) => item.part()));
  return { role: "user", content: [...parts, { type: "text", text: question }] };
}
