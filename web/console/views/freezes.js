// Freezes: what gets no keys until it is lifted or ends. Before one starts, the KMS says what it stops.

import { Refusal, post, useDraft, useGet, useTask } from '../api.js';
import { count, number, sentence, short } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, ButtonLink, Card, Choose, Confirm, Dialog, Empty, Failure, Field, Id, Listed, Note, Page, Skeleton, Time, Typed, Whole, column, html, pill, toast, useEffect, useMemo, useState,
} from '../ui.js';
import { waits } from './common.js';

const PATH = '/api/v1/freezes';
const EVENTS = ['frozen', 'unfrozen', 'unfreeze_failed', 'approval_done'];

/** Scope, words, name of the target, its length in hexadecimal digits. */
const SCOPES = [
  ['app', 'An app', 'App id', 40],
  ['instance', 'One CVM', 'Instance id', 40],
  ['device', 'A machine', 'Device id', 64],
  ['os_image', 'An OS image', 'Image hash', 64],
  ['all', 'The whole KMS', null, 0],
];
const SCOPE_WORDS = { app: 'App', instance: 'CVM', device: 'Machine', os_image: 'OS image', all: 'The whole KMS' };
const ENDS = [['3600', 'In an hour'], ['14400', 'In 4 hours'], ['86400', 'In a day'], ['604800', 'In a week'], ['', 'When it is lifted']];
const MAX_REASON = 500;
const UNSHARED = 'the other nodes do not know it yet';

const isAll = (scope) => scope === 'all';

function plain(target) {
  return target.trim().toLowerCase().replace(/^0x/, '');
}

/** What is wrong with a target; nothing if it can be asked about. */
function wrong(scope, target) {
  const [, , name, digits] = SCOPES.find(([key]) => key === scope) ?? SCOPES[0];
  if (digits === 0) return '';
  if (!target) return `Type the ${name.toLowerCase()}.`;
  if (!/^[0-9a-f]*$/.test(target)) return 'Only hexadecimal digits.';
  return target.length === digits ? '' : `It has ${digits} hexadecimal digits; these are ${target.length}.`;
}

/** What the KMS says that a freeze would stop: asked again a moment after the last change. */
function usePreview(scope, target) {
  const [state, set] = useState({ data: null, error: null, busy: false });
  const problem = wrong(scope, target);
  useEffect(() => {
    if (problem) return void set({ data: null, error: null, busy: false });
    const asking = new AbortController();
    set({ data: null, error: null, busy: true });
    const soon = setTimeout(() => {
      post(`${PATH}/preview`, isAll(scope) ? { scope } : { scope, target }, { signal: asking.signal }).then(
        (data) => set({ data, error: null, busy: false }),
        (error) => { if (!asking.signal.aborted) set({ data: null, error, busy: false }); },
      );
    }, 250);
    return () => {
      clearTimeout(soon);
      asking.abort();
    };
  }, [scope, target, problem]);
  return state;
}

function Stops({ preview }) {
  const { data, error, busy } = preview;
  if (busy) return html`<${Skeleton} lines=${2} />`;
  if (error) return html`<${Failure} error=${error} title="It cannot be said what this stops" />`;
  if (!data) return null;
  const { cvm_count: cvms, releases_24h: releases } = data;
  if (cvms === 0) return html`<${Note} title="It stops nothing today">No CVM of it got keys in the last 24 hours. Later requests are refused.<//>`;
  return html`<${Note} kind="warn" title=${`It stops ${count(cvms, 'CVM')}`}>
    They got keys ${count(releases, 'time')} in the last 24 hours. Running ones keep what they have; their next boot, and certificates they renew, are refused.
    <details><summary>Which ones</summary><p class="line">${data.cvms.map(({ id, instance_id: instance }) => html`<a key=${id} href=${link('cvms', id)}><code>${short(instance || id, 8)}</code></a>`)}${cvms > data.cvms.length && html`<span class="soft">and ${number(cvms - data.cvms.length)} more</span>`}</p></details><//>`;
}

