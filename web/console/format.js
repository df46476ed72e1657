// Texts for people: times, durations, numbers, shortened identifiers.

const UNITS = [['year', 31536000], ['month', 2592000], ['day', 86400], ['hour', 3600], ['minute', 60], ['second', 1]];
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto', style: 'long' });
const grouped = new Intl.NumberFormat('en');

/** Milliseconds since 1970 of an RFC 3339 text, or of Unix seconds; NaN for anything else. */
export function instant(at) {
  return typeof at === 'number' ? at * 1000 : Date.parse(at);
}

/** "4 minutes ago", "in 12 days"; an em dash where there is no time. */
export function ago(at, now = Date.now()) {
  const then = instant(at);
  if (Number.isNaN(then)) return '—';
  const seconds = (then - now) / 1000;
  if (Math.abs(seconds) < 5) return 'just now';
  const [unit, length] = UNITS.find(([, size]) => Math.abs(seconds) >= size) ?? UNITS.at(-1);
  return relative.format(Math.trunc(seconds / length), unit);
}

/** "2026-11-29 13:55:10 UTC". */
export function absolute(at) {
  const then = instant(at);
  if (Number.isNaN(then)) return '';
  return `${new Date(then).toISOString().slice(0, 19).replace('T', ' ')} UTC`;
}

/** "12 days", "3 hours 20 minutes": the two largest units of a length in seconds. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '—';
  let rest = Math.max(0, Math.round(seconds));
  if (rest === 0) return '0 seconds';
  const parts = [];
  for (const [unit, length] of UNITS) {
    const count = Math.floor(rest / length);
    if (count > 0) parts.push(`${count} ${unit}${count === 1 ? '' : 's'}`);
    else if (parts.length > 0) break;
    rest -= count * length;
    if (parts.length === 2 || (parts.length === 1 && count >= 10)) break;
  }
  return parts.join(' ');
}

/** "9 ms", "1.2 s". */
export function milliseconds(value) {
  if (value === null || value === undefined) return '—';
  if (value >= 10000) return `${grouped.format(Math.round(value / 1000))} s`;
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  if (value >= 10 || value === 0) return `${Math.round(value)} ms`;
  return `${value.toFixed(1).replace('.0', '')} ms`;
}

/** "18,204". */
export function number(value) {
  return value === null || value === undefined ? '—' : grouped.format(value);
}

/** "3.4 MB". */
export function bytes(value) {
  if (value === null || value === undefined) return '—';
  const units = ['bytes', 'kB', 'MB', 'GB', 'TB'];
  let [size, unit] = [value, 0];
  while (size >= 1000 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return unit === 0 ? `${grouped.format(size)} ${units[0]}` : `${size.toFixed(size < 10 ? 1 : 0)} ${units[unit]}`;
}

/** "1 CVM", "3 CVMs". */
export function count(value, one, many = `${one}s`) {
  return `${number(value)} ${value === 1 ? one : many}`;
}

/** The first characters of a long identifier; short ones stay whole. */
export function short(id, keep = 8) {
  const text = String(id ?? '');
  return text.length > keep + 4 ? `${text.slice(0, keep)}…` : text;
}

/** A fingerprint in groups of four, as people compare it. */
export function spaced(hex) {
  return String(hex ?? '').replace(/(.{4})(?=.)/g, '$1 ');
}

/** What a method releases, in words. */
export const METHODS = {
  GetAppKey: 'app keys',
  GetKmsKey: 'root keys',
  SignCert: 'certificate',
};

/** Words for a method of the API; its own name if there are none. */
export function methodName(method) {
  const name = String(method ?? '').split('.').at(-1);
  return METHODS[name] ?? name;
}

/** A text with a capital letter at its start, as a sentence on a page has it; keys, codes and addresses stay as they are. */
export function sentence(text) {
  const plain = String(text ?? '');
  if (/^(\S*[_0-9.:]\S|[a-z]+[A-Z])/.test(plain)) return plain;
  return (plain.charAt(0).toUpperCase() + plain.slice(1)).replace(/^Os image/, 'OS image');
}

/** A code as words: `os_image_not_allowed` becomes "os image not allowed". */
export function words(code) {
  return String(code ?? '').replaceAll('_', ' ');
}
