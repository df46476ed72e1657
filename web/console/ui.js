// The pieces that views are made of: cards, tables, identifiers, times, notes, dialogs, and the states of what is loaded.

import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from '../vendor/preact.js';
import { absolute, ago, number, sentence, short } from './format.js';

export { html, useCallback, useEffect, useLayoutEffect, useRef, useState };
export { useMemo } from '../vendor/preact.js';

const SHAPES = {
  check: 'M3.5 8.5l3 3 6-7',
  cross: 'M4 4l8 8M12 4l-8 8',
  dash: 'M4 8h8',
  copy: 'M5.5 5.5v-3h8v8h-3M2.5 5.5h8v8h-8z',
  chevron: 'M6 3.5L10.5 8 6 12.5',
  back: 'M10 3.5L5.5 8l4.5 4.5',
  menu: 'M2.5 4.5h11M2.5 8h11M2.5 11.5h11',
  refresh: 'M13 8a5 5 0 1 1-1.5-3.6M13 2.5v3h-3',
  download: 'M8 2.5v7M5 7l3 3 3-3M3 13h10',
  warning: 'M8 2.5l6 11H2zM8 6.5v3M8 11.5v.2',
  critical: 'M5.5 2.5h5l3 3v5l-3 3h-5l-3-3v-5zM8 5v4M8 11v.2',
  info: 'M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM8 7.5V11M8 5v.2',
};

