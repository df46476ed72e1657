// The policy: what is in force, the candidate that judges live requests in shadow, and a change from draft to activation.

import { post, upload, useDraft, useGet, useTask } from '../api.js';
import { count, number, short, words } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Confirm, Empty, Failure, Field, Figure, Id, Loaded, Note, Page, Pill, Skeleton, Table, Tabs, Time, Values, Whole, html, toast, useEffect, useMemo, useState,
} from '../ui.js';
import { waits } from './common.js';
import { difference, merged } from './policy_document.js';
import { Allowed, Difference, Raw } from './policy_parts.js';

const EVENTS = ['shadow_started', 'shadow_stopped', 'file_uploaded', 'approval_done', 'policy_bundle_activated'];
const KINDS = { allowlist: 'an allowlist', webhook: 'a webhook', ethereum: 'a contract on Ethereum', dev: 'nobody: everything is allowed' };

const text = (document) => `${JSON.stringify(document, null, 2)}\n`;

/** Starts a candidate in shadow; gives what the KMS says about it. */
const startShadow = (config, name) => post('/prpc/Admin.StartShadow', { auth_config_json: config, name });

/** The problems of a document, each with its place. */
function Problems({ of, more = 0 }) {
  return html`<ul>${of.map(({ at, message }, index) => html`<li key=${index}>${at && html`<code>${at}</code> `}${message}</li>`)}${more > 0 && html`<li>and ${number(more)} more</li>`}</ul>`;
}

function StopsAll() {
  return html`<${Note} kind="bad" role="alert" title="It does not allow this KMS itself">With it no app would get keys from this KMS.<//>`;
}

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
    ${policy.message && html`<div class="span12"><${Note} kind="warn" title="To know">${policy.message}<//></div>`}
    ${policy.relaxed && html`<div class="span12"><${Note} kind="warn" title="This policy is relaxed">It allows more than a production policy should. The overview says what.<//></div>`}
    <${Card} title="In force"><${Values} wide of=${[
      { name: 'Decided by', value: KINDS[policy.kind] ?? words(policy.kind) },
      { name: 'Digest', hint: 'in each audit record', value: policy.sha256 && html`<${Whole} value=${policy.sha256} name="digest of the policy" />` },
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
  { head: 'Effect', kind: 'main', cell: ({ effect }) => (effect === 'newly_allowed' ? html`<${Pill} kind="good">would be allowed<//>` : html`<${Pill} kind="bad">would be denied<//>`) },
  { head: 'App', cell: ({ identity, subject }) => (subject === 'kms' ? 'a KMS' : html`<${Id} value=${identity?.app_id} name="app id" still />`) },
  { head: 'Instance', cell: ({ identity }) => html`<${Id} value=${identity?.instance_id} name="instance id" still />` },
  { head: 'Rule', cell: ({ reason, code }) => html`${reason} <code class="soft">${code}</code>` },
  { head: 'Times', kind: 'num', cell: (change) => number(change.count) },
  { head: 'Last', cell: ({ last }) => html`<${Time} at=${last} still />` },
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
    ${denies && html`<div class="span12"><${Note} kind="warn" title="It would deny what runs today">Look at the decisions below before you activate it.<//></div>`}
    ${shadow.allows_this_kms === false && html`<div class="span12"><${StopsAll} /></div>`}
    <${Card} title="What it changes" aside=${html`<${Id} value=${shadow.sha256} name="digest of the candidate" keep=${12} />`}><div class="stack">
      ${shadow.document && policy.document ? html`<${Difference} of=${difference(policy.document, shadow.document)} />` : html`<p class="soft">Its rules cannot be compared with those in force.</p>`}
      <${Failure} error=${stop.error} />
      <div class="line">
        ${can(me, 'policy.activate') && policy.editable && html`<${Button} kind="primary" onClick=${() => setActivating(true)}>Activate it<//>`}
        ${can(me, 'shadow.stop') && html`<${Button} busy=${stop.busy} onClick=${end}>Stop the candidate<//>`}
      </div></div><//>
    <${Card} title="Decisions that differ" flush><${Loaded} of=${report} lines=${4} empty=${(data) => data.changes.length === 0 && html`<${Empty} title="None so far">Candidate and policy in force decided alike.<//>`}>
      ${(data) => html`<${Table} caption="Decisions that differ" columns=${CHANGES} rows=${data.changes} rowKey=${(change) => `${change.effect}${change.code}${change.identity?.instance_id}${change.actual}`} />`}<//><//>
    ${activating && html`<${Activate} before=${policy.document ?? {}} after=${shadow.document ?? {}} sha256=${shadow.sha256} onClose=${() => setActivating(false)} onDone=${done}
      run=${() => post('/api/v1/policy/activate', { sha256: shadow.sha256 })} />`}
  </div>`;
}

/** What the KMS says about a draft. */
function Checked({ result, before, after, denialId }) {
  if (!result.valid) {
    return html`<${Note} kind="bad" role="alert" title=${count(result.problems.length, 'problem')}><${Problems} of=${result.problems} more=${result.more_problems} /><//>`;
  }
  const { decision } = result;
  return html`<div class="stack" role="status">
    ${result.problems.length > 0 && html`<${Note} kind="warn" title="Valid, with remarks"><${Problems} of=${result.problems} more=${result.more_problems} /><//>`}
    ${result.allows_this_kms === false && html`<${StopsAll} />`}
    ${decision && (decision.allowed
      ? html`<${Note} kind="good" title="The denied request would be allowed">${denialId && html`Denial <a href=${link('denials', denialId)}>${short(denialId, 12)}</a> was judged again by this draft.`}<//>`
      : html`<${Note} kind="bad" title="The denied request would still be denied">${decision.message} <code class="soft">${decision.code}</code><//>`)}
    <${Difference} of=${difference(before, after)} /></div>`;
}

/** The rules that would allow a denied request. */
function useRemedy(id) {
  const denial = useGet(id ? `/api/v1/denials/${encodeURIComponent(id)}` : null);
  const fragment = useMemo(() => {
    const given = denial.data?.remedy?.fragment;
    if (!given) return null;
    try {
      return typeof given === 'string' ? JSON.parse(given) : given;
    } catch {
      return null;
    }
  }, [denial.data]);
  return { denial, fragment };
}

function Edit({ policy, me, params, navigate, refresh }) {
  const current = text(policy.document);
  const { denial, fragment } = useRemedy(params.denial);
  // One draft for each denial, so that another denial does not find the text of the first.
  const [draft, setDraft] = useDraft(`policy-${params.denial ?? ''}`, '');
  const [checked, setChecked] = useState(null);
  const [activating, setActivating] = useState(false);
  const proposed = useMemo(() => (fragment ? text(merged(policy.document, fragment)) : current), [fragment, current]);
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
    <${Card} title="Draft" span=${7} aside=${isSame ? html`<span class="soft">as in force</span>` : html`<${Button} kind="quiet" small onClick=${() => { setDraft(''); if (params.denial) navigate({ denial: null }); }}>Discard<//>`}><div class="stack">
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
