/** The changes of owner as they happen, the newest first, with pauses and causes. */

import { find, make, timeOf } from "./dom.js";

const rows = new Map();

function rowOf(change) {
  const pause = change.pauseMilliseconds;
  const cells = [
    ["at", timeOf(change.at)],
    ["shard-cell", String(change.shard)],
    ["ends", `${change.from ?? "—"} → ${change.to ?? "—"}`],
    ["kind", change.kind],
    ["number pause", pause === null ? "" : `${pause} ms`],
    ["cause", change.reason],
  ];
  return make("tr", {}, ...cells.map(([name, text]) => make("td", { class: name }, text)));
}

export function show({ changes }) {
  const body = find("changes");
  const wanted = changes.map((change) => {
    const key = JSON.stringify(change);
    if (!rows.has(key)) rows.set(key, rowOf(change));
    return [key, rows.get(key)];
  });
  const kept = new Set(wanted.map(([key]) => key));
  for (const key of rows.keys()) if (!kept.has(key)) rows.delete(key);
  body.replaceChildren(...wanted.map(([, row]) => row));
  find("no-changes").hidden = changes.length > 0;
}
