/** The account of the messages of this page: what was sent, acknowledged and read back, and what of it is lost. */

export class Counter {
  constructor(panes) {
    this.panes = panes;
    this.messages = new Map();
    this.reached = new Array(panes).fill(0);
  }

  sent(messageId) {
    this.messages.set(messageId, { acknowledged: null, seen: new Set() });
  }

  acknowledged(messageId, sequenceNr) {
    this.messages.get(messageId).acknowledged = sequenceNr;
  }

  /** A pane has read an event with these messages. */
  read(pane, sequenceNr, messageIds) {
    this.reached[pane] = Math.max(this.reached[pane], sequenceNr);
    for (const id of messageIds) this.messages.get(id)?.seen.add(pane);
  }

  /** A pane begins again, at the first event. */
  restart(pane) {
    this.reached[pane] = 0;
    for (const message of this.messages.values()) message.seen.delete(pane);
  }

  /** A message is lost when it was acknowledged, and a pane has read past its place without it. */
  totals() {
    let acknowledged = 0, read = 0, lost = 0;
    for (const message of this.messages.values()) {
      if (message.seen.size === this.panes) read += 1;
      if (message.acknowledged === null) continue;
      acknowledged += 1;
      if (this.reached.some((nr, pane) => nr >= message.acknowledged && !message.seen.has(pane))) lost += 1;
    }
    return { sent: this.messages.size, acknowledged, read, lost };
  }
}
