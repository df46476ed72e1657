// Shows /openapi.json. A credential stays in this page's memory, and only GET can be tried.

import { html, render, useEffect, useMemo, useState } from '/assets/vendor/preact.js';

const PATIENCE = 30000;
const MOST = 200000;
const GROUPS = { admin: 'Admin listener', main: 'Main listener', onboarding: 'Onboarding' };

/** The operations of a document, in its order. */
function operationsOf(spec) {
  return Object.entries(spec.paths).flatMap(([path, item]) =>
    ['get', 'post', 'patch', 'put', 'delete']
      .filter((verb) => item[verb])
      .map((verb) => ({ path, verb, ...item[verb] })),
  );
}

/** A schema with what it refers to, each name once in a branch. */
function resolved(spec, schema, seen = []) {
  if (Array.isArray(schema)) return schema.map((one) => resolved(spec, one, seen));
  if (!schema || typeof schema !== 'object') return schema;
  const name = typeof schema.$ref === 'string' ? schema.$ref.split('/').pop() : null;
  if (name) return seen.includes(name) ? { see: name } : resolved(spec, spec.components.schemas[name] ?? {}, [...seen, name]);
  return Object.fromEntries(Object.entries(schema).map(([key, value]) => [key, resolved(spec, value, seen)]));
}

function headersOf(credential) {
  const text = credential.trim();
  if (!text) return {};
  if (!text.includes(':')) return { Authorization: `Bearer ${text}` };
  return { Authorization: `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(text)))}` };
}

function addressOf(operation, values) {
  let path = operation.path;
  const query = new URLSearchParams();
  for (const { name, in: place } of operation.parameters) {
    const value = values[name] ?? '';
    if (place === 'path') path = path.replace(`{${name}}`, value.split('/').map(encodeURIComponent).join('/'));
    else if (value) query.set(name, value);
  }
  return query.size ? `${path}?${query}` : path;
}

async function answerTo(address, credential) {
  const began = performance.now();
  const answer = await fetch(address, { headers: headersOf(credential), cache: 'no-store', signal: AbortSignal.timeout(PATIENCE) });
  let text = await answer.text();
  if (answer.headers.get('content-type')?.includes('json')) {
    try {
      text = JSON.stringify(JSON.parse(text), null, 2);
    } catch {
      // Shown as it is.
    }
  }
  const took = Math.round(performance.now() - began);
  return `${answer.status} ${answer.statusText}, ${took} ms\n\n${text.slice(0, MOST)}`;
}

function Try({ operation, credential }) {
  const [values, setValues] = useState({});
  const [result, setResult] = useState('');
  const [isBusy, setBusy] = useState(false);
  async function send(event) {
    event.preventDefault();
    setBusy(true);
    try {
      setResult(await answerTo(addressOf(operation, values), credential));
    } catch (error) {
      setResult(`no answer: ${error.message}`);
    }
    setBusy(false);
  }
  return html`<h3>Try it</h3>
    <form class="fields" onSubmit=${send}>
      ${operation.parameters.map(
        ({ name, in: place }) => html`<label>${name}
          <input name=${name} required=${place === 'path'} autocomplete="off"
            onInput=${(event) => setValues({ ...values, [name]: event.target.value })} /></label>`,
      )}
      <button disabled=${isBusy}>Send</button>
    </form>
    <div role="status" aria-live="polite">${result && html`<pre tabindex="0">${result}</pre>`}</div>`;
}

function Schema({ spec, content }) {
  return Object.entries(content ?? {}).map(
    ([kind, { schema }]) => html`<p class="soft">${kind}</p>
      ${schema && Object.keys(schema).length > 0 && html`<pre tabindex="0">${JSON.stringify(resolved(spec, schema), null, 2)}</pre>`}`,
  );
}

function Details({ spec, operation, credential }) {
  const { parameters, requestBody, responses, description, verb } = operation;
  const canTry = verb === 'get' && operation.tags.includes('admin') && !operation.path.endsWith('/stream') && !/actions|new_event/.test(operation.path);
  return html`<div class="body">
    ${description.split('\n\n').map((text) => html`<p>${text}</p>`)}
    ${parameters.length > 0 &&
    html`<table><thead><tr><th scope="col">Parameter</th><th scope="col">In</th><th scope="col">Meaning</th></tr></thead>
      <tbody>${parameters.map(
        ({ name, in: place, description: text }) => html`<tr><th scope="row"><code>${name}</code></th><td>${place}</td><td>${text}</td></tr>`,
      )}</tbody></table>`}
    ${requestBody && html`<h3>Request</h3><${Schema} spec=${spec} content=${requestBody.content} />`}
    ${Object.entries(responses).map(
      ([status, answer]) => html`<h3>${status === 'default' ? 'Errors' : status}: ${answer.description}</h3>
        <${Schema} spec=${spec} content=${answer.content} />`,
    )}
    ${canTry && html`<${Try} operation=${operation} credential=${credential} />`}
  </div>`;
}

function Operation({ spec, operation, credential }) {
  const [isOpen, setOpen] = useState(false);
  return html`<details onToggle=${(event) => setOpen(event.target.open)}>
    <summary><span class="verb">${operation.verb.toUpperCase()}</span><span class="path">${operation.path}</span>
      <span class="soft">${operation.summary}</span></summary>
    ${isOpen && html`<${Details} spec=${spec} operation=${operation} credential=${credential} />`}
  </details>`;
}

function Page({ spec }) {
  const [wanted, setWanted] = useState('');
  const [credential, setCredential] = useState('');
  const all = useMemo(() => operationsOf(spec), [spec]);
  const word = wanted.trim().toLowerCase();
  const shown = all.filter((it) => `${it.verb} ${it.path} ${it.summary} ${it['x-role'] ?? ''}`.toLowerCase().includes(word));
  return html`<header>
      <h1>API of cvm-kms ${spec.info.version}</h1>
      <p>${spec.info.description}</p>
      <p><a href="/openapi.json">/openapi.json</a> · <a href="/">Console</a></p>
      <div class="tools">
        <label>Search<input type="search" value=${wanted} onInput=${(event) => setWanted(event.target.value)} /></label>
        <label>Token, or name:secret (kept in memory only)
          <input type="password" autocomplete="off" value=${credential} onInput=${(event) => setCredential(event.target.value)} /></label>
      </div>
    </header>
    <main>${Object.entries(GROUPS).map(([tag, title]) => {
      const group = shown.filter((it) => it.tags.includes(tag));
      return group.length > 0 && html`<section><h2>${title}</h2>
        ${group.map((it) => html`<${Operation} key=${it.operationId} spec=${spec} operation=${it} credential=${credential} />`)}</section>`;
    })}
    <p role="status" class="soft">${shown.length} of ${all.length}</p></main>`;
}

function App() {
  const [spec, setSpec] = useState(null);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    fetch('/openapi.json', { signal: AbortSignal.timeout(PATIENCE) })
      .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`status ${answer.status}`))))
      .then(setSpec, (error) => setProblem(error.message));
  }, []);
  if (problem) return html`<main><p role="alert">The description cannot be read: ${problem}</p></main>`;
  return spec ? html`<${Page} spec=${spec} />` : html`<main><p>Loading…</p></main>`;
}

const root = document.getElementById('app');
root.textContent = '';
render(html`<${App} />`, root);