/** A small drawing; decoration, so there are words beside it. */
export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${SHAPES[name]} /></svg>`;
}

const SEVERITIES = { critical: 'Critical', warning: 'Warning', info: 'Notice' };

/** A severity by shape, colour and, for a screen reader, word. */
export function Severity({ of }) {
  const name = of in SEVERITIES ? of : 'info';
  return html`<span class="severity ${name}"><${Icon} name=${name} /><span class="unseen">${SEVERITIES[name]}: </span></span>`;
}

// What a screen reader is told, and short messages for everyone.

const messages = { list: [], tell: new Set(), next: 1 };

/** Shows a short message for a while, and reads it out. `href` is a place to go from there. */
export function toast(text, { kind = 'good', href = null, word = 'Show' } = {}) {
  const id = messages.next++;
  messages.list = [...messages.list, { id, text, kind, href, word }];
  const drop = () => {
    messages.list = messages.list.filter((message) => message.id !== id);
    for (const tell of messages.tell) tell();
  };
  setTimeout(drop, kind === 'bad' ? 12000 : 6000);
  for (const tell of messages.tell) tell();
}

/** Where the messages appear; once in the page. */
export function Toasts() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const tell = () => redraw((times) => times + 1);
    messages.tell.add(tell);
    return () => messages.tell.delete(tell);
  }, []);
  return html`<div class="toasts" role="status" aria-live="polite">
    ${messages.list.map(({ id, text, kind, href, word }) => html`<p key=${id} class="toast ${kind}">
      <span>${text}</span>${href && html`<a href=${href}>${word}</a>`}</p>`)}
  </div>`;
}

/**
 * One tooltip for the page: the text of `data-tip` of what is hovered or focused. Escape hides it. It is for eyes only, so what has one
 * has the text as its description too.
 */
export function Tips() {
  const [tip, set] = useState(null);
  const box = useRef(null);
  useEffect(() => {
    const show = (event) => {
      const holder = event.target instanceof Element ? event.target.closest('[data-tip]') : null;
      if (!holder) return void set(null);
      set({ text: holder.dataset.tip, at: holder.getBoundingClientRect() });
    };
    const hide = (event) => { if (event.type !== 'keydown' || event.key === 'Escape') set(null); };
    const listened = [['mouseover', show], ['focusin', show], ['focusout', hide], ['keydown', hide], ['scroll', hide]];
    for (const [name, listener] of listened) document.addEventListener(name, listener, true);
    return () => { for (const [name, listener] of listened) document.removeEventListener(name, listener, true); };
  }, []);
  useLayoutEffect(() => {
    if (!tip || !box.current) return;
    const { width, height } = box.current.getBoundingClientRect();
    const left = Math.max(8, Math.min(tip.at.left + tip.at.width / 2 - width / 2, innerWidth - width - 8));
    const above = tip.at.top - height - 6;
    box.current.style.left = `${left}px`;
    box.current.style.top = `${above < 8 ? tip.at.bottom + 6 : above}px`;
  }, [tip]);
  // In the top layer, so that it is also above dialogs.
  useLayoutEffect(() => {
    const element = box.current;
    if (!element?.showPopover) return;
    if (tip && !element.matches(':popover-open')) element.showPopover();
    if (!tip && element.matches(':popover-open')) element.hidePopover();
  }, [tip]);
  return html`<div class="tip" ref=${box} aria-hidden="true" popover="manual">${tip?.text}</div>`;
}

let ticking = null;
const clocks = new Set();

/** Draws again twice a minute, so that relative times stay true. */
function useClock() {
  const [, redraw] = useState(0);
  useEffect(() => {
    const tell = () => redraw((times) => times + 1);
    clocks.add(tell);
    ticking ??= setInterval(() => { for (const one of clocks) one(); }, 15000);
    return () => {
      clocks.delete(tell);
      if (clocks.size === 0) {
        clearInterval(ticking);
        ticking = null;
      }
    };
  }, []);
}

/** A relative time, with the absolute one on hover and focus. `still` for one inside a link or a table. */
export function Time({ at, still = false }) {
  useClock();
  const exact = absolute(at);
  if (!exact) return soft();
  return html`<time datetime=${exact.replace(' UTC', 'Z').replace(' ', 'T')} data-tip=${exact} aria-description=${exact} tabindex=${still ? undefined : 0}>${ago(at)}</time>`;
}

/** Puts a text on the clipboard; also where the page came without TLS and the browser withholds the modern way. */
export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement('textarea');
  area.value = text;
  area.readOnly = true;
  area.className = 'unseen';
  const before = document.activeElement;
  (document.querySelector('dialog[open]') ?? document.body).append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  before?.focus();
  if (!done) throw new Error('the browser does not let this page copy');
  return undefined;
}

/** Copies, and says so; gives whether it worked. */
async function copied(text, name) {
  try {
    await copy(text);
    toast(`${name} copied`);
    return true;
  } catch {
    toast(`${name} could not be copied; select it by hand`, { kind: 'bad' });
    return false;
  }
}

/** A button that copies `text`; `name` says what that is. */
export function Copy({ text, name, word = 'Copy', small = true }) {
  const [told, tell] = useState(null);
  const click = async () => {
    tell(await copied(text, name) ? 'Copied' : 'Select it');
    setTimeout(() => tell(null), 2000);
  };
  return html`<button type="button" class="copy ${small ? 'small' : ''}" onClick=${click}>
    <${Icon} name=${told === 'Copied' ? 'check' : 'copy'} />${told ?? word}<span class="unseen"> ${name}</span></button>`;
}

/**
 * An identifier, shortened; the whole of it on hover and focus. A click copies it. `name` says what it is. `still` takes it out of the tab
 * order, for tables, whose rows lead to a page with all identifiers.
 */
export function Id({ value, name = 'identifier', keep = 8, still = false }) {
  const text = String(value ?? '');
  if (!text) return soft();
  const click = (event) => {
    event.stopPropagation();
    copied(text, name);
  };
  return html`<button type="button" class="id" data-tip=${text} aria-description=${text} tabindex=${still ? -1 : undefined} onClick=${click}
    aria-label=${`${short(text, keep)}, copy ${name}`}>${short(text, keep)}</button>`;
}

/** A text of the KMS as a sentence, or `asIs`; identifiers in it are shortened, and copied by a click. */
export function Told({ children, asIs = false }) {
  return (asIs ? String(children ?? '') : sentence(children)).split(/\b((?:0x)?[0-9a-f]{20,})\b/).map((part, index) => (index % 2 === 1 ? html`<${Id} key=${index} value=${part} />` : part));
}

/** A whole identifier or other long value, wrapped, with a copy button. */
export function Whole({ value, name, children }) {
  if (!value) return soft();
  return html`<span class="whole"><code>${children ?? value}</code><${Copy} text=${value} name=${name} word="" /></span>`;
}

/** A block of text to copy. */
export function Code({ text, name, children }) {
  return html`<div class="code"><pre tabindex="0" role="group" aria-label=${name}><code>${children ?? text}</code></pre>
    <${Copy} text=${text} name=${name} /></div>`;
}

/** A word in a coloured capsule, with a mark whose shape differs by kind. Kinds: good, warn, bad, quiet. */
export function Pill({ kind = 'quiet', children, tip }) {
  const mark = { good: 'check', warn: 'warning', bad: 'cross' }[kind];
  return html`<span class="pill ${kind}" data-tip=${tip} aria-description=${tip}>${mark && html`<${Icon} name=${mark} />`}${children}</span>`;
}

export const pill = (text, kind) => html`<${Pill} kind=${kind}>${text}<//>`;

