// Answers as Markdown. What a model says is as hostile as what a stranger says: HTML in it is shown as text, DOMPurify
// leaves only these tags and attributes of what marked makes, and the page's policy would load nothing anyway.

import { Marked } from "./vendor/marked.esm.js";
import DOMPurify from "./vendor/purify.es.mjs";
import { copyButton, element } from "./dom.js";

const escaped = (text) => text.replace(/[&<>"]/g, (sign) => `&#${sign.charCodeAt(0)};`);
const marked = new Marked({ gfm: true, renderer: { html: ({ text }) => escaped(text) } });
const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre",
    "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "href", "start"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#)/i,
  RETURN_DOM_FRAGMENT: true,
};

// `breaks`: the end of a line ends it on the page too, as models mean it.
export function showMarkdown(place, text, { breaks = true } = {}) {
  const fragment = DOMPurify.sanitize(marked.parse(text, { breaks }), ALLOWED);
  for (const link of fragment.querySelectorAll('a[href^="http"]')) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const table of fragment.querySelectorAll("table")) {
    const box = element("div", "wide", [], { tabindex: 0, role: "region", "aria-label": "table" });
    table.replaceWith(box);
    box.append(table);
  }
  for (const code of fragment.querySelectorAll("pre")) {
    const box = element("div", "code");
    code.tabIndex = 0;
    code.replaceWith(box);
    box.append(code, copyButton("Copy", () => code.textContent));
  }
  place.replaceChildren(fragment);
}