function Freeze({ params, navigate }) {
  const [scope, setScope] = useState(SCOPES.some(([key]) => key === params.scope) ? params.scope : 'app');
  const [typed, setTyped] = useState(params.target ?? '');
  const [reason, setReason] = useDraft('freeze-reason', '');
  const [ends, setEnds] = useState('14400');
  const [sure, setSure] = useState(false);
  const [tried, setTried] = useState(false);
  const target = isAll(scope) ? '' : plain(typed);
  const preview = usePreview(scope, target);
  const frozen = useGet(PATH, { live: EVENTS });
  const before = frozen.data?.freezes.find((freeze) => freeze.scope === scope && (freeze.target ?? '') === target);
  const problem = wrong(scope, target);
  const [, , name] = SCOPES.find(([key]) => key === scope);
  const task = useTask(() => post(PATH, {
    scope,
    ...(isAll(scope) ? {} : { target }),
    reason: reason.trim(),
    ...(before ? { replace: true } : {}),
    ...(ends ? { expires_at: new Date(Date.now() + Number(ends) * 1000).toISOString().replace(/\.\d+Z$/, 'Z') } : {}),
  }));
  // The place follows what is typed, so that a reload or a link shows the same.
  useEffect(() => {
    const soon = setTimeout(() => navigate({ scope, target: target || null }, { replace: true }), 400);
    return () => clearTimeout(soon);
  }, [scope, target]);
  const away = () => navigate(link('freezes'));
  const submit = async (event) => {
    event.preventDefault();
    setTried(true);
    if (problem || !reason.trim() || (isAll(scope) && !sure) || preview.busy) return;
    const made = await task.run();
    if (made === undefined) return;
    setReason('');
    if (made.shared === false) toast(`${SCOPE_WORDS[scope]} frozen on this node only: ${UNSHARED}. Freeze it on each of them.`, { kind: 'bad', href: link('fleet'), word: 'See nodes' });
    else if (!waits(made)) toast(`${SCOPE_WORDS[scope]} frozen`);
    away();
  };
  return html`<${Page} title="Freeze" back=${{ href: link('freezes'), text: 'Freezes' }} lead="Nothing that matches gets keys, from the next request on.">
    <form class="grid" onSubmit=${submit} novalidate>
      <${Card} title="What" span=${7}><div class="stack">
        <${Choose} label="What to freeze" of=${SCOPES} value=${scope} onChoose=${(key) => { setScope(key); setSure(false); }} />
        ${name && html`<${Typed} label=${name} error=${(tried || typed) && problem} value=${typed} onType=${setTyped} />`}
        <${Field} label="Reason" hint="Operators see it, and the audit log keeps it." error=${tried && !reason.trim() && 'Say why: the next operator has to know.'}>${(props) => html`<textarea ...${props} class="short"
          maxlength=${MAX_REASON} value=${reason} onInput=${(event) => setReason(event.target.value)}></textarea>`}<//>
        <${Choose} label="It ends" of=${ENDS} value=${ends} onChoose=${setEnds} />
      </div><//>
      <${Card} title="What it stops" span=${5}><div class="stack" aria-live="polite">
        ${problem ? html`<p class="soft">The KMS says here what a freeze would stop, before anything is frozen.</p>` : html`<${Stops} preview=${preview} />`}
        ${before && html`<${Note} title="It is frozen already">By ${before.by} <${Time} at=${before.at} />: “${before.reason}”. Reason and end are replaced.<//>`}
        ${isAll(scope) && html`<label class="choice"><input type="checkbox" checked=${sure} onChange=${(event) => setSure(event.target.checked)} /><span>No app gets keys from this KMS until an owner lifts it.</span></label>
          ${tried && !sure && html`<p class="error">Confirm that this stops everything.</p>`}`}
        <${Failure} error=${task.error} title=${task.error?.status === 409 ? 'Another operator was faster' : undefined} />
        <div class="line"><${Button} type="submit" kind="danger" busy=${task.busy || preview.busy}>Freeze now<//><${ButtonLink} href=${link('freezes')}>Cancel<//></div>
      </div><//>
    </form>
  <//>`;
}

function Lift({ freeze, onClose, onDone }) {
  const [reason, setReason] = useState('');
  const task = useTask(async () => {
    try {
      return await post(`${PATH}/${encodeURIComponent(freeze.id)}/lift`, reason.trim() ? { reason: reason.trim() } : {});
    } catch (error) {
      // Not a wrong address: another owner was faster, or it has ended.
      throw error.status === 404 ? new Refusal(409, error.message, error.code, error.requestId) : error;
    }
  });
  const what = isAll(freeze.scope) ? 'the whole KMS' : `${SCOPE_WORDS[freeze.scope]} ${short(freeze.target, 12)}`;
  return html`<${Confirm} title="Lift this freeze?" word="Lift it" task=${task} onClose=${onClose} onDone=${onDone}>
    <p>Requests of <strong>${what}</strong> are judged by the policy again, at once. It was frozen by ${freeze.by} <${Time} at=${freeze.at} />: “${freeze.reason}”.</p>
    <${Typed} label="Reason" hint="For the audit log; may be empty." spellcheck autocapitalize="sentences" value=${reason} maxlength=${MAX_REASON} onType=${setReason} />
  <//>`;
}

