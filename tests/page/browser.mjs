// A browser for one scenario: launched, watched and closed. Errors that a page must never cause fail the scenario.

import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** What the test gives: where the KMS is, which browser to use, where pictures go. */
export const given = JSON.parse(process.argv[2]);

/** How long anything is waited for, in milliseconds: the machine may be busy with other tests. */
export const PATIENCE = 180_000;

/** Phone and desktop, light and dark. */
export const LOOKS = [
  { name: 'desktop-light', viewport: { width: 1280, height: 900 }, colorScheme: 'light' },
  { name: 'desktop-dark', viewport: { width: 1280, height: 900 }, colorScheme: 'dark' },
  { name: 'phone-light', viewport: { width: 360, height: 740 }, colorScheme: 'light' },
  { name: 'phone-dark', viewport: { width: 360, height: 740 }, colorScheme: 'dark' },
];

export function assert(holds, what) {
  if (!holds) throw new Error(what);
}

/** Runs a scenario and prints what it returns as the last line. */
export async function scenario(play) {
  const browser = await chromium.launch({
    executablePath: given.chromium,
    headless: true,
    timeout: PATIENCE,
    args: [
      '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--disable-dev-shm-usage',
      // Names other than localhost: over plain HTTP the browser restricts their pages.
      '--host-resolver-rules=MAP *.test 127.0.0.1',
    ],
  });
  try {
    const result = await play(browser);
    console.log(JSON.stringify(result ?? {}));
  } finally {
    await browser.close();
  }
}

/** A page that is watched; `expected` matches the console errors that the scenario is about. */
export async function open(browser, { look = LOOKS[0], url = given.url, expected = /^$/, ...options } = {}) {
  const context = await browser.newContext({
    viewport: look.viewport,
    colorScheme: look.colorScheme,
    reducedMotion: 'reduce',
    ignoreHTTPSErrors: true,
    ...options,
  });
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE);
  const seen = { complaints: [], elsewhere: [], addresses: [] };
  page.on('console', (message) => {
    const text = message.text();
    if (['error', 'warning'].includes(message.type()) && !expected.test(text)) seen.complaints.push(text);
  });
  page.on('pageerror', (error) => seen.complaints.push(String(error)));
  page.on('request', (request) => {
    const asked = new URL(request.url());
    seen.addresses.push(asked.href);
    if (asked.origin !== new URL(url).origin) seen.elsewhere.push(asked.href);
  });
  await page.goto(url);
  return { page, seen };
}

/** What the browser complained about, and whom it asked besides the KMS: nothing and nobody. */
export function clean(seen) {
  assert(seen.complaints.length === 0, `the browser complains: ${seen.complaints.join('\n')}`);
  assert(seen.elsewhere.length === 0, `the page asks elsewhere: ${seen.elsewhere.join('\n')}`);
}

/** Fails on any violation that axe knows, best practices included. */
export async function accessible(page, where) {
  await page.evaluate(axe);
  const { violations, passes } = await page.evaluate(() => globalThis.axe.run(document));
  assert(passes.length > 10, `axe looked at something (${where})`);
  const told = violations.map((found) => {
    const nodes = found.nodes.map((node) => `${node.target}: ${node.failureSummary}`);
    return `${found.id} (${found.impact}): ${found.help}\n  ${nodes.join('\n  ')}`;
  });
  assert(violations.length === 0, `axe, ${where}:\n${told.join('\n')}`);
}

/** Nothing is wider than the screen. */
export async function fits(page, where) {
  const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  assert(over <= 0, `${where}: ${over} px wider than the screen`);
}

/** A picture of the whole page. */
export async function picture(page, name) {
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: join(given.screenshots, `${name}.png`), fullPage: true, animations: 'disabled' });
}

/** Opens a step of the page. */
export async function step(page, name) {
  const opener = page.locator(`#${name} .opener`);
  if ((await opener.getAttribute('aria-expanded')) === 'false') await opener.click();
  await page.locator(`#${name}-body`).waitFor({ state: 'visible' });
}

/** Only one step is open, and the page says which. */
export async function onlyOpen(page, name) {
  await page.locator(`#${name}-body`).waitFor({ state: 'visible' });
  const open = await page.evaluate(() => [...document.querySelectorAll('.step .body')].filter((body) => !body.hidden).map((body) => body.id));
  assert(open.join() === `${name}-body`, `open: ${open}`);
  const current = await page.locator('[aria-current=step]').evaluateAll((links) => links.map((link) => link.dataset.step));
  assert(current.join() === name, `current: ${current}`);
}

/** The texts of the primary buttons in sight: never more than one. */
export async function primary(page) {
  const texts = await page.locator('button.primary:visible').allTextContents();
  assert(texts.length <= 1, `primary buttons: ${texts}`);
  return texts.join();
}

/** From the result to a KMS that serves. */
export async function finish(page) {
  await page.getByRole('button', { name: 'Continue to the last step' }).click();
  await onlyOpen(page, 'serve');
  assert((await primary(page)) === 'Finish', 'Finish is what is next');
  await page.getByRole('button', { name: 'Finish' }).click();
  await says(page, '#serving-title', 'This KMS serves');
}

/** Waits until what has the focus matches the selector. */
export async function focused(page, selector) {
  await page.waitForFunction((wanted) => document.activeElement.matches(wanted), selector);
}

/** Waits until an element has a text. */
export async function says(page, selector, text) {
  await page.locator(selector).filter({ hasText: text }).first().waitFor({ state: 'visible' });
}
