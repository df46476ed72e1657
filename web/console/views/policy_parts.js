// Pieces of the policy view: the rules of an allowlist for people, and the difference of two.

import { count, number, short } from '../format.js';
import { link } from '../router.js';
import { Button, Card, Code, Empty, Id, Table, Values, Whole, html } from '../ui.js';
import { save } from './common.js';

const bare = (value) => String(value).replace(/^0x/, '');

function Path({ at }) {
  return at.map((part, index) => html`${index > 0 && html`<span class="soft"> › </span>`}${/^(0x)?[0-9a-f]{24,}$/i.test(part) ? short(bare(part), 10) : part}`);
}

function Lines({ of, sign, word }) {
  return of.map(({ at, value }) => html`<li class=${sign === '+' ? 'added' : 'removed'}><span class="sign" aria-hidden="true">${sign}</span><span class="unseen">${word}: </span>
    <span><span class="where"><${Path} at=${at} /></span>${value !== null && html`<code>${typeof value === 'string' ? value || '""' : JSON.stringify(value)}</code>`}</span></li>`);
}

/** What is added and what is taken away, a line for each rule. */
export function Difference({ of }) {
  if (of.added.length + of.removed.length === 0) return html`<p class="soft">The rules are the same.</p>`;
  return html`<p class="hint">${[of.added.length > 0 && `${count(of.added.length, 'rule')} more`, of.removed.length > 0 && `${count(of.removed.length, 'rule')} less`].filter(Boolean).join(', ')}</p>
    <ul class="difference"><${Lines} of=${of.removed} sign="−" word="removed" /><${Lines} of=${of.added} sign="+" word="added" /></ul>`;
}

function Hashes({ of, name }) {
  if (!of || of.length === 0) return html`<span class="soft">none</span>`;
  return html`<span class="line">${of.slice(0, 3).map((hash) => html`<${Id} key=${hash} value=${bare(hash)} name=${name} still />`)}${of.length > 3 && html`<span class="soft">and ${number(of.length - 3)} more</span>`}</span>`;
}

const APPS = [
  { head: 'App', kind: 'main', cell: ([id]) => html`<a class="nowrap" href=${link('cvms', null, { app: bare(id) })}><code>${short(bare(id), 12)}</code></a>` },
  { head: 'Compose hashes', cell: ([, app]) => html`<${Hashes} of=${app.composeHashes} name="compose hash" />` },
  { head: 'Devices', cell: ([, app]) => (app.allowAnyDevice ? 'any device' : html`<${Hashes} of=${app.devices} name="device id" />`) },
];

/** What an allowlist allows. */
export function Allowed({ document }) {
  const apps = Object.entries(document.apps ?? {});
  const kms = document.kms ?? {};
  return html`
    <${Card} title="Apps" flush aside=${count(apps.length, 'app')}><${Table} caption="Allowed apps" columns=${APPS} rows=${apps} rowKey=${([id]) => id} empty=${html`<${Empty} title="No app is allowed" />`} /><//>
    <${Card} title="OS images" span=${6} aside=${count(document.osImages?.length ?? 0, 'image')}>${document.osImages?.length > 0 ? html`<ul class="stack tight">${document.osImages.map((hash) => html`<li key=${hash}><${Whole} value=${bare(hash)} name="OS image hash" /></li>`)}</ul>`
      : html`<p class="soft">No image is allowed.</p>`}<//>
    <${Card} title="Platforms and KMSs" span=${6}><${Values} of=${[
      { name: 'TCB statuses', value: document.allowedTcbStatuses?.join(', ') || 'as the KMS requires' },
      { name: 'Advisories', value: document.allowedAdvisoryIds?.join(', ') || 'none is tolerated' },
      { name: 'KMS measurements', value: html`<${Hashes} of=${kms.mrAggregated} name="KMS measurement" />` },
      { name: 'KMSs in a verified OS image', value: kms.images?.length > 0 && html`<${Hashes} of=${kms.images.map((entry) => entry?.composeHash).filter(Boolean)} name="compose hash" />` },
      { name: 'KMS devices', value: kms.allowAnyDevice ? 'any device' : html`<${Hashes} of=${kms.devices} name="device id" />` },
      { name: 'Gateway app', value: document.gatewayAppId && html`<${Id} value=${bare(document.gatewayAppId)} name="gateway app id" />` },
    ]} /><//>`;
}

/** The whole document. */
export function Raw({ document }) {
  const whole = `${JSON.stringify(document, null, 2)}\n`;
  return html`<details class="raw"><summary>The whole document</summary><${Code} text=${whole} name="policy" /><div class="below"><${Button} onClick=${() => save('auth-config.json', whole, 'application/json')}>Download<//></div></details>`;
}
