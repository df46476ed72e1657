// Pins: known values that what is proved must have.
import { refuse } from './errors.js';
import { JsonError, isObject, parse, textOf } from './json.js';

/** Length of each in bytes, `undefined` for text, in the order in which they are compared. */
const PINS = new Map([
  ['root_ca_spki_sha256', 32],
  ['k256_public_key', 33],
  ['mr_aggregated', 32],
  ['os_image_hash', 32],
  ['compose_hash', 32],
  ['app_id', 20],
  ['log_key', undefined],
  ['policy_digest', 32],
]);

/** Those that say alone which KMS is meant. Of the others, a KMS of anyone can have the same. */
const SUFFICIENT = ['root_ca_spki_sha256', 'mr_aggregated'];

export const PIN_NAMES = Object.freeze([...PINS.keys()]);

const bad = (what) => refuse('bad_pins', `the pins are not usable: ${what}`);

/** Whether a text is this many bytes in lower-case hex: one value has one spelling. */
export const isHex = (text, bytes) => typeof text === 'string' && text.length === 2 * bytes && /^[0-9a-f]*$/.test(text);

/** Pins from a file: a JSON object. */
export function parsePins(bytes) {
  try {
    return Object.fromEntries(readPins(parse(textOf(bytes))));
  } catch (error) {
    if (error instanceof JsonError) bad(error.message);
    throw error;
  }
}

/**
 * Pins as a map from name to accepted values.
 *
 * @param {unknown} given an object with one value or a list for each name
 */
export function readPins(given) {
  if (!isObject(given)) bad('they are not an object');
  const pins = new Map();
  for (const name of Object.keys(given)) {
    if (!PINS.has(name)) bad(`there is no pin of this name: use ${PIN_NAMES.join(', ')}`);
    const values = Array.isArray(given[name]) ? [...given[name]] : [given[name]];
    if (values.length === 0) bad(`${name} is an empty list`);
    const length = PINS.get(name);
    for (const value of values) {
      if (length !== undefined && !isHex(value, length)) bad(`${name} must be ${2 * length} lower-case hexadecimal digits`);
      if (typeof value !== 'string' || value === '') bad(`${name} must be a text`);
    }
    pins.set(name, values);
  }
  return pins;
}

/** Checks that the pins say which KMS is meant. */
export function checkSufficient(pins) {
  if (!SUFFICIENT.some((name) => pins.has(name))) {
    refuse('no_pin', 'nothing says which KMS is meant: pin root_ca_spki_sha256 or mr_aggregated, because anyone can run a KMS that proves itself');
  }
}

/** Both sets of pins, each of which must hold. */
export function joinPins(left, right) {
  const joined = new Map(left);
  for (const [name, values] of right) {
    const common = joined.has(name) ? joined.get(name).filter((value) => values.includes(value)) : values;
    if (common.length === 0) bad(`${name} has no value that both sets accept`);
    joined.set(name, common);
  }
  return joined;
}
