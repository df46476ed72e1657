// `cvm-kms-release.json` of a repository: where its KMS is, and what it must prove.
import http from 'node:http';
import https from 'node:https';
import { ConnectionError, KmsError, argument } from './errors.js';
import { JsonError, isObject, parse, textOf } from './json.js';
import { readPins } from './pins.js';
import { originOf, readBody, within } from './transport.js';

export const DEFAULT_BASE = 'https://github.com';
const ASSET = 'cvm-kms-release.json';
/** GitHub sends to its storage with one redirect. */
const MAX_REDIRECTS = 5;
const MAX_ENDPOINTS = 16;

const OWNER = /^[A-Za-z0-9][A-Za-z0-9-]{0,38}\/[A-Za-z0-9._-]{1,100}$/;

/** Whether a text is `owner/repo`. */
export const isRepository = (text) => OWNER.test(text) && !/\/\.{1,2}$/.test(text);

const bad = (what, options) => {
  throw new ConnectionError('release', `the release does not describe a KMS: ${what}`, options);
};

const isLoopback = ({ hostname }) => hostname === '127.0.0.1' || hostname === '[::1]' || hostname === 'localhost';

/** Certificates are verified as those of web sites. HTTP without TLS is for a mirror on the same machine. */
function isPermitted(url, isFromLoopback) {
  return url.protocol === 'https:' || (url.protocol === 'http:' && isFromLoopback && isLoopback(url));
}

async function fetchFollowing(first, until) {
  let url = first;
  for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
    const answer = await new Promise((resolve, reject) => {
      const { get } = url.protocol === 'https:' ? https : http;
      get(url, { agent: false, signal: until, headers: { 'user-agent': 'cvm-kms', accept: 'application/octet-stream' } }, resolve).on('error', reject);
    });
    const { statusCode, headers } = answer;
    if (statusCode === 200) return readBody(answer);
    answer.destroy();
    if (![301, 302, 303, 307, 308].includes(statusCode) || headers.location === undefined) bad(`${url.host} answers ${statusCode}`);
    try {
      url = new URL(headers.location, url);
    } catch {
      bad('a redirect to no URL');
    }
    if (!isPermitted(url, isLoopback(first) && first.protocol === 'http:')) bad('a redirect to a URL that is not https://');
  }
  return bad('too many redirects');
}

/** Fetches the newest release of `owner/repo`. */
export async function fetchRelease(repository, { base = DEFAULT_BASE, timeout, signal }) {
  let url;
  try {
    url = new URL(`${base.replace(/\/+$/, '')}/${repository}/releases/latest/download/${ASSET}`);
  } catch {
    argument('base must be a URL such as https://github.com');
  }
  if (!isPermitted(url, true)) argument('base must begin with https://');
  return readRelease(await within(timeout, signal, url.host, (until) => fetchFollowing(url, until)));
}

/** The endpoints and pins in a release. */
export function readRelease(bytes) {
  try {
    const release = parse(textOf(bytes));
    if (!isObject(release)) bad('it is not a JSON object');
    if (release.version !== 1) bad('its version is not 1: update this package');
    const { endpoints, pins } = release;
    const isList = Array.isArray(endpoints) && endpoints.length > 0 && endpoints.every((url) => typeof url === 'string');
    if (!isList || endpoints.length > MAX_ENDPOINTS) bad(`endpoints must be a list of at most ${MAX_ENDPOINTS} URLs`);
    return { endpoints: endpoints.map(originOf), pins: readPins(pins) };
  } catch (error) {
    const isOther = error instanceof ConnectionError && error.code === 'release';
    if (!isOther && (error instanceof JsonError || error instanceof KmsError)) bad(error.message, { cause: error });
    throw error;
  }
}
