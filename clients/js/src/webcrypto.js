// The Web Crypto API of browsers and of Node 20.
export default globalThis.crypto;
