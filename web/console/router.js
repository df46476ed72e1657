// Places in the console: `#/releases/123?app=…`. Filters are part of the place, so links and reloads keep them.

import { useCallback, useEffect, useState } from '../vendor/preact.js';

/** The address of a place. Parameters without a value are left out. */
export function link(view, id = null, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== '');
  const text = new URLSearchParams(given).toString();
  return `#/${view}${id === null || id === undefined || id === '' ? '' : `/${encodeURIComponent(id)}`}${text ? `?${text}` : ''}`;
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The place that an address names: `{ view, params: { id, … } }`. */
export function place(hash = location.hash) {
  const [path, query = ''] = hash.replace(/^#\/?/, '').split('?');
  const [view, ...rest] = path.split('/');
  const params = Object.fromEntries(new URLSearchParams(query));
  return { view: view || 'overview', params: { ...params, id: rest.length > 0 ? decoded(rest.join('/')) : null } };
}

/**
 * Goes to an address (`#/…`), or changes the filters of this place (`{ app: 'x', cursor: null }`).
 * `replace` leaves no entry in the history, as for a filter that is being typed.
 */
export function go(target, { replace = false } = {}) {
  let hash = target;
  if (typeof target !== 'string') {
    const { view, params: { id, ...query } } = place();
    hash = link(view, id, { ...query, ...target });
  }
  if (hash === location.hash) return;
  if (replace) {
    history.replaceState(history.state, '', hash);
    window.dispatchEvent(new HashChangeEvent('hashchange'));
  } else {
    location.hash = hash;
  }
}

/** The current place, and `navigate`. */
export function usePlace() {
  const [now, set] = useState(place);
  useEffect(() => {
    const changed = () => set(place());
    window.addEventListener('hashchange', changed);
    return () => window.removeEventListener('hashchange', changed);
  }, []);
  const navigate = useCallback((target, options) => go(target, options), []);
  return { ...now, navigate };
}
