// Denials: who is refused and why; one denial as a chain of checks, what would allow it, and trying that out.

import { get, post, upload, useGet, useTask, withQuery } from '../api.js';
import { count, methodName, sentence, words } from '../format.js';
import { link } from '../router.js';
import { can } from '../roles.js';
import {
  Button, Card, Chain, Code, Confirm, Empty, Failure, Filters, Loaded, Page, Pages, Pill, Table, Time, Told, Values, column, html, toast, useState, whole,
} from '../ui.js';
import { Tcb, identity, useDomainFilter, waits } from './common.js';
import { asText, merged } from './policy_document.js';
import { Checked, startShadow } from './policy_parts.js';

const EVENTS = ['denied', 'refused', 'withheld'];
const FIELDS = [{ name: 'app', label: 'App id', placeholder: 'all apps' }, { name: 'code', label: 'Reason (code)', placeholder: 'all reasons' }];

function List({ params, navigate }) {
  const { app, code, domain, cursor } = params;
  const { fields, columns } = useDomainFilter(FIELDS);
  const denials = useGet(withQuery('/api/v1/denials', { app, code, domain, cursor, limit: 50 }), cursor ? {} : { every: 60, live: EVENTS });
  return html`<${Page} title="Denials" lead="Requests that were refused. The same caller that is refused again for the same reason is one row.">
    <${Card} flush>
      <${Filters} fields=${fields} params=${params} navigate=${navigate}>${cursor ? 'An older page; it does not change' : 'Updated as they happen'}<//>
      <${Loaded} of=${denials} lines=${8} empty=${(data) => data.denials.length === 0 && (app || code || domain
        ? html`<${Empty} title="No denial matches these filters">Wider filters show more.<//>`
        : html`<${Empty} title="Nobody was refused">A request that the policy or a check refuses appears here, with what would allow it.<//>`)}>${({ denials: rows, next }) => html`
        <${Table} caption="Denials" rows=${rows} rowKey=${({ id }) => id} href=${({ id }) => link('denials', id)} columns=${[
          { head: 'Last', kind: 'shrink', cell: ({ id, last_at: at }) => html`<a href=${link('denials', id)}><${Time} at=${at} still /></a>` },
          { head: 'Why', kind: 'why', cell: (row) => html`<span class="clamp" title=${row.message}>${row.message}</span><code class="sub">${row.code}</code>` },
          column.id('App', 'app_id', 'app id'),
          ...columns,
          column.id('Instance', 'instance_id', 'instance id'),
          { head: 'What', kind: 'minor nowrap', cell: ({ method }) => (method ? methodName(method) : '—') },
          column.number('Times', 'count'),
          column.time('First', 'first_at', { kind: 'minor spare shrink' }),
        ]} /><${Pages} cursor=${cursor} next=${next} navigate=${navigate} what="denials" />`}<//>
    <//><//>`;
}

const NAMES = { own_standing: 'This KMS', td_attributes: 'TD attributes', tcb_status: 'TCB status', frozen: 'Freezes', os_image: 'OS image', app_device: 'Device of the app', kms_device: 'Device of the KMS' };
const STEPS = { os_image: 'OS image measured', tcb_status: 'TCB' };
const named = (code) => NAMES[code] ?? sentence(words(code));

/** A check as a step of the chain. */
function step({ step: name, rule, state, message, expected, actual }) {
  const compared = state === 'failed' && (expected || actual);
  return {
    state,
    step: rule ? html`${named(rule)}<span class="sub">policy</span>` : STEPS[name] ?? named(name),
    message: html`<${Told}>${message || (state === 'passed' ? 'passes' : '')}<//>${compared && html`<dl class="compared"><dt>expected</dt><dd>${expected || '—'}</dd><dt>measured</dt><dd>${actual || '—'}</dd></dl>`}`,
  };
}

