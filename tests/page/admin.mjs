// A replica whose source releases keys only on its admin listener: refused with the reason, then successful with a token.

import { accessible, assert, clean, finish, given, open, picture, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const { page, seen } = await open(browser, { expected: /status of 4\d\d/ });
  await says(page, '#checks-state', 'All checks pass.');
  await page.getByLabel('Replica').check();
  await page.getByLabel('Domain or IPv4 address').fill('replica.example');
  const go = page.getByRole('button', { name: 'Receive keys' });
  const told = [];
  const attempt = async (url, token) => {
    await page.getByLabel('URL of the running KMS').fill(url);
    if (token !== null) {
      if (!(await page.locator('#source-token').isVisible())) await page.getByText('Keys from its admin listener').click();
      await page.getByLabel('Token of an operator of the running KMS').fill(token);
    }
    await go.click();
    await says(page, '#refusal', 'It did not work');
    told.push(await page.locator('#refusal').textContent());
  };
  await attempt(given.source, null);
  await attempt(given.admin, 'another-token');
  await accessible(page, 'a source that asks for a token');
  await picture(page, 'source-token');
  await page.getByLabel('Token of an operator of the running KMS').fill(given.token);
  await page.getByRole('button', { name: 'Check the source' }).click();
  await says(page, '#source-finding', 'It is an attested KMS');
  await go.click();
  await says(page, '#result-title', 'This KMS is a replica');
  assert((await page.locator('#source-token').inputValue()) === '', 'the token is not kept');
  const kept = await page.evaluate(() => [location.href, document.cookie, localStorage.length + sessionStorage.length].join());
  assert(![kept, ...seen.addresses].join().includes(given.token), 'the token is in no address and not stored');
  await finish(page);
  clean(seen);
  return { told };
});
