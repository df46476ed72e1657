// JSON from outside (RFC 8259), read strictly. JSON.parse keeps the last of repeated keys, so two readers could
// find different values in one text.
import { printable } from './errors.js';

/** Objects and arrays inside each other. */
const MAX_DEPTH = 32;

export class JsonError extends Error {
  /** Whether a key is there more than once. */
  isRepeatedKey = false;
}

const TEXT = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const NUMBER = /-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?/y;
const SPACE = /[ \t\n\r]*/y;
// Unpaired surrogates have no UTF-8, so nothing can be hashed or signed with them.
const UNPAIRED = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/;
const LITERALS = new Map([['true', true], ['false', false], ['null', null]]);

/** A number of a document that is not written as a whole one, such as `1.0`. No field of a document has such. */
class Fraction {}

/** Reads the numbers of documents: only whole ones are numbers. */
export const whole = (text) => (/[.eE]|^-0$/.test(text) ? new Fraction() : Number(text));

/** The text of UTF-8 bytes, without a byte order mark. */
export function textOf(bytes) {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new JsonError('is not UTF-8');
  }
}

/**
 * Parses a JSON text. Objects have no prototype, so a key `__proto__` is a key like any other.
 *
 * @param {string} text
 * @param {(text: string) => unknown} [numberOf] how a number is read
 * @throws {JsonError} for anything that is not JSON, a repeated key, an unpaired surrogate, a number that is not
 *   finite, or more than 32 levels
 */
export function parse(text, numberOf = Number) {
  let at = 0;
  let repeated;

  const fail = (what) => {
    throw new JsonError(`${what} at character ${at}`);
  };
  const match = (pattern) => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found !== undefined) at += found.length;
    return found;
  };
  const take = (character) => {
    match(SPACE);
    if (text[at] !== character) return false;
    at += 1;
    return true;
  };
  const expect = (character) => take(character) || fail(`expected ${character}`);
  const string = () => {
    match(SPACE);
    const found = match(TEXT) ?? fail('expected a string');
    const value = JSON.parse(found);
    return UNPAIRED.test(value) ? fail('unpaired surrogate') : value;
  };
  const object = (depth) => {
    const value = Object.create(null);
    if (take('}')) return value;
    do {
      const key = string();
      if (key in value) repeated ??= key;
      expect(':');
      value[key] = any(depth);
    } while (take(','));
    expect('}');
    return value;
  };
  const array = (depth) => {
    const value = [];
    if (take(']')) return value;
    do value.push(any(depth));
    while (take(','));
    expect(']');
    return value;
  };
  const any = (depth) => {
    if (depth > MAX_DEPTH) fail('too many levels');
    if (take('{')) return object(depth + 1);
    if (take('[')) return array(depth + 1);
    if (text[at] === '"') return string();
    for (const [name, value] of LITERALS) {
      if (text.startsWith(name, at)) {
        at += name.length;
        return value;
      }
    }
    const number = match(NUMBER) ?? fail('expected a value');
    return Number.isFinite(Number(number)) ? numberOf(number) : fail('number out of range');
  };

  const value = any(0);
  match(SPACE);
  if (at !== text.length) fail('text after the end');
  // Only of JSON is it said that a key is repeated.
  if (repeated !== undefined) throw Object.assign(new JsonError(`${printable(repeated)} is there more than once`), { isRepeatedKey: true });
  return value;
}

/** Whether a parsed value is an object. */
export const isObject = (value) => typeof value === 'object' && value !== null && !Array.isArray(value);
