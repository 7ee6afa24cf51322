/**
 * A person at the console, in a real browser without a window.
 *
 *     node console.mjs BROWSER ADDRESS WIDTH FOLDER
 *
 * Creates a thread, posts, sees it live, kills a worker, keeps chatting, drains a worker, inspects the thread; writes pictures into
 * FOLDER.  Prints one line of JSON with what was found; ends with 1 when something did not come.
 */

import { chromium } from "playwright-core";

const [browserPath, address, width, folder] = process.argv.slice(2);
const size = { width: Number(width), height: Number(width) < 600 ? 844 : 900 };
const found = { requests: [], errors: [], overflow: {}, pictures: [] };

const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-quic"] });

/** A picture without the names of folders of this machine, which command lines have. */
async function picture(page, name, options = {}) {
  await page.evaluate(() => {
    document.querySelectorAll("#workers details").forEach((each) => (each.open = false));
    document.querySelectorAll("code, #outcome").forEach((each) => (each.textContent = each.textContent.replace(/ --data-dir [^ :]+/, "")));
  });
  const path = `${folder}/console-${width}-${name}.png`;
  await page.screenshot({ path, ...options });
  found.pictures.push(path);
}

const number = async (page, id) => Number(await page.locator(`#${id}`).textContent());

/** Wait until a number of the counter is at least this, and both panes have read all that was acknowledged. */
async function read(page, least) {
  await page.waitForFunction(
    (least) => {
      const [sent, acknowledged, back] = ["sent", "acknowledged", "read"].map((id) => Number(document.getElementById(id).textContent));
      return back >= least && back >= acknowledged && acknowledged <= sent;
    },
    least,
    { timeout: 30_000 },
  );
}

async function overflow(page, name) {
  found.overflow[name] = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
}

const pidOf = (page, worker) =>
  page.locator(`[data-worker="${worker}"]`).evaluate((card) => Number(/process (\d+)/.exec(card.textContent)?.[1] ?? 0));

const open = async (page, worker) => {
  const commands = page.locator(`[data-worker="${worker}"] details`);
  if ((await commands.getAttribute("open")) === null) await commands.locator("summary").click();
};

