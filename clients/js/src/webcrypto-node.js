// The Web Crypto API of Node, which version 18 does not have as a global.
export { webcrypto as default } from 'node:crypto';
