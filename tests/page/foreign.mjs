// A page of another site in the operator's browser: none of its requests to the KMS has an effect.

import { createServer } from 'node:http';
import { given, scenario } from './browser.mjs';

await scenario(async (browser) => {
  const context = await browser.newContext({ ignoreHTTPSErrors: true });
  const body = '<!doctype html><title>elsewhere</title><form method="post" enctype="text/plain"><input name="x"></form>';
  // On this machine too: otherwise the browser would block the page's requests itself.
  const elsewhere = createServer((_, answer) => answer.setHeader('content-type', 'text/html').end(body));
  await new Promise((listening) => { elsewhere.listen(0, '127.0.0.1', listening); });
  const evil = `http://evil.test:${elsewhere.address().port}/`;
  const statuses = [];
  context.on('response', (response) => {
    if (response.url().includes('/prpc/') || response.url().includes('/finish') || response.url().includes('/api/')) {
      statuses.push(`${response.request().method()} ${new URL(response.url()).pathname} ${response.status()}`);
    }
  });
  for (const origin of [`http://127.0.0.1:${given.port}`, `http://kms.test:${given.port}`]) {
    // A page for each: the navigation of the previous form may end after its response arrived.
    const page = await context.newPage();
    await page.goto(evil);
    await page.evaluate(async (kms) => {
      const text = '{"domain":"localhost"}';
      const send = (path, init) => fetch(kms + path, { mode: 'no-cors', ...init }).catch(() => null);
      await send('/prpc/Bootstrap', { method: 'POST', body: text });
      await send('/prpc/Bootstrap?domain=localhost');
      await send('/finish');
      await send('/api/v1/setup/validate/clock', { method: 'POST' });
      await new Promise((done) => {
        const image = new Image();
        image.onload = done;
        image.onerror = done;
        image.src = `${kms}/prpc/Onboard.Bootstrap?domain=localhost`;
      });
    }, origin);
    // Submitting a form navigates to the KMS.
    await page.evaluate((kms) => {
      const [form] = document.forms;
      const [field] = form.elements;
      form.action = `${kms}/prpc/Bootstrap`;
      field.name = '{"domain":"localhost","x":"';
      field.value = '"}';
    }, origin);
    // The refusal is protobuf, like the form's type: a download for the browser, not a page. The form is submitted after
    // this call returns, because leaving the page during the call would break it.
    const answered = page.waitForResponse((response) => response.url().includes('/prpc/Bootstrap'));
    await page.evaluate(() => { setTimeout(() => document.forms[0].submit(), 50); });
    await answered;
  }
  const pages = [...statuses];
  // A link opened by another program: for the browser this is the same as typing it.
  const opened = [];
  for (const origin of [`http://127.0.0.1:${given.port}`, `http://kms.test:${given.port}`]) {
    for (const link of ['Bootstrap?domain=localhost', 'Onboard?source_url=https%3A%2F%2Fevil.test&domain=localhost']) {
      const tab = await context.newPage();
      opened.push(String((await tab.goto(`${origin}/prpc/${link}`)).status()));
      await tab.close();
    }
  }
  elsewhere.close();
  return { statuses: pages, opened };
});
