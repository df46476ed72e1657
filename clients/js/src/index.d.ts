import { type Attestation, KmsError, type Pins, type Rules } from './verify.js';

export * from './verify.js';

export interface ConnectOptions extends Rules {
  /** Milliseconds for each request, 30000 by default. */
  timeout?: number;
  signal?: AbortSignal;
}

export interface RepositoryOptions extends ConnectOptions {
  /** Where releases are, `https://github.com` by default. */
  base?: string;
  /** Further pins. They and those of the release must hold. */
  pins?: Pins;
}

/**
 * Connects to the KMS at an `https:` URL: verifies its quote with a fresh nonce, then pins its TLS key.
 *
 * @throws {AttestationError} it does not prove what was asked
 * @throws {ConnectionError} there is no usable answer
 * @throws {ArgumentError}
 */
export function connect(url: `https://${string}`, pins: Pins, options?: ConnectOptions): Promise<Kms>;
/** Connects to the KMS of the newest release of `owner/repo`, which has its URLs and pins. */
export function connect(repository: string, options?: RepositoryOptions): Promise<Kms>;
export function connect(url: string, pins: Pins, options?: ConnectOptions): Promise<Kms>;

export interface RequestOptions {
  /** `GET` by default. */
  method?: string;
  headers?: Readonly<Record<string, string>>;
  body?: string | Uint8Array;
  signal?: AbortSignal;
}

/** An answer, of at most 1 MiB, which was read to its end. */
export class KmsResponse {
  private constructor();
  readonly status: number;
  readonly ok: boolean;
  /** By lower-case name. */
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  bytes(): Promise<Uint8Array>;
  text(): Promise<string>;
  /** JSON without repeated keys. Its objects have no prototype. */
  json(): Promise<unknown>;
}

/** A KMS whose attestation was verified. */
export class Kms {
  private constructor();
  /** What was proved. */
  readonly attestation: Attestation;
  /**
   * Sends a request to a path of the KMS. The TLS key is compared on each connection before anything is sent.
   * Redirects are refused.
   */
  fetch(path: string, init?: RequestOptions): Promise<KmsResponse>;
  /**
   * Calls a method of the KMS, such as `GetMeta`.
   *
   * @throws {CallError} the KMS answers with an error
   */
  call(method: string, request?: object, options?: { signal?: AbortSignal }): Promise<any>;
  /** Closes all connections. */
  close(): void;
}

export type ConnectionCode = 'unreachable' | 'timeout' | 'redirect' | 'http' | 'too_large' | 'release';

export const CONNECTION_CODES: readonly ConnectionCode[];

/** There is no answer, or one that cannot be used. It says nothing about the KMS. */
export class ConnectionError extends KmsError {
  readonly code: ConnectionCode;
}

/** The KMS answered a call with an error. */
export class CallError extends KmsError {
  readonly code: 'call';
  /** The HTTP status. */
  readonly status: number;
}
