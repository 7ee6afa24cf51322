/** Two people in one thread: each pane posts as one account, and shows what the thread's stream gives that account. */

import { ask, Refused } from "./api.js";
import { Counter } from "./counter.js";
import { find, make, say, timeOf } from "./dom.js";

const NAMES = ["Ada", "Ben"];
const AUTO_MS = 300;
const SHOWN_MOST = 200;
const PATIENCE_MS = 60_000;
const TEXTS = ["hello", "are you there?", "still here", "how about now?", "nothing lost", "go on", "fine", "and again"];
const DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/** A fresh ULID: the page chooses the ids, so that a request may be sent again. */
function ulid() {
  let time = Date.now(), text = "";
  for (let at = 0; at < 10; at += 1, time = Math.floor(time / 32)) text = DIGITS[time % 32] + text;
  for (const byte of crypto.getRandomValues(new Uint8Array(16))) text += DIGITS[byte % 32];
  return text;
}

const accounts = NAMES.map(ulid);
const counter = new Counter(NAMES.length);
let thread = null;
let panes = [];
let changed = () => {};
let inspect = () => {};
let auto = 0;

/** Send a command until it is answered: the same body and the same key each time. */
async function command(path, body) {
  const key = { "Idempotency-Key": ulid() };
  const until = Date.now() + PATIENCE_MS;
  for (let pause = 50; ; pause = Math.min(1000, pause * 2)) {
    try {
      return await ask(path, body, key);
    } catch (error) {
      if ((error instanceof Refused && error.status < 500) || Date.now() > until) throw error;
      tell(`${error.message}; sending again`);
      await new Promise((resolve) => setTimeout(resolve, pause * (0.5 + Math.random())));
    }
  }
}

function tell(text, bad = false) {
  find("chat-state").className = bad ? "outcome bad" : "outcome";
  say(find("chat-state"), text);
}

async function post(pane, text) {
  const messageId = ulid(), to = thread;
  counter.sent(messageId);
  showCounter();
  const shown = pane.add(messageId, text, true);
  try {
    const answer = await command(`v1/threads/${to}/messages/add`, { accountId: pane.account, messages: [{ messageId, text }] });
    if (to !== thread) return;
    counter.acknowledged(messageId, answer.sequenceNr);
    shown.classList.remove("waiting");
    tell("");
  } catch (error) {
    tell(`not posted: ${error.message}`, true);
  }
  showCounter();
}

function showCounter() {
  const totals = counter.totals();
  for (const [name, number] of Object.entries(totals)) say(find(name), String(number));
  find("lost").parentElement.classList.toggle("some", totals.lost > 0);
}

class Pane {
  constructor(number) {
    this.account = accounts[number];
    this.position = "";
    this.shown = new Map();
    this.link = make("span", { class: "chip" }, "no thread");
    this.log = make("div", { class: "log", role: "log", tabindex: "0", "aria-label": `Messages as ${NAMES[number]} reads them` });
    this.input = make("input", { "aria-label": `Message of ${NAMES[number]}`, placeholder: "a message", maxlength: "500", disabled: true, autocomplete: "off" });
    this.button = make("button", { disabled: true, class: "strong" }, "Send");
    this.form = make("form", { onsubmit: (event) => this.submit(event) }, this.input, this.button);
    this.node = make("div", { class: "pane", "data-pane": NAMES[number] }, make("h3", {}, NAMES[number], this.link), this.log, this.form);
  }

  submit(event) {
    event.preventDefault();
    const text = this.input.value.trim();
    if (!text || thread === null) return;
    this.input.value = "";
    post(this, text);
  }

  open() {
    this.input.disabled = this.button.disabled = false;
  }

  clear() {
    this.position = "";
    this.shown.clear();
    this.log.replaceChildren();
  }

  add(messageId, text, mine) {
    const follows = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
    const node = make("div", { class: `message waiting ${mine ? "mine" : ""}`, dir: "auto", "data-message": messageId }, text, make("small", {}, "on its way"));
    this.shown.set(messageId, node);
    this.log.append(node);
    while (this.log.childElementCount > SHOWN_MOST) {
      this.shown.delete(this.log.firstChild.dataset.message);
      this.log.firstChild.remove();
    }
    if (follows) this.log.scrollTop = this.log.scrollHeight;
    return node;
  }

  /** A message as the stream has it: the one place where a message counts as read. */
  read(event, message) {
    const node = this.shown.get(message.messageId) ?? this.add(message.messageId, message.text ?? "", event.senderId === this.account);
    node.classList.remove("waiting");
    node.dataset.read = String(event.sequenceNr);
    say(node.lastChild, `event ${event.sequenceNr}, ${timeOf(event.at)}`);
  }

  take(line, number) {
    this.position = line.position;
    say(this.link, line.event === "lost" ? "reconnecting" : line.event === "refused" ? "refused" : "live");
    const event = line.data;
    if (line.event === "refused") return tell(`${NAMES[number]}: ${event.detail}`, true);
    if (line.event === "reset") {
      this.clear();
      counter.restart(number);
      return changed();
    }
    if (!event?.sequenceNr) return;
    const messages = line.event === "MessagesAdded" ? event.messages : [];
    for (const message of messages) this.read(event, message);
    counter.read(number, event.sequenceNr, messages.map((message) => message.messageId));
    showCounter();
  }
}

async function newThread() {
  find("new-thread").disabled = true;
  tell("creating a thread …");
  const threadId = ulid();
  const [creator] = accounts;
  try {
    await command("v1/threads/create", { accountId: creator, threadId, title: "console", administratorIds: [creator], memberIds: accounts });
    thread = threadId;
    say(find("thread-id"), thread);
    find("inspect-thread").hidden = false;
    find("auto").disabled = false;
    counter.messages.clear();
    panes.forEach((pane, number) => {
      pane.clear();
      pane.open();
      counter.restart(number);
    });
    showCounter();
    tell("");
    changed();
  } catch (error) {
    tell(`not created: ${error.message}`, true);
  }
  find("new-thread").disabled = false;
}

function chatByItself() {
  clearInterval(auto);
  let at = 0;
  if (!find("auto").checked) return;
  auto = setInterval(() => {
    if (document.hidden || counter.totals().sent - counter.totals().acknowledged > 20) return;
    post(panes[at % panes.length], TEXTS[at % TEXTS.length]);
    at += 1;
  }, AUTO_MS);
}

/** What the tab's stream follows for the panes. */
export const follows = () =>
  thread === null ? [] : panes.map((pane, number) => ({ pane: number, threadId: thread, accountId: pane.account, position: pane.position }));

export const take = (line) => panes[line.pane].take(line, line.pane);

/** Build the panes; `onChange` opens the stream again, `onInspect` gets a thread's id. */
export function start(onChange, onInspect) {
  changed = onChange;
  inspect = onInspect;
  panes = NAMES.map((_, number) => new Pane(number));
  find("panes").append(...panes.map((pane) => pane.node));
  find("new-thread").addEventListener("click", newThread);
  find("auto").addEventListener("change", chatByItself);
  find("inspect-thread").addEventListener("click", () => inspect(thread));
}
