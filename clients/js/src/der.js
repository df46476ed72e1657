// DER (X.690), as far as certificates and CRLs need it: definite lengths in their shortest form.

export class DerError extends Error {}

const fail = (what) => {
  throw new DerError(what);
};

export const TAG = {
  BOOLEAN: 0x01,
  INTEGER: 0x02,
  BIT_STRING: 0x03,
  OCTET_STRING: 0x04,
  OID: 0x06,
  ENUMERATED: 0x0a,
  UTC_TIME: 0x17,
  GENERALIZED_TIME: 0x18,
  SEQUENCE: 0x30,
};

/** The elements of a constructed value, one after the other. */
export class Reader {
  #bytes;
  #at = 0;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.#bytes = bytes;
  }

  get isEmpty() {
    return this.#at === this.#bytes.length;
  }

  /** The next tag, `undefined` at the end. */
  get tag() {
    return this.#bytes[this.#at];
  }

  /** The next element: its tag, its contents, and all of its bytes. */
  next() {
    const bytes = this.#bytes;
    const start = this.#at;
    const tag = bytes[start] ?? fail('value is missing');
    if ((tag & 0x1f) === 0x1f) fail('tag is too large');
    let length = bytes[start + 1] ?? fail('length is missing');
    let content = start + 2;
    if (length >= 0x80) {
      const size = length & 0x7f;
      if (size === 0 || size > 3) fail('length has a wrong form');
      length = 0;
      for (let i = 0; i < size; i++) length = length * 256 + (bytes[content++] ?? fail('length is missing'));
      if (length < 0x80 || length < 256 ** (size - 1)) fail('length is not in its shortest form');
    }
    const end = content + length;
    if (end > bytes.length) fail('value is cut off');
    this.#at = end;
    return { tag, value: bytes.subarray(content, end), raw: bytes.subarray(start, end) };
  }

  /** The next element, which must have this tag. */
  expect(tag) {
    const element = this.next();
    return element.tag === tag ? element : fail(`tag ${element.tag} where ${tag} must be`);
  }

  /** A reader of the next element's elements. */
  into(tag = TAG.SEQUENCE) {
    return new Reader(this.expect(tag).value);
  }

  /** The next element if it has this tag. */
  optional(tag) {
    return this.tag === tag ? this.next() : undefined;
  }

  end() {
    if (!this.isEmpty) fail('data after the end');
  }
}

/** Object identifier contents in hex of `1.2.840…`. */
export function oid(dotted) {
  const [first, second, ...rest] = dotted.split('.').map(Number);
  const bytes = [];
  for (const arc of [first * 40 + second, ...rest]) {
    const septets = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) {
      septets.unshift((left % 128) + 128);
    }
    bytes.push(...septets);
  }
  return Uint8Array.from(bytes);
}

/** Unix seconds of a time element (RFC 5280, section 4.1.2.5). */
export function time({ tag, value }) {
  const text = String.fromCharCode(...value);
  const pattern = tag === TAG.UTC_TIME ? /^(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/ : /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)Z$/;
  if (tag !== TAG.UTC_TIME && tag !== TAG.GENERALIZED_TIME) fail('not a time');
  const [year, month, day, hour, minute, second] = (pattern.exec(text) ?? fail('time has a wrong form')).slice(1).map(Number);
  const full = tag === TAG.UTC_TIME ? year + (year >= 50 ? 1900 : 2000) : year;
  const date = new Date(0);
  date.setUTCFullYear(full, month - 1, day);
  date.setUTCHours(hour, minute, second);
  const isReal =
    date.getUTCMonth() === month - 1 && date.getUTCDate() === day && date.getUTCHours() === hour &&
    date.getUTCMinutes() === minute && date.getUTCSeconds() === second;
  return isReal ? date.getTime() / 1000 : fail('time does not exist');
}

/** The contents of a positive INTEGER without leading zero, at most `size` bytes, padded in front. */
export function unsigned(value, size) {
  if (value.length === 0 || value[0] >= 0x80) fail('integer is not positive');
  const digits = value[0] === 0 && value.length > 1 ? value.subarray(1) : value;
  if (digits.length > size) fail('integer is too large');
  const padded = new Uint8Array(size);
  padded.set(digits, size - digits.length);
  return padded;
}

/** `r ‖ s` of an ECDSA signature in DER. */
export function fixedSignature(der) {
  const outer = new Reader(der);
  const pair = outer.into();
  outer.end();
  const fixed = new Uint8Array(64);
  fixed.set(unsigned(pair.expect(TAG.INTEGER).value, 32), 0);
  fixed.set(unsigned(pair.expect(TAG.INTEGER).value, 32), 32);
  pair.end();
  return fixed;
}

/** The bytes of a BIT STRING without unused bits. */
export function bits({ value }) {
  return value.length > 0 && value[0] === 0 ? value.subarray(1) : fail('bit string has unused bits');
}
