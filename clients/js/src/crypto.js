// Hashes and ECDSA P-256, by the Web Crypto API.
import webcrypto from '#webcrypto';
import { concat } from './bytes.js';

const hash = async (name, parts) => new Uint8Array(await webcrypto.subtle.digest(name, concat(...parts)));

/** SHA-256 of the concatenation, 32 bytes. */
export const sha256 = (...parts) => hash('SHA-256', parts);
/** SHA-384 of the concatenation, 48 bytes. */
export const sha384 = (...parts) => hash('SHA-384', parts);
/** SHA-512 of the concatenation, 64 bytes. */
export const sha512 = (...parts) => hash('SHA-512', parts);

/** @param {number} length */
export const randomBytes = (length) => webcrypto.getRandomValues(new Uint8Array(length));

/**
 * Whether `signature` (`r ‖ s`, 64 bytes) is by the P-256 key `point` (`04 ‖ X ‖ Y`) over SHA-256 of `data`.
 */
export async function isSignedP256(point, signature, data) {
  if (signature.length !== 64) return false;
  try {
    const curve = { name: 'ECDSA', namedCurve: 'P-256' };
    const key = await webcrypto.subtle.importKey('raw', point, curve, false, ['verify']);
    return await webcrypto.subtle.verify({ name: 'ECDSA', hash: 'SHA-256' }, key, signature, data);
  } catch {
    return false;
  }
}
