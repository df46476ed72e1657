// Plain HTTP under a host name, where browsers restrict pages, and HTTPS: the page works in both, including copying.

import { assert, clean, finish, given, open, says, scenario, step } from './browser.mjs';

await scenario(async (browser) => {
  const plain = await open(browser, { url: `http://kms.test:${given.port}/` });
  await says(plain.page, '#checks-state', 'All checks pass.');
  assert(await plain.page.evaluate(() => !isSecureContext && !navigator.clipboard), 'this is what is tried here');
  await step(plain.page, 'identity');
  await plain.page.getByRole('button', { name: 'Copy Device id' }).click();
  await says(plain.page, '#announce', 'Device id copied');
  await step(plain.page, 'keys');
  const pasted = await plain.page.getByLabel('Domain or IPv4 address');
  await pasted.focus();
  await plain.page.keyboard.press('ControlOrMeta+v');
  const clipboard = await pasted.inputValue();
  await plain.page.getByLabel('Replica').check();
  await plain.page.getByText('Keys from its admin listener').click();
  await says(plain.page, '#clear-warning', 'This page came without TLS');

  const secure = await open(browser, { url: `https://kms.test:${given.port}/` });
  await says(secure.page, '#checks-state', 'All checks pass.');
  await secure.page.getByLabel('Domain or IPv4 address').fill('localhost');
  await secure.page.getByRole('button', { name: 'Make new keys' }).click();
  await says(secure.page, '#result-title', 'This KMS has new keys');
  await finish(secure.page);
  clean(plain.seen);
  clean(secure.seen);
  return { clipboard };
});
