// Plain HTTP under a name, which browsers trust with less, and HTTPS: the page works in both, copying included.

import { assert, clean, given, open, says, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const plain = await open(browser, { url: `http://kms.test:${given.port}/` });
  await says(plain.page, '#checks-state', 'All checks pass.');
  assert(await plain.page.evaluate(() => !isSecureContext && !navigator.clipboard), 'this is what is tried here');
  await plain.page.getByRole('button', { name: 'Copy Device id' }).click();
  await says(plain.page, '#announce', 'Device id copied');
  const pasted = await plain.page.getByLabel('Domain or IPv4 address');
  await pasted.focus();
  await plain.page.keyboard.press('ControlOrMeta+v');
  const clipboard = await pasted.inputValue();

  const secure = await open(browser, { url: `https://kms.test:${given.port}/` });
  await says(secure.page, '#checks-state', 'All checks pass.');
  await secure.page.getByLabel('Domain or IPv4 address').fill('localhost');
  await secure.page.getByRole('button', { name: 'Make new keys' }).click();
  await says(secure.page, '#result-title', 'This KMS has new keys');
  await secure.page.getByRole('button', { name: 'Finish' }).click();
  await says(secure.page, '#serving-title', 'This KMS serves');
  clean(plain.seen);
  clean(secure.seen);
  return { clipboard };
});
