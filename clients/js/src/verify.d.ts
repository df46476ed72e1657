/** Known values that what is proved must have: one for each name, or a list of accepted ones. */
export interface Pins {
  /** SHA-256 of the SubjectPublicKeyInfo of the root CA. The root CA key must have signed the quote. */
  root_ca_spki_sha256?: string | readonly string[];
  /** The secp256k1 root key, compressed. */
  k256_public_key?: string | readonly string[];
  /** Everything that is measured. */
  mr_aggregated?: string | readonly string[];
  /** The OS image that the VM's configuration claims; the measurements are in `mr_aggregated`. */
  os_image_hash?: string | readonly string[];
  /** SHA-256 of the app's compose file. */
  compose_hash?: string | readonly string[];
  app_id?: string | readonly string[];
  /** The verifier key of the audit log. */
  log_key?: string | readonly string[];
  /** The digest of the policy of the domain `default`. */
  policy_digest?: string | readonly string[];
}

/** What is demanded beside the pins. */
export interface Rules {
  /** TCB statuses that are accepted, instead of only `UpToDate`. */
  tcbStatuses?: readonly string[];
  /** The greatest age of the statement in seconds, 600 by default; `null`: any. */
  maxAge?: number | null;
  /** A root CA that is trusted instead of Intel's, PEM or DER: for simulators. */
  tdxRootCa?: string | Uint8Array;
}

export interface VerifyOptions extends Rules {
  /** Unix seconds; by default the time now. */
  now?: number;
  /** The nonce that the statement must have, 64 lower-case hexadecimal digits. */
  nonce?: string;
}

export interface RootKeys {
  readonly ca_spki_sha256: string;
  readonly k256_public_key: string;
}

/** What the KMS states. The program that the quote measures has put it there. */
export interface Statement {
  /** When it was made, Unix seconds. */
  readonly time: number;
  readonly nonce: string | null;
  readonly kms_version: string;
  readonly program_sha256: string | null;
  readonly name: string;
  readonly endpoints: readonly string[];
  /** SHA-256 of the SubjectPublicKeyInfo of its TLS key. */
  readonly rpc_spki_sha256: string;
  readonly root: RootKeys;
  readonly epochs: readonly (RootKeys & { readonly epoch: number; readonly state: string })[];
  readonly log: { readonly origin: string; readonly key: string; readonly checkpoint: string } | null;
  readonly policies: Readonly<Record<string, { readonly kind: string; readonly digest: string | null }>>;
  /** Settings that weaken it. */
  readonly relaxed: readonly string[];
  /** Whether nobody can log in to its machine; null if it does not know that. */
  readonly sealed: boolean | null;
}

/** What the quote and its events prove, in hexadecimal. */
export interface Measurements {
  readonly app_id: string;
  readonly compose_hash: string;
  readonly instance_id: string;
  readonly device_id: string;
  readonly mr_system: string;
  readonly mr_aggregated: string;
  /** A claim of the VM's configuration; empty if there is none. */
  readonly os_image_hash: string;
  /** JSON; empty without a key provider. */
  readonly key_provider: string;
}

export interface Attestation {
  readonly statement: Statement;
  readonly measurements: Measurements;
  readonly tcb: { readonly status: string; readonly advisories: readonly string[]; readonly fmspc: string };
  /** Whether the root CA key has signed the quote, so that this is the KMS that has the root keys. */
  readonly isSignedByRoot: boolean;
  /** The time of the verdict, Unix seconds. */
  readonly verifiedAt: number;
}

/**
 * Verifies a document `/attestation.json`, without a network.
 *
 * @param document its bytes or text, at most 1 MiB
 * @throws {AttestationError} for the first check that fails
 * @throws {ArgumentError}
 */
export function verify(document: Uint8Array | string, pins: Pins, options?: VerifyOptions): Promise<Attestation>;

/**
 * Reads pins from a file, in which a key must not be there twice.
 *
 * @throws {AttestationError} with the code `bad_pins`
 */
export function parsePins(bytes: Uint8Array): Pins;

export const PIN_NAMES: readonly (keyof Pins)[];
/** Every TCB status that can be accepted. */
export const TCB_STATUSES: readonly string[];

export type AttestationCode =
  | 'bad_pins'
  | 'no_pin'
  | 'too_large'
  | 'malformed'
  | 'duplicate_key'
  | 'unknown_version'
  | 'report_data'
  | 'debug'
  | 'td_isolation'
  | 'collateral_missing'
  | 'collateral_mismatch'
  | 'collateral_expired'
  | 'event_log'
  | 'quote'
  | 'tcb_status'
  | 'identity'
  | 'root_signature'
  | 'nonce'
  | 'time'
  | 'pin_mismatch'
  | 'tls_key';

/** All codes of `AttestationError`, in the order of the checks. */
export const ATTESTATION_CODES: readonly AttestationCode[];

/** Base of the errors of this package. The message says what was found, and what to do. */
export class KmsError extends Error {
  readonly code: string;
}

/** The KMS, or the server that answers for it, does not prove what was asked. */
export class AttestationError extends KmsError {
  readonly code: AttestationCode;
}

/** What the caller gave is wrong. Nothing was sent. */
export class ArgumentError extends KmsError {
  readonly code: 'argument';
}
