// The policy: what is in force, the candidate that judges live requests in shadow, and a change from draft to activation.

import { post, upload, useDraft, useGet, useTask } from '../api.js';
import { number, short, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Confirm, Empty, Failure, Field, Figure, Id, Listed, Loaded, Note, Page, Skeleton, Tabs, Time, Values, column, html, pill, soft, toast, useEffect, useMemo, useState, whole,
} from '../ui.js';
import { waits } from './common.js';
import { asText, difference, merged } from './policy_document.js';
import { Allowed, Checked, Difference, Raw, StopsAll, startShadow } from './policy_parts.js';

const EVENTS = ['shadow_started', 'shadow_stopped', 'file_uploaded', 'approval_done', 'policy_bundle_activated'];
const KINDS = { allowlist: 'an allowlist', webhook: 'a webhook', ethereum: 'a contract on Ethereum', dev: 'nobody: everything is allowed' };

function Activate({ before, after, sha256, run, onClose, onDone }) {
  const task = useTask(run);
  return html`<${Confirm} title="Activate this policy?" word="Activate" kind="primary" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>It decides from the next request on${sha256 ? html` (<${Id} value=${sha256} name="digest" keep=${12} />)` : ''}. This is what it changes:</p>
    <${Difference} of=${difference(before, after)} />
    <p class="hint">Keys that CVMs already have stay with them. The audit log records who activated it.</p><//>`;
}

