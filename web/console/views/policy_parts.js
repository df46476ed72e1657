// Pieces of the policy view: the rules of an allowlist for people, and the difference of two.

import { post } from '../api.js';
import { count, number, short } from '../format.js';
import { link } from '../router.js';
import { Button, Card, Code, Empty, Id, Listed, Note, Values, Whole, html, soft } from '../ui.js';
import { save } from './common.js';
import { asText, difference } from './policy_document.js';

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

/** The problems of a document, each with its place. */
function Problems({ of, more = 0 }) {
  return html`<ul>${of.map(({ at, message }, index) => html`<li key=${index}>${at && html`<code>${at}</code> `}${message}</li>`)}${more > 0 && html`<li>and ${number(more)} more</li>`}</ul>`;
}

/** Said of a candidate that denies this KMS. */
export function StopsAll() {
  return html`<${Note} kind="bad" role="alert" title="It does not allow this KMS itself">With it no app would get keys from this KMS.<//>`;
}

/** Starts a candidate in shadow; gives what the KMS says about it. */
export const startShadow = (config, name) => post('/prpc/Admin.StartShadow', { auth_config_json: config, name });

/** What the KMS says about a draft. */
export function Checked({ result, before, after, denialId }) {
  if (!result.valid) {
    return html`<${Note} kind="bad" role="alert" title=${count(result.problems.length, 'problem')}><${Problems} of=${result.problems} more=${result.more_problems} /><//>`;
  }
  const { decision } = result;
  return html`<div class="stack" role="status">
    ${result.problems.length > 0 && html`<${Note} kind="warn" title="Valid, with remarks"><${Problems} of=${result.problems} more=${result.more_problems} /><//>`}
    ${result.allows_this_kms === false && html`<${StopsAll} />`}
    ${decision && (decision.allowed
      ? html`<${Note} kind="good" title="This request would be allowed">${denialId && html`Denial <a href=${link('denials', denialId)}>${short(denialId, 12)}</a> was judged again by this draft.`}<//>`
      : html`<${Note} kind="bad" title="This request would still be denied">${decision.message} <code class="soft">${decision.code}</code><//>`)}
    <${Difference} of=${difference(before, after)} /></div>`;
}

function Hashes({ of, name }) {
  if (!of || of.length === 0) return soft('none');
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
    <${Listed} title="Apps" aside=${count(apps.length, 'app')} columns=${APPS} rows=${apps} rowKey=${([id]) => id} empty=${html`<${Empty} title="No app is allowed" />`} />
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
  const all = asText(document);
  return html`<details class="raw"><summary>The whole document</summary><${Code} text=${all} name="policy" /><div class="below"><${Button} onClick=${() => save('auth-config.json', all, 'application/json')}>Download<//></div></details>`;
}