/** A state in a capsule; `of` has the kind and the words of each one: `{ state: [kind, text] }`. */
export const stated = (of, state, [kind, text] = of[state] ?? []) => pill(text ?? state, kind);

/** A button. Kinds: primary, danger, quiet. While `busy` it says so and takes no click. */
export function Button({ kind = '', busy = false, children, disabled = false, onClick, type = 'button', small = false, ...rest }) {
  return html`<button type=${type} class="${kind} ${small ? 'small' : ''}" disabled=${disabled} aria-busy=${busy ? 'true' : undefined}
    aria-disabled=${busy ? 'true' : undefined} onClick=${busy ? (event) => event.preventDefault() : onClick} ...${rest}>${busy && html`<span class="spinner" aria-hidden="true"></span>`}${children}</button>`;
}

/** A link that looks like a button. */
export function ButtonLink({ kind = '', href, children, small = false }) {
  return html`<a class="button ${kind} ${small ? 'small' : ''}" href=${href}>${children}</a>`;
}

/** The frame of a view: its heading, a line below it, and what can be done. `back` is `{ href, text }`. */
export function Page({ title, lead, actions, back, children }) {
  return html`<article class="page">
    <header class="head">
      <div class="titles">
        ${back && html`<a class="back" href=${back.href}><${Icon} name="back" />${back.text}</a>`}
        <h1 tabindex="-1" id="title">${title}</h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </header>
    ${children}
  </article>`;
}

/** An id for an element; the same as long as it is shown. */
const useId = (given) => useRef(given ?? `id-${Math.random().toString(36).slice(2, 9)}`).current;

/** A section with a heading. `span` is its width in columns of twelve on a wide screen. */
export function Card({ title, aside, span = 12, children, flush = false, kind = '' }) {
  const id = useId();
  return html`<section class="card span${span} ${flush ? 'flush' : ''} ${kind}" aria-labelledby=${title ? id : undefined}>
    ${title && html`<div class="cardhead"><h2 id=${id}>${title}</h2>${aside && html`<div class="aside">${aside}</div>`}</div>`}
    ${children}
  </section>`;
}

/** One number with its name and an explanation. */
export function Figure({ name, value, more, href, kind = '', span = 3 }) {
  return html`<section class="card figure span${span} ${kind}"><h2>${name}</h2>
    <p class="value">${href ? html`<a href=${href}>${value}</a>` : value}</p><p class="more">${more}</p></section>`;
}

/** Names and values: `[{ name, value, hint }]`; those without a value are left out. */
export function Values({ of, wide = false }) {
  return html`<dl class="values ${wide ? 'wide' : ''}">${of.filter(({ value }) => value !== null && value !== undefined && value !== '' && value !== false)
    .map(({ name, value, hint }) => html`<div key=${name}><dt>${name}${hint && html`<small>${hint}</small>`}</dt><dd>${value}</dd></div>`)}</dl>`;
}

/** A row of `Values` with a whole identifier: `what` it is called where it is copied, and how it is `shown`. */
export const whole = (name, value, what = name.charAt(0).toLowerCase() + name.slice(1), { hint, shown } = {}) => ({ name, hint, value: value && html`<${Whole} value=${value} name=${what}>${shown}<//>` });

/** A remark in a frame. Kinds: info, good, warn, bad. */
export function Note({ kind = 'info', title, children, role, actions }) {
  const mark = { info: 'info', good: 'check', warn: 'warning', bad: 'critical' }[kind];
  return html`<div class="note ${kind}" role=${role}><${Icon} name=${mark} /><div>${title && html`<strong>${title}</strong>`}
    ${children && html`<div>${children}</div>`}</div>${actions && html`<div class="noteactions">${actions}</div>`}</div>`;
}

