/**
 * A page of the gateway's own origin that follows a thread with `EventSource`, in a real browser without a window.
 *
 *     node event_source.mjs BROWSER URL PATH
 *
 * Prints one line of JSON for each thing that happens: a request of the stream with its `Last-Event-ID`, an opened stream, a lost
 * one, an event.  Ends when its input ends.
 */

import { chromium } from "playwright-core";

const [browserPath, url, path] = process.argv.slice(2);
const TYPES = ["ThreadCreated", "MessagesAdded", "reset"];

const print = (line) => process.stdout.write(JSON.stringify(line) + "\n");

const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-quic"] });
try {
  const page = await browser.newPage();
  page.on("request", async (request) => {
    if (!request.url().includes("/events?")) return;
    const headers = await request.allHeaders().catch(() => ({}));
    print({ kind: "request", lastEventId: headers["last-event-id"] ?? "" });
  });
  await page.exposeFunction("happened", print);
  await page.goto(`${url}/docs`);
  await page.evaluate(
    ([path, types]) => {
      const events = new EventSource(path);
      events.onopen = () => window.happened({ kind: "open" });
      events.onerror = (event) =>
        window.happened(event.data ? { kind: "refused", data: event.data } : { kind: "lost", closed: events.readyState === 2 });
      for (const type of types) {
        events.addEventListener(type, (event) =>
          window.happened({ kind: "event", type, id: event.lastEventId, data: JSON.parse(event.data) }),
        );
      }
    },
    [path, TYPES],
  );
  await new Promise((resolve) => process.stdin.resume().on("end", resolve));
} finally {
  await browser.close();
}
