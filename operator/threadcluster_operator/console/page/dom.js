/** Making elements.  Everything that comes from the cluster becomes a text node: nothing is ever parsed as HTML. */

export const find = (id) => document.getElementById(id);

/** An element with attributes, and children that are elements or texts. */
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Change a text only where it differs, so that a selection stays. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const HIDDEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;

/** Characters that steer the display instead of being shown, bidirectional controls among them, as escapes. */
export const escaped = (text) =>
  text.replace(HIDDEN, (found) => (found === "\n" ? found : `\\u{${found.codePointAt(0).toString(16)}}`));

export const pretty = (value) => escaped(JSON.stringify(value, null, 2));

/** The time of day of an instant, as the viewer's clock has it. */
export const timeOf = (instant) => {
  const at = new Date(instant);
  return Number.isNaN(at.getTime()) ? String(instant) : at.toLocaleTimeString([], { hour12: false }) + "." + String(at.getMilliseconds()).padStart(3, "0");
};

/** A command line with its open places filled. */
export const filled = (line, values) => (line || "").replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