/** Why a call was refused. */
export function Failure({ error, title, retry }) {
  if (!error) return null;
  const missing = error.status === 404 || error.status === 405;
  const text = title ?? { 0: 'No answer', 403: 'Not for your role', 404: 'Not here' }[error.status] ?? (error.status >= 500 ? 'The KMS could not do this' : 'The KMS refused this');
  return html`<${Note} kind=${missing || error.status === 403 ? 'info' : 'bad'} title=${text} role="alert"
    actions=${retry && html`<${Button} small onClick=${retry}>Try again<//>`}>
    ${error.message}${error.code && html` <code class="soft">${error.code}</code>`}
    ${error.requestId && html`<div class="soft">Request <${Id} value=${error.requestId} name="request id" keep=${16} /></div>`}<//>`;
}

/** A text that is not important, or stands for nothing. */
export const soft = (text = '—') => html`<span class="soft">${text}</span>`;

/** What is shown where there is nothing. */
export function Empty({ title, children, action }) {
  return html`<div class="empty"><p><strong>${title}</strong></p>${children && html`<p class="soft">${children}</p>`}${action}</div>`;
}

/** Grey lines in the place of what is being loaded. */
export function Skeleton({ lines = 5 }) {
  return html`<div class="skeleton" role="status"><span class="unseen">Loading</span>
    ${Array.from({ length: lines }, (_, index) => html`<span key=${index} class="bone bone${index % 4}"></span>`)}</div>`;
}

/**
 * The states of something that `useGet` gives: a skeleton, a refusal, nothing there, or `children(data)`. `empty(data)` gives what to show
 * where there is nothing, or a false value. Data that are older than a failed refresh stay, with a remark.
 */
export function Loaded({ of, lines = 5, empty, children }) {
  if (of.loading) return html`<${Skeleton} lines=${lines} />`;
  if (of.data === undefined) return html`<${Failure} error=${of.error} retry=${of.refresh} />`;
  const nothing = empty?.(of.data);
  return html`${of.error && of.error.status !== 0 && html`<${Note} kind="warn" title="These data are not current"
    actions=${html`<${Button} small onClick=${of.refresh}>Try again<//>`}>${of.error.message}, asked for the last time <${Time} at=${of.at / 1000} />.<//>`}
    ${nothing || children(of.data)}`;
}

/**
 * A table that becomes a list of cards on a phone. `columns` are `{ head, cell(row), kind }`; kinds: `num`, `main`, `shrink`, `minor` (not on a
 * phone), `spare` (not on a small screen), `hide` (its heading is for screen readers only); false ones are left out. `href(row)` makes rows open that place; the first cell should then have a link to it.
 */
export function Table({ caption, columns: given, rows, rowKey, href, empty, mark }) {
  const columns = given.filter(Boolean);
  if (rows.length === 0 && empty) return empty;
  const open = (row) => (event) => {
    if (event.target.closest('a, button, input, select, summary') || String(getSelection())) return;
    location.hash = href(row);
  };
  return html`<div class="tableframe"><table role="table"><caption class="unseen">${caption}</caption>
    <thead role="rowgroup"><tr role="row">${columns.map(({ head, kind = '' }) => html`<th key=${head} scope="col" role="columnheader" class=${kind}>
      ${kind.includes('hide') ? html`<span class="unseen">${head}</span>` : head}</th>`)}</tr></thead>
    <tbody role="rowgroup">${rows.map((row, index) => html`<tr key=${rowKey ? rowKey(row) : index} role="row" class="${href ? 'opens' : ''} ${mark?.(row) ?? ''}"
      onClick=${href ? open(row) : undefined}>${columns.map(({ head, cell, kind = '' }) => html`<td key=${head} role="cell" class=${kind} data-label=${kind.includes('hide') ? undefined : head}>
        <div>${cell(row)}</div></td>`)}</tr>`)}</tbody></table></div>`;
}

/** Columns that many tables have, of a field of their rows. `more` is what else the column has; an `id` may `keep` more characters, and a `time` says `none`. */
export const column = {
  id: (head, field, name, { keep, ...more } = {}) => ({ head, ...more, cell: (row) => html`<${Id} value=${row[field]} name=${name} keep=${keep} still />` }),
  time: (head, field, { none = '—', ...more } = {}) => ({ head, ...more, cell: (row) => (row[field] ? html`<${Time} at=${row[field]} still />` : soft(none)) }),
  actions: (cell) => ({ head: 'Actions', kind: 'hide shrink', cell }),
  number: (head, field) => ({ head, kind: 'num', cell: (row) => number(row[field]) }),
};

/** A card with nothing but a table. Its rows have names unless `rowKey` says otherwise; with `of`, as `Loaded` takes it, `rows` is a function of the data. */
export function Listed({ title, caption = title, span, aside, of, lines, rows, rowKey = ({ name }) => name, ...table }) {
  const show = (all) => html`<${Table} caption=${caption} rows=${all} rowKey=${rowKey} ...${table} />`;
  return html`<${Card} title=${title} span=${span} aside=${aside} flush>${of ? html`<${Loaded} of=${of} lines=${lines}>${(data) => show(rows(data))}<//>` : show(rows)}<//>`;
}

