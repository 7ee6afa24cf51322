/** The map: workers with their shards, the verbs for them, and one shard's facts. */

import { ask } from "./api.js";
import { filled, find, make, say, timeOf } from "./dom.js";

const DOWN = new Set(["dead", "silent", "stopping", "displaced"]);
const WORDS = { recovering: "not served yet" };
const cards = new Map();
const cells = new Map();
let snapshot = null;
let chosen = null;

/** Ask for a change, and say what came of it. */
async function act(verb, values) {
  const outcome = find("outcome");
  const line = filled(snapshot.commands[verb], values);
  outcome.className = "outcome";
  say(outcome, `${line} …`);
  const { worker, shard } = values;
  try {
    const { done } = await ask("verbs", { verb, ...(worker === undefined ? {} : { worker }), ...(shard === undefined ? {} : { shard }) });
    say(outcome, `${line}: ${done}`);
  } catch (error) {
    outcome.className = "outcome bad";
    say(outcome, `${line}: ${error.message}`);
  }
}

/** A button for a verb, beside its command line, which `update` fills again. */
function verbRow(verb, label, values, kind = "") {
  const line = make("code");
  const button = make("button", { type: "button", class: kind, "data-verb": verb, onclick: () => act(verb, values()) }, label);
  const update = () => say(line, filled(snapshot.commands[verb], values()));
  return { row: make("div", { class: "verb" }, button, line), button, update };
}

function newCard(name) {
  const card = { name, worker: null };
  const worker = () => ({ worker: name, pid: card.worker?.pid ?? "PID" });
  card.state = make("span", { class: "chip" });
  card.facts = make("span", { class: "faint" });
  card.shards = make("div", { class: "shards", role: "toolbar", "aria-label": `Shards of ${name}` });
  card.verbs = [
    verbRow("drain", "Drain", worker),
    verbRow("uncordon", "Uncordon", worker),
    verbRow("cordon", "Cordon", worker),
    verbRow("kill", "Kill -9", worker, "danger"),
  ];
  const actions = make("details", {}, make("summary", {}, "Commands"), make("div", { class: "verbs" }, ...card.verbs.map((verb) => verb.row)));
  actions.open = snapshot.workers.length <= 4 && innerWidth > 640;
  card.node = make(
    "article",
    { class: "worker", "data-worker": name, "aria-label": `Worker ${name}` },
    make("div", { class: "worker-head" }, make("b", {}, name), card.state, card.facts),
    card.shards,
    actions,
  );
  card.actions = actions;
  card.shards.addEventListener("keydown", (event) => moveFocus(event, card.shards));
  return card;
}

/** Arrow keys go from shard to shard: one of them is in the order of tabs. */
function moveFocus(event, toolbar) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (step === undefined) return;
  const all = [...toolbar.children];
  const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
  for (const each of all) each.tabIndex = each === next ? 0 : -1;
  next.focus();
  event.preventDefault();
}

/** The ages of the workers' readings, as they were heard last. */
const ages = { all: {}, newest: null };

function showWorker(card) {
  const worker = card.worker;
  say(card.state, worker.state);
  card.state.className = `chip ${worker.state === "ready" ? "good" : DOWN.has(worker.state) ? "bad" : ""}`;
  card.node.classList.toggle("down", DOWN.has(worker.state));
  const age = ages.all[worker.name];
  const facts = [
    `${worker.shards} shards`,
    `${worker.commandsPerSecond.toFixed(1)} commands/s`,
    worker.version && `version ${worker.version}`,
    worker.pid && `process ${worker.pid}`,
    worker.database && (worker.database === "connected" ? `database read ${age ?? "?"} s ago` : `database: ${worker.message}`),
  ];
  say(card.facts, facts.filter(Boolean).join(" · "));
  for (const verb of card.verbs) verb.update();
  const [drain, uncordon, cordon, kill] = card.verbs.map((verb) => verb.button);
  drain.disabled = worker.state === "draining";
  uncordon.disabled = !["draining", "cordoned"].includes(worker.state);
  cordon.disabled = ["draining", "cordoned"].includes(worker.state);
  kill.disabled = worker.pid === null; // on Kubernetes a pod is ended by the command alone
}

function showShard(shard, toolbar, most) {
  let cell = cells.get(shard.id);
  if (cell === undefined) {
    cell = make("button", { type: "button", onclick: () => choose(shard.id) }, String(shard.id));
    cells.set(shard.id, cell);
  }
  const before = cell.parentElement;
  if (before !== toolbar) {
    const next = [...toolbar.children].find((each) => Number(each.textContent) > shard.id);
    toolbar.insertBefore(cell, next ?? null);
    if (before !== null) {
      cell.classList.remove("arrived");
      requestAnimationFrame(() => cell.classList.add("arrived"));
    }
  }
  for (const state of ["serving", "moving", "recovering", "unowned"]) cell.classList.toggle(state, state === shard.state);
  cell.classList.add("shard");
  cell.dataset.state = shard.state;
  cell.style.setProperty("--share", most ? Math.min(1, shard.commandsPerSecond / most).toFixed(2) : "0");
  const where = shard.state === "moving" ? `${shard.owner} to ${shard.target}` : shard.owner || "no worker";
  const label = `shard ${shard.id}, ${WORDS[shard.state] || shard.state}, ${where}, ${shard.commandsPerSecond} commands/s`;
  if (cell.title !== label) {
    cell.title = label;
    cell.setAttribute("aria-label", label);
  }
  cell.setAttribute("aria-pressed", String(chosen === shard.id));
}

