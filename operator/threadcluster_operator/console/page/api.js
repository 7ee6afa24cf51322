/** Requests to the console's server.  The token comes from the address's fragment, and leaves this page in a header alone. */

function takeToken() {
  const found = new URLSearchParams(location.hash.slice(1)).get("token");
  if (found !== null) {
    sessionStorage.setItem("token", found);
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem("token") || "";
}

const token = takeToken();
addEventListener("hashchange", () => {
  if (location.hash.includes("token=")) location.reload();
});

const fields = () => ({ Authorization: `Bearer ${token}` });

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** One request; the JSON of its answer.  Throws `Refused` for an answer that is no 200, and what `fetch` throws. */
export async function ask(path, body, more = {}) {
  const posting = body !== undefined;
  const response = await fetch(`api/${path}`, {
    method: posting ? "POST" : "GET",
    headers: { ...fields(), ...(posting ? { "Content-Type": "application/json" } : {}), ...more },
    body: posting ? JSON.stringify(body) : undefined,
    signal: AbortSignal.timeout(20_000),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Refused(response.status, answer.detail || `status ${response.status}`);
  return answer;
}

const SILENCE_MS = 5_000;
const AGAIN_MS = 500;

/**
 * The one stream of this tab: dropped while the tab is hidden, opened again when it is shown, and after a fault.
 * `request` gives the body of each opening, `take` gets each line, `state` gets "live", "hidden", "lost" or "refused".
 */
export class Stream {
  constructor(request, take, state) {
    this.request = request;
    this.take = take;
    this.state = state;
    this.number = 0;
    this.ending = null;
    document.addEventListener("visibilitychange", () => this.restart());
  }

  /** Open it again, with what `request` gives now. */
  restart() {
    this.ending?.abort();
    this.number += 1;
    if (document.hidden) this.state("hidden");
    else this.run(this.number);
  }

  async run(number) {
    while (number === this.number) {
      const ending = (this.ending = new AbortController());
      try {
        await this.read(ending, number);
      } catch (error) {
        if (number !== this.number) return;
        if (error instanceof Refused && error.status < 500) return this.state("refused", error.message);
      }
      if (number !== this.number) return;
      this.state("lost");
      await new Promise((resolve) => setTimeout(resolve, AGAIN_MS));
    }
  }

  async read(ending, number) {
    const response = await fetch("api/stream", {
      method: "POST",
      headers: { ...fields(), "Content-Type": "application/json" },
      body: JSON.stringify(this.request()),
      signal: ending.signal,
    });
    if (!response.ok) throw new Refused(response.status, (await response.json().catch(() => ({}))).detail);
    this.state("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let kept = "";
    let timer = setTimeout(() => ending.abort(), SILENCE_MS);
    try {
      for (;;) {
        const { done, value } = await reader.read();
        if (done || number !== this.number) return;
        clearTimeout(timer);
        timer = setTimeout(() => ending.abort(), SILENCE_MS);
        const lines = (kept + value).split("\n");
        kept = lines.pop();
        for (const line of lines) this.take(JSON.parse(line));
      }
    } finally {
      clearTimeout(timer);
      reader.cancel().catch(() => {});
    }
  }
}