function Details({ freeze, onClose, actions }) {
  return html`<${Dialog} title=${SCOPE_WORDS[freeze.scope]} onClose=${onClose} actions=${actions}>
    ${!isAll(freeze.scope) && html`<${Whole} value=${freeze.target} name="target" />`}
    <p>“${freeze.reason}”</p>
    ${freeze.shared === false && html`<${Note} kind="bad" title="On this node only">${sentence(UNSHARED)}: freeze it on each of them.<//>`}
    <p class="soft">Frozen by ${freeze.by} <${Time} at=${freeze.at} />; ${freeze.expires_at ? html`it ends <${Time} at=${freeze.expires_at} />` : 'it does not end by itself'}.</p><//>`;
}

function List({ me, params, navigate }) {
  const freezes = useGet(PATH, { every: 30, live: EVENTS });
  const [lifting, setLifting] = useState(null);
  const close = () => { setLifting(null); freezes.refresh(); };
  const done = (answer) => { if (!waits(answer)) toast('Lifted'); close(); };
  const shown = useMemo(() => freezes.data?.freezes.find(({ id }) => id === params.id), [freezes.data, params.id]);
  const liftButton = (freeze) => can(me, 'freeze.lift') && html`<${Button} small onClick=${() => setLifting(freeze)}>Lift<span class="unseen"> the freeze of ${SCOPE_WORDS[freeze.scope]} ${short(freeze.target)}</span><//>`;
  const columns = [
    { head: 'Frozen', kind: 'main', cell: (freeze) => html`<a class="nowrap" href=${link('freezes', freeze.id)}>${SCOPE_WORDS[freeze.scope]}</a>` },
    { head: 'Target', cell: (freeze) => (isAll(freeze.scope) ? pill('everything', 'bad') : html`<${Id} value=${freeze.target} name="target" keep=${12} still />`) },
    freezes.data?.freezes.some(({ shared }) => shared === false) && { head: 'Where', cell: (freeze) => freeze.shared === false && pill('this node only', 'bad') },
    { head: 'Reason', cell: (freeze) => freeze.reason },
    { head: 'By', cell: (freeze) => freeze.by },
    column.time('Since', 'at'),
    column.time('Ends', 'expires_at', { none: 'when lifted' }),
    can(me, 'freeze.lift') && column.actions(liftButton),
  ];
  const freezeNow = can(me, 'freeze.create') && html`<${ButtonLink} kind="primary" href=${link('freezes', 'new')}>Freeze now<//>`;
  const nothing = html`<${Empty} title="Nothing is frozen" action=${freezeNow}>A freeze stops the release of keys to an app, a CVM, a machine, an OS image or everything, until it is lifted or ends.<//>`;
  return html`<${Page} title="Freezes" lead="What gets no keys, whatever the policy says." actions=${freezes.data?.freezes.length > 0 && freezeNow}>
    <${Listed} caption="Freezes in force" of=${freezes} lines=${4} empty=${nothing} columns=${columns} rows=${(data) => data.freezes} rowKey=${({ id }) => id} href=${({ id }) => link('freezes', id)} />
    ${params.id && freezes.data && !shown && html`<${Note} title="This freeze is not in force any more">It was lifted, or it ended. The event log has who did it and why.<//>`}
    ${shown && !lifting && html`<${Details} freeze=${shown} onClose=${() => navigate(link('freezes'))} actions=${liftButton(shown)} />`}
    ${lifting && html`<${Lift} freeze=${lifting} onClose=${close} onDone=${done} />`}
  <//>`;
}

/** `#/freezes`, `#/freezes/new?scope=…&target=…` and `#/freezes/ID`. */
export default function Freezes({ me, params, navigate }) {
  if (params.id === 'new' && can(me, 'freeze.create')) return html`<${Freeze} params=${params} navigate=${navigate} />`;
  return html`<${List} me=${me} params=${params} navigate=${navigate} />`;
}
