// The onboarding token: entered in the page, or given once in the address; kept only in memory.

import { accessible, assert, clean, finish, focused, given, open, picture, says, scenario } from './browser.mjs';

async function kept(page) {
  return page.evaluate(() => ({
    address: location.href,
    cookies: document.cookie,
    stored: localStorage.length + sessionStorage.length,
  }));
}

await scenario(async (browser) => {
  // Without a token the KMS returns 401, which the browser logs.
  const asked = await open(browser, { expected: /status of 401/ });
  await says(asked.page, '#gate-title', 'Onboarding token');
  await says(asked.page, '#identity-state', 'Proved by its own evidence');
  for (const id of ['checks', 'keys', 'serve']) {
    assert(await asked.page.locator(`#${id}`).isHidden(), `${id} is locked`);
  }
  assert(await asked.page.locator('#open-warning').isHidden(), 'it is not open');
  await accessible(asked.page, 'token');
  await picture(asked.page, 'token');
  await asked.page.getByRole('button', { name: 'Unlock' }).click();
  await says(asked.page, '#token-error', 'Type the token first.');
  await asked.page.getByRole('textbox', { name: 'Token' }).fill('wrong');
  await asked.page.getByRole('button', { name: 'Unlock' }).click();
  await says(asked.page, '#token-error', 'This is not the token.');
  await accessible(asked.page, 'wrong token');
  await asked.page.getByRole('textbox', { name: 'Token' }).fill(given.token);
  await asked.page.keyboard.press('Enter');
  await says(asked.page, '#checks-state', 'All checks pass.');
  assert(await asked.page.locator('#gate').isHidden(), 'the gate is gone');
  await focused(asked.page, '#main');
  assert(!JSON.stringify([await kept(asked.page), asked.seen.addresses]).includes(given.token), 'the token is in no address');
  clean(asked.seen);

  const named = await open(browser, { url: `${given.url}?token=${encodeURIComponent(given.token)}` });
  await says(named.page, '#checks-state', 'All checks pass.');
  const after = await kept(named.page);
  assert(after.address === given.url, `the address is ${after.address}`);
  assert(after.cookies === '' && after.stored === 0, 'nothing is kept');
  assert((await named.page.context().cookies()).length === 0, 'no cookie, hidden ones included');
  const [first, ...others] = named.seen.addresses;
  assert(first.includes('token=') && others.every((address) => !address.includes('token=')), 'the token is shown once');
  await named.page.getByLabel('Domain or IPv4 address').fill('localhost');
  await named.page.getByRole('button', { name: 'Make new keys' }).click();
  await says(named.page, '#result-title', 'This KMS has new keys');

  // A page that was only watching learns it too.
  await says(asked.page, '#keys-state', 'They came by another call.');
  await finish(named.page);
  await says(asked.page, '#mode', 'Serving');
  clean(named.seen);
  return {};
});
