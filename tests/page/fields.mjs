// Invalid input: the field shows the error, has the focus, and works after the correction. No request is sent for it.

import { accessible, assert, clean, focused, open, picture, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', 'All checks pass.');
  // Its evidence comes after the check of its attester has passed: it is asked for once all the same.
  let go;
  const checked = new Promise((resolve) => { go = resolve; });
  await page.route((asked) => asked.pathname.endsWith('GetAttestationInfo'), async (route) => {
    await checked;
    await route.continue();
  });
  const before = seen.addresses.length;
  await page.reload();
  await says(page, '#checks-state', 'All checks pass.');
  go();
  await says(page, '#identity-state', 'Proved by its own evidence');
  const domain = page.getByLabel('Domain or IPv4 address');
  const told = {};
  for (const wrong of ['', 'a_b.example', 'kms.example.com:8000', 'https://kms.example.com']) {
    await domain.fill(wrong);
    await page.getByRole('button', { name: 'Make new keys' }).click();
    await says(page, '#progress', 'Failed');
    await page.locator('#domain[aria-invalid=true]').waitFor();
    await focused(page, '#domain');
    told[wrong] = await page.locator('#domain-error').textContent();
  }
  await accessible(page, 'wrong domain');
  await picture(page, 'wrong-domain');

  await page.getByLabel('Replica').check();
  assert((await page.locator('#domain-error').textContent()) === '', 'another road begins anew');
  await domain.fill('replica.example');
  await page.getByLabel('URL of the running KMS').fill('http://kms.example.com');
  await page.getByRole('button', { name: 'Receive keys' }).click();
  await page.locator('#source[aria-invalid=true]').waitFor();
  told.source = await page.locator('#source-error').textContent();

  await page.getByLabel('First KMS').check();
  await domain.fill(' localhost ');
  await page.getByRole('button', { name: 'Make new keys' }).click();
  await says(page, '#result-title', 'This KMS has new keys');
  clean(seen);
  return { told, called: seen.addresses.slice(before).filter((address) => address.includes('/prpc/')).map((address) => new URL(address).pathname) };
});
