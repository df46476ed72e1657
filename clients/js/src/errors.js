// Why a KMS is not trusted, or an answer cannot be used. Each error has a `code` of a closed list.

/** Codes of `AttestationError`, in the order of the checks. The clients of all languages have the same. */
export const ATTESTATION_CODES = Object.freeze([
  'bad_pins',
  'no_pin',
  'too_large',
  'malformed',
  'duplicate_key',
  'unknown_version',
  'report_data',
  'debug',
  'td_isolation',
  'collateral_missing',
  'collateral_mismatch',
  'collateral_expired',
  'event_log',
  'quote',
  'tcb_status',
  'identity',
  'root_signature',
  'nonce',
  'time',
  'pin_mismatch',
  'tls_key',
]);

/** Codes of `ConnectionError`. */
export const CONNECTION_CODES = Object.freeze([
  'unreachable',
  'timeout',
  'redirect',
  'http',
  'too_large',
  'release',
]);

/** Base of the errors of this package. */
export class KmsError extends Error {
  /**
   * @param {string} code
   * @param {string} message what was found, and what to do
   * @param {{cause?: unknown}} [options]
   */
  constructor(code, message, options) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The KMS, or the server that answers for it, does not prove what was asked. */
export class AttestationError extends KmsError {}

/** What the caller gave is wrong. Nothing was sent. Its code is `argument`. */
export class ArgumentError extends KmsError {
  /** @param {string} message */
  constructor(message, options) {
    super('argument', message, options);
  }
}

/** There is no answer, or one that cannot be used. It says nothing about the KMS. */
export class ConnectionError extends KmsError {}

/** The KMS answered a call with an error. */
export class CallError extends KmsError {
  /** The HTTP status. */
  status;

  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super('call', message);
    this.status = status;
  }
}

/** @returns {never} */
export function refuse(code, message, options) {
  throw new AttestationError(code, message, options);
}

/** Text from outside, on one line of bounded length. */
export function printable(text) {
  const line = text.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069]/g, '?');
  return line.length > 200 ? `${line.slice(0, 200)}…` : line;
}

/** @returns {never} */
export function argument(message, options) {
  throw new ArgumentError(message, options);
}
