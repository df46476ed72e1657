// A rollout of an OS image over the nodes of a fleet, node by node: how far it has come, and what owners order.

import { post, useGet, useTask } from '../api.js';
import { count, duration } from '../format.js';
import { can } from '../roles.js';
import { link } from '../router.js';
import {
  Button, Card, Confirm, Loaded, Note, Table, Time, Typed, Values, column, html, pill, soft, stated, toast, useState, whole,
} from '../ui.js';
import { waits } from './common.js';

const PATH = '/api/v1/rollout';
const EVENTS = ['rollout_started', 'rollout_changed', 'rollout_node', 'rollout_failed', 'rollout_ended', 'approval_done'];
const STATES = { planned: ['quiet', 'Planned'], running: ['good', 'Running'], paused: ['warn', 'Paused'], done: ['good', 'Done'], cancelled: ['quiet', 'Cancelled'] };
const STEPS = {
  waiting: ['quiet', 'Waiting'], draining: ['warn', 'Draining'], replacing: ['warn', 'Replace it now'], booting: ['warn', 'Booting'], checking: ['warn', 'Checking'], healthy: ['warn', 'Healthy so far'],
  done: ['good', 'Done'], failed: ['bad', 'Failed'], skipped: ['quiet', 'Skipped'],
};
/** A program that runs replaces the nodes itself, so nobody is asked to. */
const DRIVEN = { ...STEPS, replacing: ['warn', 'Replacing'] };
/** What owners order: words, what the message says afterwards, and what it means. */
const ORDERS = {
  pause: ['Pause', 'Paused', 'Nothing more is begun. The node in work goes on.'],
  resume: ['Resume', 'Resumed', 'It goes on with the nodes that wait.'],
  cancel: ['Cancel', 'Cancelled', 'It ends: nodes stay as they are.'],
  retry: ['Retry', 'Retried', 'The node is begun again.'],
  skip: ['Skip', 'Skipped', 'The node stays as it is, and the rollout goes on with the others.'],
};

const isOver = ({ state }) => state === 'done' || state === 'cancelled';

function Order({ name, node, onEnd }) {
  const [word, done, meaning] = ORDERS[name];
  const task = useTask(() => post(`${PATH}/${name}`, node ? { node } : {}));
  return html`<${Confirm} title=${node ? `${word} ${node}?` : `${word} the rollout?`} word=${node ? word : `${word} it`} kind=${name === 'cancel' ? 'danger' : 'primary'} task=${task} onClose=${onEnd}
    onDone=${(answer) => { if (!waits(answer)) toast(done); onEnd(); }}><p>${meaning}</p><//>`;
}

/** The plan of a new one is shown before it can be started. */
function Start({ onEnd }) {
  const [image, setImage] = useState('');
  const [nodes, setNodes] = useState('');
  const [plan, setPlan] = useState(null);
  const body = { image: image.trim().replace(/^0x/, ''), nodes: nodes.split(/[\s,]+/).filter(Boolean) };
  const asked = JSON.stringify(body);
  const isImage = /^[0-9a-f]{64}$/i.test(body.image);
  const planning = useTask(async () => setPlan({ of: asked, view: await post(PATH, { ...body, preview: true }) }));
  const task = useTask(() => post(PATH, body));
  const isPlanned = plan?.of === asked;
  return html`<${Confirm} title="New rollout" word=${isPlanned ? 'Start it' : 'Show the plan'} kind=${isPlanned ? 'danger' : 'primary'} task=${isPlanned ? task : { ...planning, run: async () => { await planning.run(); } }} disabled=${!isImage} onClose=${onEnd}
    onDone=${(answer) => { if (!waits(answer)) toast('Started'); onEnd(); }}>
    <p>Nodes are replaced one by one, by you: the page says which and when. With a program: <code>kmsctl rollout start --hook</code>.</p>
    <${Typed} label="Hash of the OS image" error=${image && !isImage && 'It has 64 hexadecimal digits.'} value=${image} onType=${setImage} />
    <${Typed} label="Nodes in their order" hint="By their names; all that answer, if empty." value=${nodes} onType=${setNodes} />
    <div aria-live="polite">${isPlanned && html`<${Values} of=${[
      { name: 'Nodes', value: plan.view.rollout.nodes.map(({ name, step }) => (step === 'skipped' ? `${name} (runs it already)` : name)).join(', ') },
      { name: 'Serving meanwhile', value: `at least ${count(plan.view.rollout.min_serving, 'other node')}` },
      { name: 'Healthy for', value: duration(plan.view.rollout.healthy_for) },
      { name: 'Each node ends within', value: duration(plan.view.rollout.node_timeout) },
    ]} />`}</div><//>`;
}