try {
  const context = await browser.newContext({ viewport: size, colorScheme: "light" });
  const page = await context.newPage();
  page.on("request", (request) => found.requests.push(`${request.method()} ${request.url()}`));
  // An answer 50x while a worker dies is no fault of the page: it sends again.
  const wrong = (message) => ["error", "warning"].includes(message.type()) && !/responded with a status of 50/.test(message.text());
  page.on("console", (message) => wrong(message) && found.errors.push(message.text()));
  page.on("pageerror", (error) => found.errors.push(String(error)));

  await page.goto(address);
  await page.waitForSelector('body[data-stream="live"]');
  await page.waitForFunction(() => document.querySelectorAll('.shard[data-state="serving"]').length > 0);
  found.location = page.url();
  found.cookies = (await context.cookies()).length;
  found.summary = await page.locator("#summary").textContent();
  found.workers = await page.locator("[data-worker]").evaluateAll((all) => all.map((each) => each.dataset.worker));
  await overflow(page, "map");
  await picture(page, "map");

  // A thread, and a message that the other person sees.
  await page.click("#new-thread");
  const [ada, ben] = ["Ada", "Ben"].map((name) => page.locator(`[data-pane="${name}"]`));
  await ada.locator("input:enabled").fill("hello Ben <b>\u202e");
  await ada.locator("button").click();
  await ben.locator(".message[data-read]").first().waitFor();
  found.text = await ben.locator(".message").first().evaluate((node) => [node.firstChild.data, node.querySelectorAll("b").length]);
  await ben.locator("input").fill("hello Ada");
  await ben.locator("input").press("Enter");
  await read(page, 2);

  // Chat by itself, and kill a worker meanwhile.
  await page.check("#auto");
  await read(page, 8);
  const victim = found.workers[0];
  const before = await pidOf(page, victim);
  await open(page, victim);
  found.killCommand = await page.locator(`[data-worker="${victim}"] .verb:has([data-verb="kill"]) code`).textContent();
  const sentBefore = await number(page, "sent");
  const began = Date.now();
  await page.locator(`[data-worker="${victim}"] [data-verb="kill"]`).click();
  await page.waitForFunction(() => document.querySelector('#workers .shard:not([data-state="serving"])') !== null, null, { polling: 20, timeout: 10_000 });
  const bottom = await page.locator("#chat").evaluate((chat) => Math.min(innerHeight, chat.getBoundingClientRect().bottom + 16));
  await picture(page, "killed", Number(width) < 600 ? {} : { clip: { x: 0, y: 0, width: size.width, height: bottom } });
  await read(page, sentBefore + 12);
  await page.waitForFunction(
    ([worker, old]) => Number(/process (\d+)/.exec(document.querySelector(`[data-worker="${worker}"]`).textContent)?.[1] ?? old) !== old,
    [victim, before],
  );
  await page.waitForFunction(() => document.querySelector('#workers .shard:not([data-state="serving"])') === null, null, { timeout: 30_000 });
  found.killedFor = Date.now() - began;
  found.chattedOnAt = Date.now() / 1000;
  found.restarted = [before, await pidOf(page, victim)];

  // Drain another one: its shards go, and the moves show it.
  const drained = found.workers[1];
  await open(page, drained);
  await page.locator(`[data-worker="${drained}"] [data-verb="drain"]`).click();
  await page.waitForFunction(
    (worker) => document.querySelectorAll(`[data-worker="${worker}"] .shard`).length === 0,
    drained,
    { timeout: 30_000 },
  );
  await page.locator("#changes tr", { hasText: "handoff" }).first().waitFor();
  await page.locator("#changes td.pause", { hasText: "ms" }).first().waitFor();
  await page.locator(`[data-worker="${drained}"] [data-verb="uncordon"]`).click();
  await read(page, (await number(page, "sent")) + 3);
  await page.uncheck("#auto");
  await page.waitForFunction(() => document.getElementById("sent").textContent === document.getElementById("read").textContent, null, {
    timeout: 30_000,
  });
  found.account = Object.fromEntries(await Promise.all(["sent", "acknowledged", "read", "lost"].map(async (id) => [id, await number(page, id)])));
  await overflow(page, "chat");
  await page.evaluate(() => scrollTo(0, 0));
  await picture(page, "chat");

  // The inspector.
  await page.click("#inspect-thread");
  await page.locator("#events .event").first().waitFor();
  await page.locator("#events .event").last().locator("summary").click();
  found.event = await page.locator("#events .event").last().locator("pre").textContent();
  await page.locator("#at").fill("2");
  await page.locator("#at").press("Enter");
  await page.waitForFunction(() => document.getElementById("state").textContent.includes('"updatedAt"'));
  found.state = await page.locator("#state").textContent();
  found.threadCommand = await page.locator("#thread-command").textContent();
  await overflow(page, "inspector");
  await picture(page, "inspector");

  // By keyboard: from shard to shard, and the facts of one.
  const toolbar = page.locator(".shards:has(.shard)").first();
  await toolbar.locator('.shard[tabindex="0"]').focus();
  await page.keyboard.press("ArrowRight");
  await page.keyboard.press("Enter");
  found.shard = await page.locator("#shard").textContent();
  await page.keyboard.press("Enter");

  // Hidden: the stream is dropped, and opened again when the tab is shown.
  const hide = (hidden) =>
    page.evaluate((hidden) => {
      Object.defineProperty(document, "hidden", { configurable: true, get: () => hidden });
      document.dispatchEvent(new Event("visibilitychange"));
    }, hidden);
  const streams = () => found.requests.filter((line) => line.endsWith("/api/stream")).length;
  const opened = streams();
  await hide(true);
  await page.waitForSelector('body[data-stream="hidden"]');
  await hide(false);
  await page.waitForSelector('body[data-stream="live"]');
  found.streamsAfterHiding = streams() - opened;

  // A reload keeps the token of the tab.
  await page.reload();
  await page.waitForSelector('body[data-stream="live"]');
  await page.emulateMedia({ colorScheme: "dark" });
  await page.waitForFunction(() => document.querySelectorAll('.shard[data-state="serving"]').length > 0);
  await picture(page, "dark");
} catch (error) {
  found.failure = String(error);
  const [page] = browser.contexts().flatMap((context) => context.pages());
  if (page !== undefined) await picture(page, "failure");
  process.exitCode = 1;
} finally {
  await browser.close();
}
process.stdout.write(JSON.stringify(found) + "\n");