/** What would allow it, and the ways to try: a dry run, in shadow on live requests, and in force. */
function Remedy({ me, denial, refresh }) {
  const { remedy } = denial;
  const [checked, setChecked] = useState(null);
  const [asking, ask] = useState(null);
  const policy = useGet(remedy?.fragment ? '/api/v1/policy' : null);
  /** The policy of now, and the same with the fragment. */
  const draft = async () => {
    const { document: before } = await get('/api/v1/policy');
    return { before, after: merged(before, remedy.fragment) };
  };
  const dryRun = useTask(async () => {
    setChecked(null);
    const made = await draft();
    setChecked({ ...made, result: await post('/api/v1/policy/check', { document: made.after, denial_id: denial.id }) });
  });
  const shadow = useTask(async () => startShadow(asText((await draft()).after), `allows denial ${denial.id}`));
  const allow = useTask(async () => upload('/api/v1/file-upload/auth-config', asText((await draft()).after)));
  if (!remedy) {
    return html`<${Card} title="What would allow it"><p class="soft">${denial.explainable ? 'No change of the policy would allow this caller.' : 'The evidence of this request is not kept, so it cannot be judged again. Ask the CVM to try once more.'}</p><//>`;
  }
  const fragment = html`<${Code} text=${asText(remedy.fragment).trim()} name="fragment of the policy" />`;
  const hasDocument = Boolean(remedy.fragment && policy.data?.document);
  const mayAllow = hasDocument && policy.data.editable && can(me, 'policy.upload');
  const done = (result) => {
    ask(null);
    if (!waits(result)) toast('The policy in force has it now');
    refresh();
  };
  return html`<${Card} title="What would allow it">
    <div class="stack">
      ${remedy.text.split('\n').map((text) => html`<p key=${text}><${Told}>${text}<//></p>`)}
      ${remedy.fragment && html`${fragment}`}
      ${hasDocument && html`<div class="line">
        ${can(me, 'policy.check') && html`<${Button} kind=${mayAllow ? '' : 'primary'} busy=${dryRun.busy} onClick=${() => dryRun.run()}>Dry run<//>`}
        ${can(me, 'shadow.start') && html`<${Button} onClick=${() => ask('shadow')}>Try in shadow<//>`}
        ${mayAllow && html`<${Button} kind="primary" onClick=${() => ask('allow')}>Allow<//>`}
      </div>`}
      <${Failure} error=${dryRun.error} />
      ${checked && html`<${Checked} ...${checked} />`}
      ${remedy.kmsctl && html`<details><summary>On the command line</summary><${Code} text=${remedy.kmsctl} name="command" /></details>`}
    </div>
    ${asking === 'shadow' && html`<${Confirm} title="Try in shadow" word="Start the shadow" task=${shadow} onClose=${() => ask(null)}
      onDone=${() => { ask(null); toast('The candidate is in shadow', { href: link('policy', 'candidate'), word: 'See the candidate' }); }}>
      <p>The policy with this fragment judges each request beside the policy in force, and decides nothing. It replaces a candidate that is in shadow now.</p><//>`}
    ${asking === 'allow' && html`<${Confirm} title="Allow this" word="Put it in force" task=${allow} onClose=${() => ask(null)} onDone=${done}>
      <p>This is added to the policy in force. Every caller with these values gets keys from then on:</p>${fragment}<//>`}
  <//>`;
}

function Nearest({ nearest }) {
  return html`<${Card} title="Nearest entry of the policy" aside=${html`<code class="breaks">${nearest.entry}</code>`}><div class="stack">
    ${nearest.reason && html`<p class="soft">${nearest.reason}</p>`}
    <${Table} caption="Differences from the nearest entry" rows=${nearest.differences} rowKey=${({ field }) => field} columns=${[
      { head: 'Field', kind: 'shrink', cell: ({ field }) => field },
      { head: 'Listed', cell: ({ listed }) => html`<code class="good">${listed || '—'}</code>` },
      { head: 'Measured', cell: ({ measured }) => html`<code class="bad">${measured || '—'}</code>` },
    ]} /></div><//>`;
}

const VERDICTS = { allowed: ['good', 'Would be allowed now'], denied: ['bad', 'Would be denied now'], unknown: ['warn', 'Not known now'] };

function One({ me, params }) {
  const denial = useGet(`/api/v1/denials/${encodeURIComponent(params.id)}`, { every: 30, live: EVENTS });
  const { id, ...filters } = params;
  const { data } = denial;
  const verdict = VERDICTS[data?.verdict];
  return html`<${Page} title=${data ? `Why ${data.app_id ? `app ${data.app_id.slice(0, 8)}…` : 'this caller'} is refused` : 'Denial'} back=${{ href: link('denials', null, filters), text: 'Denials' }}
    lead=${data && html`<span>${count(data.count, 'time')} since <${Time} at=${data.first_at} />, last <${Time} at=${data.last_at} /></span>`}
    actions=${verdict && html`<${Pill} kind=${verdict[0]}>${verdict[1]}<//>`}>
    <${Loaded} of=${denial} lines=${12}>${(one) => html`<div class="grid">
      <div class="span7 stack">
        <${Card} title="Reason" aside=${html`<code>${one.code}</code>`}><p class="breaks"><${Told}>${one.message}<//></p>
          ${(one.expected || one.actual) && (one.walk ?? []).length === 0 && html`<${Values} of=${[{ name: 'Expected', value: one.expected && html`<code>${one.expected}</code>` }, { name: 'Measured', value: one.actual && html`<code>${one.actual}</code>` }]} />`}<//>
        ${(one.walk ?? []).length > 0 && html`<${Card} title="Checks" aside="by today's rules, in the order of a request"><${Chain} steps=${one.walk.map(step)} /><//>`}
        ${one.nearest && one.nearest.differences.length > 0 && html`<${Nearest} nearest=${one.nearest} />`}
      </div>
      <div class="span5 stack">
        <${Remedy} me=${me} denial=${one} refresh=${denial.refresh} />
        <${Card} title="Caller"><${Values} of=${[
          { name: 'Asked for', value: one.method && methodName(one.method) },
          ...identity(one),
          { name: 'TCB status', value: one.tcb_status && html`<${Tcb} status=${one.tcb_status} advisories=${one.tcb_advisories} />` },
          { name: 'Advisories', value: one.tcb_advisories?.join(', ') },
          { name: 'From', value: one.address },
          whole('Denial id', one.id, 'denial id', { hint: 'as the caller was told' }),
        ]} /><//>
      </div></div>`}<//><//>`;
}

/** The view. */
export default function DenialsView(props) {
  return props.params.id === null ? html`<${List} ...${props} />` : html`<${One} key=${props.params.id} ...${props} />`;
}
