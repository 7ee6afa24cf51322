/**
 * The page `/docs` as a person meets it, in a real browser without a window.
 *
 *     node docs_page.mjs BROWSER URL WIDTH FOLDER
 *
 * Opens every operation in turn, creates a thread by the form, and prints what it saw as one line of JSON.  Pictures go to FOLDER.
 */

import { chromium } from "playwright-core";

const [browserPath, url, width, folder] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath: browserPath, args: ["--no-sandbox", "--disable-quic"] });
const viewport = { width: Number(width), height: 844 };
const found = { foreign: [], errors: [] };
const widths = (page) => page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
try {
  const page = await browser.newPage({ viewport });
  page.setDefaultTimeout(120_000);
  page.on("request", (request) => {
    const address = new URL(request.url());
    if (address.protocol !== "data:" && address.origin !== url) found.foreign.push(request.url());
  });
  page.on("console", (message) => message.type() === "error" && found.errors.push(message.text()));
  page.on("pageerror", (error) => found.errors.push(String(error)));
  await page.goto(`${url}/docs`);
  await page.waitForSelector(".opblock");
  found.beyondClosed = await widths(page);
  await page.screenshot({ path: `${folder}/docs-${width}.png` });
  const controls = page.locator(".opblock-summary-control");
  found.operations = await controls.count();
  // One at a time: with all of them open each click takes seconds.
  found.beyondOpen = 0;
  found.text = await page.evaluate(() => document.getElementById("ui").innerText);
  for (let place = 0; place < found.operations; place++) {
    await controls.nth(place).click();
    await page.waitForSelector(".opblock-body .responses-table");
    found.beyondOpen = Math.max(found.beyondOpen, await widths(page));
    found.text += await page.locator(".opblock-body").innerText();
    await controls.nth(place).click();
    await page.waitForSelector(".opblock-body", { state: "detached" });
  }
  const create = page.locator(".opblock", { has: page.locator('[data-path="/v1/threads/create"]') });
  await create.locator(".opblock-summary-control").click();
  await create.locator(".responses-table").waitFor();
  await create.screenshot({ path: `${folder}/docs-${width}-create.png` });
  for (const tab of await create.locator("button", { hasText: /^Schema$/ }).all()) await tab.click();
  found.schemas = await create.innerText();
  found.beyondSchemas = await widths(page);
  await create.screenshot({ path: `${folder}/docs-${width}-schemas.png` });
  await create.locator(".try-out__btn").click();
  await create.locator("input[type=text]").first().fill("");
  found.beyondForm = await widths(page);
  await create.locator("button.execute").click();
  await create.locator(".live-responses-table .response-col_status").first().waitFor();
  found.tried = await create.locator(".live-responses-table").first().innerText();
  found.beyondAnswer = await widths(page);
  await create.screenshot({ path: `${folder}/docs-${width}-tried.png` });
  const streams = page.locator(".opblock", { has: page.locator('[data-path$="/events"]') });
  for (const control of await streams.locator(".opblock-summary-control").all()) await control.click();
  await streams.nth(1).locator(".responses-table").waitFor();
  found.streams = await streams.count();
  found.streamsTried = await streams.locator(".try-out__btn").count();

  const plain = await browser.newPage({ viewport, javaScriptEnabled: false });
  await plain.goto(`${url}/docs`);
  found.plain = await plain.locator("body").innerText();
  await plain.screenshot({ path: `${folder}/docs-${width}-plain.png` });
  const box = await plain.locator("noscript").boundingBox();
  found.plainRight = box.x + box.width - viewport.width;
  process.stdout.write(JSON.stringify(found) + "\n");
} finally {
  await browser.close();
}
