// Verification of a document without a network. It works in browsers too.
import { readPins } from './pins.js';
import { prove, readRules } from './prove.js';

export { ATTESTATION_CODES, ArgumentError, AttestationError, KmsError } from './errors.js';
export { PIN_NAMES, parsePins } from './pins.js';
export { TCB_STATUSES } from './tcb.js';

/** See verify.d.ts. */
export async function verify(document, pins, options) {
  return prove(document, readPins(pins), readRules(options));
}
