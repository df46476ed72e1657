// The check of the source is busy with other requests: the setup continues without it, because the real call checks the same.

import { accessible, assert, clean, finish, given, open, picture, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser, { expected: /status of 429/ });
  let refused = 0;
  await page.route('**/api/v1/setup/validate/source', (route) => {
    refused += 1;
    return route.fulfill({ status: 429, json: { error: 'others run this check all the time; try again later' } });
  });
  await says(page, '#checks-state', 'All checks pass.');
  await page.getByLabel('Replica').check();
  await page.getByLabel('URL of the running KMS').fill(given.source);
  await page.getByRole('button', { name: 'Check the source' }).click();
  await says(page, '#source-finding', 'others run this check all the time');
  await page.getByLabel('Domain or IPv4 address').fill('replica.example');
  await page.getByRole('button', { name: 'Receive keys' }).click();
  await says(page, '#result-title', 'This KMS is a replica');
  const steps = await page.locator('#progress .badge').allTextContents();
  await accessible(page, 'a step was skipped');
  await picture(page, 'skipped');
  assert(refused === 4, `the page asked ${refused} times: once more each time`);
  assert((await page.locator('#compare-row').isHidden()), 'what the source showed is not known');
  await finish(page);
  clean(seen);
  return { steps };
});
