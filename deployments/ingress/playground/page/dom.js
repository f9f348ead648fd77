// Small helpers for the elements of the page.

export const at = (id) => document.getElementById(id);

// An element with a class, a text or children; attributes by name, `on...` as listeners.
export function element(tag, className = "", content = [], attributes = {}) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...[content].flat());
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  return made;
}

export const button = (label, onclick, attributes = {}) =>
  element("button", "", label, { type: "button", onclick, ...attributes });

// 1234567 -> "1.2 MiB"
export function bytesInWords(bytes) {
  const [unit, size] = [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 2 ** 10]].find(([, size]) => bytes >= size) ?? ["bytes", 1];
  const count = bytes / size;
  return `${count < 10 && size > 1 ? count.toFixed(1).replace(/\.0$/, "") : Math.round(count)} ${unit}`;
}

// The clipboard; where the browser gives none (http:// from another host), the old way, by a selection.
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const holder = element("textarea", "visually-hidden", text, { readonly: true });
  document.body.append(holder);
  holder.select();
  const copied = document.execCommand("copy");
  holder.remove();
  if (!copied) throw new Error("this browser copies on https:// and localhost only");
}

// A button that copies what `text()` gives and says so.
export function copyButton(label, text) {
  const made = button(label, async () => {
    try {
      await copyText(text());
      made.textContent = "Copied";
    } catch {
      made.textContent = "Not copied: select it by hand";
    }
    setTimeout(() => { made.textContent = label; }, 2000);
  });
  return made;
}