/** The way to older entries of a list in pages; `cursor` is that of the place, `next` that of the answer. */
export function Pages({ cursor, next, navigate, what = 'entries' }) {
  if (!cursor && !next) return null;
  return html`<nav class="pages" aria-label=${`Pages of ${what}`}>
    ${cursor ? html`<${Button} small onClick=${() => navigate({ cursor: null })}>Newest<//>` : html`<span></span>`}
    ${next && html`<${Button} small onClick=${() => navigate({ cursor: next })}>Older ${what}<//>`}</nav>`;
}

/** A field with its label, a hint and an error. `children(props)` gives the input, to which the props belong. */
export function Field({ label, hint, error, children, id: given }) {
  const id = useId(given);
  const described = [hint && `${id}-hint`, error && `${id}-error`].filter(Boolean).join(' ') || undefined;
  return html`<div class="field"><label for=${id}>${label}</label>
    ${children({ id, 'aria-describedby': described, 'aria-invalid': error ? 'true' : undefined })}
    ${hint && html`<p class="hint" id=${`${id}-hint`}>${hint}</p>`}
    ${error && html`<p class="error" id=${`${id}-error`}>${error}</p>`}</div>`;
}

/** For inputs of names and identifiers: browsers must not correct what is typed. */
export const AS_TYPED = { autocomplete: 'off', spellcheck: false, autocapitalize: 'none' };

/** A field of one line. */
export function Typed({ label, hint, error, id, onType, ...rest }) {
  return html`<${Field} label=${label} hint=${hint} error=${error} id=${id}>${(props) => html`<input ...${props} ...${AS_TYPED} ...${rest} onInput=${(event) => onType(event.target.value)} />`}<//>`;
}

