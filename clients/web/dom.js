// Small helpers for the page's elements.

export const byId = (id) => document.getElementById(id);

/** A new element with text. */
export function element(name, text = "", properties = {}) {
  return Object.assign(document.createElement(name), { textContent: text, ...properties });
}

/** Puts text into an element only if it differs: live regions speak, and selections vanish, at every change. */
export function say(target, text) {
  if (target.textContent !== text) target.textContent = text;
}

/**
 * Shows pairs of name and value in a <dl>; keeps its elements, so that nothing flickers.
 * @param {[name, value, detail?][]} rows
 */
export function list(target, rows) {
  const names = rows.map(([name]) => name).join("\n");
  if (target.dataset.names !== names) {
    target.dataset.names = names;
    target.replaceChildren(...rows.map(newRow));
  }
  rows.forEach(([, value, detail = ""], index) => {
    const [, first, second] = target.children[index].children;
    say(first.firstChild, value);
    say(second, detail);
  });
}

function newRow([name]) {
  const row = document.createElement("div");
  const value = element("dd");
  value.append(element("strong"));
  row.append(element("dt", name), value, element("dd", "", { className: "small" }));
  return row;
}

/** Milliseconds of two percentiles. */
export function pair(p50, p95) {
  return p50 === null || p50 === undefined ? "–" : `${number(p50)} / ${number(p95)} ms`;
}

/** A number with as many digits as matter. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}
