// The first KMS: its identity, checks, Bootstrap, Finish, and the way to its console; each state checked in every layout and theme.

import { accessible, assert, clean, finish, fits, focused, LOOKS, onlyOpen, open, picture, primary, says, scenario, step } from './browser.mjs';

async function everyLook(page, state) {
  for (const look of LOOKS) {
    await page.setViewportSize(look.viewport);
    await page.emulateMedia({ colorScheme: look.colorScheme, reducedMotion: 'reduce' });
    await fits(page, `${state}, ${look.name}`);
    await accessible(page, `${state}, ${look.name}`);
    await picture(page, `${state}-${look.name}`);
  }
  await page.setViewportSize(LOOKS[0].viewport);
}

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', 'All checks pass.');
  await says(page, '#identity-state', 'Proved by its own evidence');
  assert(await page.locator('#open-warning').isVisible(), 'an open KMS warns');
  assert(await page.locator('#finish').isDisabled(), 'no keys, no Finish');
  await onlyOpen(page, 'keys');
  assert((await primary(page)) === 'Make new keys', 'all checks pass, so keys are next');
  await everyLook(page, 'start');
  await step(page, 'checks');
  await onlyOpen(page, 'checks');
  await everyLook(page, 'checks');
  await step(page, 'identity');
  await onlyOpen(page, 'identity');
  await page.locator('#allow details').last().locator('summary').click();
  const shown = await page.locator('#identity-values code').allTextContents();
  const file = await page.locator('#allow-file code').textContent();
  await everyLook(page, 'identity');
  await step(page, 'keys');

  await page.getByLabel('Domain or IPv4 address').fill('localhost');
  await page.getByRole('button', { name: 'Make new keys' }).click();
  await says(page, '#result-title', 'This KMS has new keys');
  await focused(page, '#result-title');
  const result = await page.locator('#result-values code').allTextContents();
  const steps = await page.locator('#progress .badge').allTextContents();
  await everyLook(page, 'keys');

  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy Root CA public key' }).click();
  await says(page, '#announce', 'Root CA public key copied');
  const clipboard = await page.evaluate(() => navigator.clipboard.readText());

  await finish(page);
  await says(page, '#mode', 'Serving');
  const next = await page.locator('#serving-next code').allTextContents();
  await everyLook(page, 'serving');
  clean(seen);
  const link = page.locator('#serving-next').getByRole('link');
  const address = await link.getAttribute('href');
  await link.click();
  await page.locator('input[name=token]').waitFor();
  assert(page.url() === address, 'the console asks for a token there');
  return { shown, file: JSON.parse(file), result, steps, clipboard, next, console: address };
});