/** A field with a choice among `of`: `[[value, text], …]`. */
export function Choose({ label, hint, of, onChoose, ...rest }) {
  return html`<${Field} label=${label} hint=${hint}>${(props) => html`<select ...${props} ...${rest} onChange=${(event) => onChoose(event.target.value)}>
    ${of.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select>`}<//>`;
}

/** A choice of which each one is explained: `[[value, word, explanation], …]`; of several with the type `checkbox`. */
export function Options({ legend, name, of, value, type = 'radio', isChosen = (key) => key === value, onChoose }) {
  return html`<fieldset class="stack tight"><legend>${legend}</legend>${of.map(([key, word, what]) => html`<label class="choice" key=${key}>
    <input type=${type} name=${name} value=${key} checked=${isChosen(key)} onChange=${() => onChoose(key)} /><span><strong>${word}</strong> <span class="soft">${what}</span></span></label>`)}</fieldset>`;
}

/** A filter that is typed; the place follows a moment later. */
function FilterText({ name, value, placeholder, navigate }) {
  const [typed, type] = useState(value);
  const sent = useRef(value);
  const timer = useRef(null);
  useEffect(() => {
    // Another place with another filter: what is typed here is of the one before.
    if (value !== sent.current) type(value);
    sent.current = value;
  }, [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const change = (event) => {
    const now = event.target.value;
    type(now);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      sent.current = now.trim();
      navigate({ [name]: sent.current || null, cursor: null }, { replace: true });
    }, 300);
  };
  return html`<input type="search" value=${typed} placeholder=${placeholder} ...${AS_TYPED} onInput=${change} />`;
}

/**
 * Filters above a list: `fields` are `{ name, label, options, placeholder }`; with options `[[value, text], …]` a choice, else a text. Values are
 * the parameters of the place.
 */
export function Filters({ fields, params, navigate, children }) {
  const isFiltered = fields.some(({ name }) => params[name]);
  return html`<form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
    ${fields.map(({ name, label, options, placeholder }) => html`<label key=${name}><span>${label}</span>
      ${options ? html`<select value=${params[name] ?? ''} onChange=${(event) => navigate({ [name]: event.target.value || null, cursor: null }, { replace: true })}>
          ${options.map(([value, text]) => html`<option key=${value} value=${value}>${text}</option>`)}</select>`
        : html`<${FilterText} name=${name} value=${params[name] ?? ''} placeholder=${placeholder} navigate=${navigate} />`}</label>`)}
    ${isFiltered && html`<${Button} kind="quiet" small onClick=${() => navigate(Object.fromEntries([...fields.map(({ name }) => [name, null]), ['cursor', null]]), { replace: true })}>Clear<//>`}
    ${children && html`<div class="filtersend">${children}</div>`}
  </form>`;
}

/** A modal dialog. It closes by Escape and by its button, with `done` by one that says so; the focus returns to where it was. */
export function Dialog({ title, onClose, children, done = false, actions = done && html`<${Button} kind="primary" onClick=${onClose}>Done<//>`, kind = '' }) {
  const box = useRef(null);
  const id = useId();
  useLayoutEffect(() => {
    const element = box.current;
    const before = document.activeElement;
    element.showModal();
    return () => {
      element.close();
      if (before?.isConnected) before.focus();
    };
  }, []);
  const cancel = (event) => {
    event.preventDefault();
    onClose();
  };
  return html`<dialog ref=${box} class=${kind} aria-labelledby=${id} onCancel=${cancel}>
    <div class="dialoghead"><h2 id=${id}>${title}</h2>
      <button type="button" class="quiet small iconic" onClick=${onClose} aria-label="Close"><${Icon} name="cross" /></button></div>
    <div class="dialogbody">${children}</div>
    ${actions && html`<div class="dialogactions">${actions}</div>`}
  </dialog>`;
}

/** Asks before something is done: what exactly, and a button that says it. `task` is from `useTask`; `children` explain. */
export function Confirm({ title, word, task, given, kind = 'primary', onClose, onDone, children, disabled }) {
  const act = async () => {
    const result = await task.run(...(given ?? []));
    if (result !== undefined) onDone?.(result);
  };
  return html`<${Dialog} title=${title} onClose=${() => { task.clear(); onClose(); }} actions=${html`
      <${Button} onClick=${() => { task.clear(); onClose(); }}>Cancel<//>
      <${Button} kind=${kind} busy=${task.busy} disabled=${disabled} onClick=${act}>${word}<//>`}>
    ${children}<${Failure} error=${task.error} /><//>`;
}

/** A choice of few: `[[value, text, name], …]`, where the name is for screen readers. */
export function Segments({ legend, name, of, chosen, onChoose, inline = false }) {
  return html`<fieldset class="segments ${inline ? 'inline' : ''}"><legend class="unseen">${legend}</legend>${of.map(([value, text, full]) => html`<label key=${value}>
    <input type="radio" name=${name} checked=${value === chosen} onChange=${() => onChoose(value)} /><span aria-label=${full}>${text}</span></label>`)}</fieldset>`;
}

/** The steps of a decision: `[{ step, state: passed | failed | not_reached, message }]`. */
export function Chain({ steps }) {
  const marks = { passed: ['check', 'passed'], failed: ['cross', 'failed'], not_reached: ['dash', 'not reached'] };
  return html`<ol class="chain">${steps.map(({ step, state, message }, index) => {
    const [mark, word] = marks[state] ?? ['info', state];
    return html`<li key=${index} class=${state}><span class="mark"><${Icon} name=${mark} /><span class="unseen">${word}: </span></span>
      <span class="step">${step}</span><span class="message">${message}</span></li>`;
  })}</ol>`;
}

/** Links between parts of one view; `current` is the value of the one that is shown. */
export function Tabs({ of, current, label }) {
  return html`<nav class="tabs" aria-label=${label}>${of.map(({ value, text, href, count }) => html`<a key=${value} href=${href}
    aria-current=${value === current ? 'page' : undefined}>${text}${count !== undefined && html`<span class="count">${count}</span>`}</a>`)}</nav>`;
}
