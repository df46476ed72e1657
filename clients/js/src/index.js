// A client of a KMS that believes only what a quote proves.
export { Kms, connect } from './connect.js';
export { ATTESTATION_CODES, ArgumentError, AttestationError, CONNECTION_CODES, CallError, ConnectionError, KmsError } from './errors.js';
export { parsePins } from './pins.js';
export { PIN_NAMES, TCB_STATUSES, verify } from './verify.js';