function InForce({ policy }) {
  const { document, bundle } = policy;
  return html`<div class="grid">
    ${policy.message && html`<${Note} kind="warn" title="To know">${policy.message}<//>`}
    ${policy.relaxed && html`<${Note} kind="warn" title="This policy is relaxed">It allows more than a production policy should. The overview says what.<//>`}
    <${Card} title="In force"><${Values} wide of=${[
      { name: 'Decided by', value: KINDS[policy.kind] ?? words(policy.kind) },
      whole('Digest', policy.sha256, 'digest of the policy', { hint: 'in each audit record' }),
      { name: 'Since', value: policy.loaded_at && html`<${Time} at=${policy.loaded_at} />` },
      { name: 'Source', value: policy.source && words(policy.source) },
      ...(bundle ? [
        { name: 'Signed bundle', value: `${bundle.name}, serial ${bundle.serial}` },
        { name: 'Signed by', value: bundle.signers.join(', ') },
        { name: 'Expires', value: html`<${Time} at=${bundle.expires} />` },
      ] : []),
    ]} /><//>
    ${document ? html`<${Allowed} document=${document} /><div class="span12"><${Raw} document=${document} /></div>`
      : html`<${Card}><${Empty} title="Its rules are not here">${KINDS[policy.kind] ? `Decisions come from ${KINDS[policy.kind]}.` : 'This kind of policy keeps its rules elsewhere.'}<//><//>`}
  </div>`;
}

const CHANGES = [
  { head: 'Effect', kind: 'main', cell: ({ effect }) => (effect === 'newly_allowed' ? pill('would be allowed', 'good') : pill('would be denied', 'bad')) },
  { head: 'App', cell: ({ identity, subject }) => (subject === 'kms' ? 'a KMS' : html`<${Id} value=${identity?.app_id} name="app id" still />`) },
  { head: 'Instance', cell: ({ identity }) => html`<${Id} value=${identity?.instance_id} name="instance id" still />` },
  { head: 'Rule', cell: ({ reason, code }) => html`${reason} <code class="soft">${code}</code>` },
  column.number('Times', 'count'),
  column.time('Last', 'last'),
];

function Candidate({ policy, me, refresh }) {
  const { shadow } = policy;
  const report = useGet(shadow ? '/prpc/Admin.ShadowReport' : null, { every: 15, live: EVENTS });
  const [activating, setActivating] = useState(false);
  const stop = useTask(() => post('/prpc/Admin.StopShadow'));
  if (!shadow) {
    return html`<${Card}><${Empty} title="No candidate is in shadow" action=${can(me, 'shadow.start') && policy.editable && html`<${ButtonLink} kind="primary" href=${link('policy', 'edit')}>Prepare a change<//>`}>
      A candidate judges each live request beside the policy in force, and decides nothing. You see what it would change before it is activated.<//><//>`;
  }
  const end = async () => { if (await stop.run()) { toast('The candidate was stopped'); refresh(); } };
  const done = (answer) => { if (!waits(answer)) toast('The candidate is in force'); setActivating(false); refresh(); };
  const denies = shadow.would_deny > 0;
  return html`<div class="grid">
    <${Figure} span=${4} name="Requests judged" value=${number(shadow.seen)} more=${html`since <${Time} at=${shadow.started_at} />`} />
    <${Figure} span=${4} name="Newly allowed" value=${number(shadow.would_allow)} more="denied by the policy in force" />
    <${Figure} span=${4} name="Newly denied" value=${number(shadow.would_deny)} kind=${denies ? 'bad' : ''} more="allowed by the policy in force" />
    ${denies && html`<${Note} kind="warn" title="It would deny what runs today">Look at the decisions below before you activate it.<//>`}
    ${shadow.allows_this_kms === false && html`<div class="span12"><${StopsAll} /></div>`}
    <${Card} title="What it changes" aside=${html`<${Id} value=${shadow.sha256} name="digest of the candidate" keep=${12} />`}><div class="stack">
      ${shadow.document && policy.document ? html`<${Difference} of=${difference(policy.document, shadow.document)} />` : html`<p class="soft">Its rules cannot be compared with those in force.</p>`}
      <${Failure} error=${stop.error} />
      <div class="line">
        ${can(me, 'policy.activate') && policy.editable && html`<${Button} kind="primary" onClick=${() => setActivating(true)}>Activate it<//>`}
        ${can(me, 'shadow.stop') && html`<${Button} busy=${stop.busy} onClick=${end}>Stop the candidate<//>`}
      </div></div><//>
    <${Listed} title="Decisions that differ" of=${report} lines=${4} empty=${html`<${Empty} title="None so far">Candidate and policy in force decided alike.<//>`}
      columns=${CHANGES} rows=${(data) => data.changes} rowKey=${(change) => `${change.effect}${change.code}${change.identity?.instance_id}${change.actual}`} />
    ${activating && html`<${Activate} before=${policy.document ?? {}} after=${shadow.document ?? {}} sha256=${shadow.sha256} onClose=${() => setActivating(false)} onDone=${done}
      run=${() => post('/api/v1/policy/activate', { sha256: shadow.sha256 })} />`}
  </div>`;
}

function Edit({ policy, me, params, navigate, refresh }) {
  const current = asText(policy.document);
  const denial = useGet(params.denial ? `/api/v1/denials/${encodeURIComponent(params.denial)}` : null);
  const fragment = denial.data?.remedy?.fragment;
  // One draft for each denial, so that another denial does not find the text of the first.
  const [draft, setDraft] = useDraft(`policy-${params.denial ?? ''}`, '');
  const [checked, setChecked] = useState(null);
  const [activating, setActivating] = useState(false);
  const proposed = useMemo(() => (fragment ? asText(merged(policy.document, fragment)) : current), [fragment, current]);
  const written = draft || proposed;
  const parsed = useMemo(() => { try { return JSON.parse(written); } catch { return null; } }, [written]);
  const isSame = written === current;
  const check = useTask(() => post('/api/v1/policy/check', { document: written, ...(params.denial ? { denial_id: params.denial } : {}) }));
  const shadow = useTask(() => startShadow(written, params.denial ? `denial ${params.denial}` : ''));
  const look = async () => { const result = await check.run(); setChecked(result ? { of: written, result } : null); };
  const isChecked = checked?.of === written;
  // A remedy is checked at once: its outcome is why one is here.
  useEffect(() => { if (fragment && can(me, 'policy.check') && !checked && !draft) look(); }, [fragment]);
  const tryIt = async () => {
    const started = await shadow.run();
    if (!started) return;
    toast('The candidate judges live requests now');
    refresh();
    navigate(link('policy', 'candidate'));
  };
  const done = (answer) => {
    setActivating(false);
    setDraft('');
    if (!waits(answer)) toast('The policy is in force');
    refresh();
    navigate(link('policy'));
  };
  if (params.denial && denial.loading) return html`<${Card}><${Skeleton} lines=${6} /><//>`;
  return html`<div class="grid">
    ${params.denial && html`<div class="span12">${denial.data ? html`<${Note} title=${html`To allow denial <a href=${link('denials', params.denial)}>${short(params.denial, 12)}</a>`}>
      ${denial.data.remedy ? html`The policy has to ${denial.data.remedy.text.replace(/\.$/, '')}.` : 'No rule of the policy would allow it: the evidence itself was refused.'}${fragment && !draft ? ' The draft below does that.' : ''}<//>`
      : html`<${Failure} error=${denial.error} retry=${denial.refresh} />`}</div>`}
    <${Card} title="Draft" span=${7} aside=${isSame ? soft('as in force') : html`<${Button} kind="quiet" small onClick=${() => { setDraft(''); if (params.denial) navigate({ denial: null }); }}>Discard<//>`}><div class="stack">
      <${Field} label="Allowlist, as JSON" hint="Kept in this tab until it is activated or discarded." error=${parsed === null && 'This is not JSON yet.'}>${(props) => html`<textarea ...${props} class="mono tall" spellcheck=${false} autocapitalize="none" value=${written}
        onInput=${(event) => setDraft(event.target.value === current ? '' : event.target.value)}></textarea>`}<//>
    </div><//>
    <${Card} title="What it changes" span=${5}><div class="stack" aria-live="polite">
      ${checked && isChecked ? html`<${Checked} result=${checked.result} before=${policy.document} after=${parsed ?? {}} denialId=${params.denial} />`
        : parsed === null ? html`<p class="soft">Correct the JSON first.</p>`
          : isSame ? html`<p class="soft">Nothing yet.</p>` : html`<${Difference} of=${difference(policy.document, parsed)} />`}
      <${Failure} error=${check.error} /><${Failure} error=${shadow.error} />
      <div class="stack tight">
        ${can(me, 'policy.check') && html`<${Button} kind=${isChecked && checked.result.valid ? '' : 'primary'} busy=${check.busy} disabled=${isSame || parsed === null} onClick=${look}>Dry run<//>`}
        ${can(me, 'shadow.start') && html`<${Button} busy=${shadow.busy} disabled=${isSame || !isChecked || !checked.result.valid} onClick=${tryIt}>Try in shadow<//>`}
        ${can(me, 'policy.upload') && html`<${Button} kind=${isChecked && checked.result.valid ? 'primary' : ''} disabled=${isSame || !isChecked || !checked.result.valid} onClick=${() => setActivating(true)}>Activate…<//>`}
        ${!isSame && !isChecked && parsed !== null && html`<p class="hint">After a dry run of this text it can be tried in shadow or activated.</p>`}
      </div></div><//>
    ${activating && html`<${Activate} before=${policy.document} after=${parsed} onClose=${() => setActivating(false)} onDone=${done} run=${() => upload('/api/v1/file-upload/auth-config', written)} />`}
  </div>`;
}

/** `#/policy`, `#/policy/candidate`, and `#/policy/edit?denial=ID`, which begins with what would allow that denial. */
export default function Policy({ me, params, navigate }) {
  const policy = useGet('/api/v1/policy', { every: 30, live: EVENTS });
  const part = ['candidate', 'edit'].includes(params.id) ? params.id : 'force';
  const editable = policy.data?.editable && policy.data.document && can(me, 'policy.check');
  const tabs = [
    { value: 'force', text: 'In force', href: link('policy') },
    { value: 'candidate', text: 'Candidate', href: link('policy', 'candidate'), count: policy.data?.shadow ? 1 : undefined },
    ...(editable || part === 'edit' ? [{ value: 'edit', text: 'Change', href: link('policy', 'edit') }] : []),
  ];
  return html`<${Page} title="Policy" lead="Which apps get keys, on which machines, with which images.">
    <${Tabs} label="Parts of the policy" current=${part} of=${tabs} />
    <${Loaded} of=${policy} lines=${10}>${(data) => {
      if (part === 'candidate') return html`<${Candidate} policy=${data} me=${me} refresh=${policy.refresh} />`;
      if (part === 'edit') {
        return editable ? html`<${Edit} key=${params.denial ?? ''} policy=${data} me=${me} params=${params} navigate=${navigate} refresh=${policy.refresh} />`
          : html`<${Card}><${Empty} title="It cannot be changed here">${data.document ? 'Operators prepare changes; owners activate them.' : 'The rules of this policy are kept elsewhere.'}<//><//>`;
      }
      return html`<${InForce} policy=${data} />`;
    }}<//>
  <//>`;
}
