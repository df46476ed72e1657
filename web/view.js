// Small pieces of the page: elements, values with a copy button, blocks of text, notes.

/** The element with this id. */
export const at = (id) => document.getElementById(id);

/** An element with properties and children; texts become text nodes. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes('-') || name === 'role') made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

/** Tells a screen reader, without moving anything. */
export function announce(text) {
  const line = at('announce');
  line.textContent = '';
  requestAnimationFrame(() => { line.textContent = text; });
}

/** Shows a state: `busy`, `good`, `bad`, or none. */
export function state(id, text, kind = '') {
  const line = at(id);
  // What has not changed is not told again.
  if (line.textContent === text && line.dataset.kind === kind) return;
  line.textContent = text;
  line.dataset.kind = kind;
}

/** The clipboard, also where the page came without TLS and the browser keeps the modern one back. */
async function copied(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = element('textarea', { value: text, readOnly: true, className: 'unseen', 'aria-hidden': 'true' });
  const before = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  area.remove();
  before?.focus();
  if (!done) throw new Error('the browser does not let this page copy');
  return undefined;
}

/** A button that copies what `text` gives. */
export function copyButton(name, text) {
  const word = element('span', {}, 'Copy');
  const button = element('button', { type: 'button', className: 'copy' }, word, element('span', { className: 'unseen' }, ` ${name}`));
  button.addEventListener('click', async () => {
    try {
      await copied(text());
      word.textContent = 'Copied';
      announce(`${name} copied`);
    } catch {
      word.textContent = 'Select it';
      announce(`${name} could not be copied; select it by hand`);
    }
    setTimeout(() => { word.textContent = 'Copy'; }, 2000);
  });
  return button;
}

/** Rows of a definition list: `{ name, value, hint? }`; those without a value are left out. */
export function values(list, rows) {
  list.replaceChildren(...rows.filter((row) => row.value).map((row) => {
    const name = element('dt', {}, row.name);
    if (row.hint) name.append(element('span', { className: 'hint' }, row.hint));
    const code = element('code', {}, row.value);
    if (row.value.length > 400) {
      code.className = 'long';
      code.tabIndex = 0;
      code.setAttribute('role', 'group');
      code.setAttribute('aria-label', row.name);
    }
    return element('div', { className: 'row' }, name, element('dd', {}, code, copyButton(row.name, () => row.value)));
  }));
}

/** A value in hexadecimal, as everything that shows it can be compared. */
const bare = (text) => text.trim().toLowerCase().replace(/^(0x)+/, '').replace(/\s/g, '');

/** Says whether two values in hexadecimal are the same: `match`, `differs`, or nothing where one is missing. */
export function compare(id, own, other) {
  const line = at(id);
  const [left, right] = [bare(own), bare(other)];
  const word = left && right ? (left === right ? 'match' : 'differs') : '';
  line.textContent = word;
  line.dataset.kind = { match: 'good', differs: 'bad' }[word] ?? '';
}

/** A block of text to paste somewhere. */
export function block(holder, name, text) {
  const code = element('code', {}, text);
  const pre = element('pre', { tabIndex: 0, role: 'group', 'aria-label': name }, code);
  holder.replaceChildren(element('div', { className: 'block' }, pre, copyButton(name, () => text)));
}

/** A refusal: what the KMS said, and what to do. */
export function refused(holder, title, reason, advice) {
  const note = element('div', { className: 'note bad' }, element('strong', {}, title), element('p', {}, reason));
  if (advice) note.append(element('p', { className: 'advice' }, advice));
  if (holder.textContent !== note.textContent) holder.replaceChildren(note);
}