function choose(id) {
  chosen = chosen === id ? null : id;
  show(snapshot);
}

let panelOf = null;

function showChosen() {
  const panel = find("shard");
  const shard = chosen === null ? undefined : snapshot.shards[chosen];
  panel.hidden = shard === undefined;
  if (shard === undefined) return (panelOf = null);
  if (panelOf?.id !== shard.id) {
    const text = make("p");
    const target = make("input", { "aria-label": "worker to pin the shard to", value: shard.pin || shard.owner || "" });
    const pin = verbRow("pin", "Pin", () => ({ shard: shard.id, worker: target.value.trim() }));
    const unpin = verbRow("unpin", "Unpin", () => ({ shard: shard.id }));
    target.addEventListener("input", pin.update);
    pin.row.insertBefore(target, pin.row.lastChild);
    panel.replaceChildren(text, make("div", { class: "verbs" }, pin.row, unpin.row));
    panelOf = { id: shard.id, text, pin, unpin };
  }
  panelOf.pin.update();
  panelOf.unpin.update();
  panelOf.unpin.button.disabled = !shard.pin;
  const facts = [
    `Shard ${shard.id}: ${WORDS[shard.state] || shard.state}`,
    shard.owner ? `owner ${shard.owner}` : "no owner",
    shard.target && shard.target !== shard.owner && `target ${shard.target}`,
    `epoch ${shard.epoch}`,
    shard.since && `since ${timeOf(shard.since)}`,
    shard.reason && `because: ${shard.reason}`,
    `${shard.commandsPerSecond} commands/s, ${shard.appendMilliseconds} ms an append`,
    shard.pin && `pinned to ${shard.pin}`,
  ];
  say(panelOf.text, facts.filter(Boolean).join(" · "));
}

/** The card of shards without a worker of this cluster. */
const NO_WORKER = { name: "no worker", state: "", version: "", pid: null, commandsPerSecond: 0, database: null };

function cardsOf(workers) {
  const strays = snapshot.shards.filter((shard) => !workers.some((worker) => worker.name === shard.owner));
  return strays.length ? [...workers, { ...NO_WORKER, shards: strays.length }] : workers;
}

export function show(found) {
  snapshot = found;
  const workers = cardsOf(found.workers);
  const place = find("workers");
  for (const [name, card] of cards) {
    if (!workers.some((worker) => worker.name === name)) {
      card.node.remove();
      cards.delete(name);
    }
  }
  for (const worker of workers) {
    if (!cards.has(worker.name)) {
      cards.set(worker.name, newCard(worker.name));
      place.append(cards.get(worker.name).node);
    }
    const card = cards.get(worker.name);
    card.worker = worker;
    showWorker(card);
    card.actions.hidden = worker.name === NO_WORKER.name;
  }
  const most = Math.max(0, ...found.shards.map((shard) => shard.commandsPerSecond));
  for (const shard of found.shards) showShard(shard, (cards.get(shard.owner) ?? cards.get(NO_WORKER.name)).shards, most);
  for (const { shards } of cards.values()) {
    const all = [...shards.children];
    if (!all.some((each) => each.tabIndex === 0 && each === document.activeElement)) all.forEach((each, at) => (each.tabIndex = at ? -1 : 0));
  }
  if (clusterVerb === null) {
    clusterVerb = verbRow("rebalance", "Rebalance", () => ({}));
    find("cluster-verbs").append(clusterVerb.row);
  }
  clusterVerb.update();
  showChosen();
  showSummary();
}

let clusterVerb = null;

function chip(text, kind) {
  return make("span", { class: `chip ${kind}` }, text);
}

function showSummary() {
  const { database, workers, shards } = snapshot;
  const live = workers.filter((worker) => !DOWN.has(worker.state)).length;
  const unserved = shards.filter((shard) => shard.state !== "serving").length;
  const connected = database.state === "connected";
  const age = ages.newest === null ? "" : `, read ${ages.newest} s ago`;
  find("summary").replaceChildren(
    chip(snapshot.ready ? "ready" : "not ready", snapshot.ready ? "good" : "bad"),
    chip(`${live} of ${workers.length} workers`, live === workers.length ? "" : "bad"),
    chip(unserved ? `${unserved} of ${shards.length} shards on their way` : `${shards.length} shards served`, ""),
    chip(connected ? `database connected${age}` : `database ${database.state}: ${database.message}${age}`, connected ? "" : "bad"),
  );
  if (snapshot.claimedByOther) find("summary").append(chip(snapshot.claimedByOther, "bad"));
}

export function pulse(found) {
  ages.all = found.ages;
  ages.newest = found.age;
  if (snapshot === null) return;
  for (const card of cards.values()) showWorker(card);
  showSummary();
}
