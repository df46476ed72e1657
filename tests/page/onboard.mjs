// A replica: it verifies a running KMS, receives its keys, and serves them.

import { accessible, assert, clean, finish, given, open, picture, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser);
  await says(page, '#checks-state', 'All checks pass.');
  await page.getByLabel('Replica').check();
  await page.getByLabel('URL of the running KMS').fill(given.source);
  await page.getByRole('button', { name: 'Check the source' }).click();
  await says(page, '#source-finding', 'It is an attested KMS');
  const finding = await page.locator('#source-finding').textContent();
  assert(await page.locator('#finish').isDisabled(), 'a check changes nothing');
  await page.getByLabel('Domain or IPv4 address').fill('replica.example');
  await picture(page, 'replica-form');
  await page.getByRole('button', { name: 'Receive keys' }).click();
  await says(page, '#result-title', 'This KMS is a replica');
  const steps = await page.locator('#progress li').allTextContents();
  const result = await page.locator('#result-values code').allTextContents();
  await accessible(page, 'replica');
  await picture(page, 'replica');
  assert((await page.locator('#compare-shown').textContent()) === 'match', 'the page compares with what the source showed');
  const own = (await page.locator('#result-values code').first().textContent()).slice(2);
  const verdicts = [];
  for (const pasted of [own, ` 0X${own.toUpperCase()} `, `0x${own}`, `${own.slice(0, -2)}${own.endsWith('00') ? '01' : '00'}`, '']) {
    await page.getByLabel('Compare with k256_pubkey of the source').fill(pasted);
    verdicts.push(await page.locator('#compare-pasted').textContent());
  }
  await finish(page);
  assert(await page.getByRole('button', { name: 'Finish' }).isHidden(), 'Finish is gone');
  clean(seen);
  return { finding, steps, result, verdicts };
});