/** Whether a node may be begun again: it has ended badly, or nobody knows what the program that replaced it did. */
const mayRetry = (of, step) => ['failed', 'skipped'].includes(step) || (step === 'replacing' && of.driven && !of.driver);

function Progress({ me, of, order }) {
  const isOwner = can(me, 'rollout.manage') && !isOver(of);
  const columns = [
    { head: 'Node', kind: 'main', cell: ({ name, id }) => html`<a href=${link('fleet', id)}>${name}</a>` },
    { head: 'Step', cell: ({ step, reason }) => html`${stated(of.driven ? DRIVEN : STEPS, step)}${reason && html`<span class="sub">${reason}</span>`}` },
    { head: 'Since', cell: ({ since }) => html`<${Time} at=${since} still />` },
    { head: 'Attempt', kind: 'num', cell: ({ attempt }) => attempt || soft() },
    isOwner && column.actions(({ name, step }) => html`<span class="rowactions">${mayRetry(of, step) && html`<${Button} small onClick=${() => order({ name: 'retry', node: name })}>Retry<span class="unseen"> ${name}</span><//>`}
      ${['waiting', 'failed'].includes(step) && html`<${Button} small onClick=${() => order({ name: 'skip', node: name })}>Skip<span class="unseen"> ${name}</span><//>`}</span>`),
  ];
  return html`<div class="stack">
    ${of.state === 'paused' && html`<${Note} kind=${of.failed ? 'bad' : 'warn'} title=${of.failed ? 'It is paused, because a node failed' : 'It is paused'}>${of.reason}<//>`}
    ${of.waits_for && html`<p role="status"><strong>It waits:</strong> ${of.waits_for}</p>`}
    <${Values} wide of=${[
      whole('OS image', of.image, 'OS image hash'), whole('Measurement', of.mr_aggregated),
      { name: 'Nodes done', value: `${of.nodes.filter(({ step }) => step === 'done').length} of ${of.nodes.length}` },
      { name: 'Serving', value: `${of.serving} now, at least ${of.min_serving} others whenever one is replaced` },
      { name: 'Started', value: html`<${Time} at=${of.started_at} /> by ${of.by}` },
      { name: 'Ended', value: of.ended_at && html`<${Time} at=${of.ended_at} />` },
      { name: 'Driver', value: of.driven && (of.driver ?? pill('none acts', 'warn')) },
    ]} />
    <${Table} caption="Nodes of the rollout" columns=${columns} rows=${of.nodes} rowKey=${({ name }) => name} /></div>`;
}

/** The rollout that goes on, or the last one. */
export function RolloutCard({ me }) {
  const rollout = useGet(PATH, { every: 3, live: EVENTS });
  const [open, setOpen] = useState(null);
  const { data } = rollout;
  const isOwner = can(me, 'rollout.manage');
  const end = () => { setOpen(null); rollout.refresh(); };
  const orders = !data?.rollout || isOver(data.rollout) ? [] : data.rollout.state === 'paused' ? ['resume', 'cancel'] : ['pause', 'cancel'];
  return html`<${Card} title="Rollout" aside=${html`${data?.rollout && stated(STATES, data.rollout.state)}
      ${isOwner && orders.map((name) => html`<${Button} key=${name} small onClick=${() => setOpen({ name })}>${ORDERS[name][0]}…<span class="unseen"> the rollout</span><//>`)}
      ${isOwner && data && orders.length === 0 && html`<${Button} small onClick=${() => setOpen({ name: 'start' })}>Roll an image out…<//>`}`}>
    <${Loaded} of=${rollout} lines=${3} empty=${(view) => !view.rollout && html`<p class="soft">${view.problem ?? 'There was none. A rollout replaces the nodes one by one by ones with another OS image.'}</p>`}>
      ${(view) => html`<${Progress} me=${me} of=${view.rollout} order=${setOpen} />`}<//>
    ${open && (open.name === 'start' ? html`<${Start} onEnd=${end} />` : html`<${Order} ...${open} onEnd=${end} />`)}<//>`;
}
