/** The inspector: a thread's shard and owner, its events as the journal has them, and its state after any of them. */

import { ask } from "./api.js";
import { filled, find, make, pretty, say, timeOf } from "./dom.js";

let thread = null;
let last = 0;
let first = 0;
let line = "";
let asked = 0;

function tell(text, bad = false) {
  find("inspect-outcome").className = bad ? "outcome bad" : "outcome";
  say(find("inspect-outcome"), text);
}

const fact = (name, value) => make("div", {}, make("dt", {}, name), make("dd", {}, String(value)));

function eventNode(event) {
  const body = make("div");
  const facts = [`${event.type} v${event.version}`, timeOf(event.writtenAt), `epoch ${event.epoch}`, `${event.shardSeq} of its shard`];
  const node = make(
    "details",
    { class: "event", "data-event": event.sequenceNr },
    make("summary", {}, make("b", {}, `#${event.sequenceNr}`), facts[0], make("span", { class: "faint" }, facts.slice(1).join(" · ") + (event.keyHash ? " · with a key" : ""))),
    body,
  );
  node.addEventListener("toggle", () => {
    if (!node.open || body.childElementCount) return;
    const button = make("button", { type: "button", onclick: () => showState(event.sequenceNr) }, "State after it");
    const keys = event.keyHash ? make("span", { class: "faint" }, "key ", make("code", {}, event.keyHash), " body ", make("code", {}, event.bodyHash)) : null;
    body.append(make("div", { class: "head" }, button, keys), make("pre", {}, pretty({ payload: event.payload, metadata: event.metadata })));
  });
  return node;
}

async function showState(at) {
  const number = (asked += 1);
  find("at").value = String(at);
  showCommand(at);
  try {
    const found = await ask(`threads/${thread}/state?at=${at}`);
    if (number !== asked) return;
    const fault = found.fault === null ? "" : `not folded beyond event ${found.sequenceNr}: ${found.fault}\n`;
    say(find("state"), fault + (found.state === null ? "no state: before the first event" : pretty(found.state)));
  } catch (error) {
    if (number === asked) say(find("state"), error.message);
  }
}

function showCommand(at) {
  const words = thread === null ? "" : filled(line, { thread });
  say(find("thread-command"), words && at !== undefined && at !== last ? `${words} --at ${at}` : words);
}

function showEvents(found) {
  first = found.events.length ? found.events[0].sequenceNr : 0;
  find("older").hidden = !found.more;
  find("events").append(...found.events.map(eventNode).reverse());
}

async function older() {
  try {
    showEvents(await ask(`threads/${thread}?before=${first}`));
  } catch (error) {
    tell(error.message, true);
  }
}

/** Show a thread. */
export async function inspect(id) {
  find("inspect-id").value = id;
  tell("reading …");
  try {
    const found = await ask(`threads/${encodeURIComponent(id)}`);
    thread = found.threadId;
    last = found.sequenceNr;
    find("facts").replaceChildren(
      fact("thread", found.threadId),
      fact("shard", `${found.shard}, ${found.state}`),
      fact("owner", found.owner ?? "none"),
      fact("epoch", found.epoch),
      fact("events", found.sequenceNr),
      fact("incarnation", found.incarnation ?? "none"),
    );
    find("events").replaceChildren();
    showEvents(found);
    find("inspected").hidden = false;
    find("at").max = String(last);
    tell(last ? "" : "no such thread was ever created; this is where it would be");
    await showState(last);
  } catch (error) {
    tell(error.message, true);
  }
}

const clamped = (at) => Math.max(0, Math.min(last, Number.isFinite(at) ? at : last));

export function commands(found) {
  line = found.thread || "";
  say(find("history-command"), found.history || "");
}

export function start() {
  find("inspect").addEventListener("submit", (event) => {
    event.preventDefault();
    inspect(find("inspect-id").value.trim());
  });
  find("older").addEventListener("click", older);
  find("at").addEventListener("change", () => showState(clamped(find("at").valueAsNumber)));
  find("before").addEventListener("click", () => showState(clamped(find("at").valueAsNumber - 1)));
  find("after").addEventListener("click", () => showState(clamped(find("at").valueAsNumber + 1)));
}
