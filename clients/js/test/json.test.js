import assert from 'node:assert/strict';
import test from 'node:test';
import { JsonError, parse, textOf } from '../src/json.js';

test('valid texts are read as by JSON.parse', () => {
  for (const text of ['{}', '[]', ' [1, -2.5e3 , "a\\u00e9\\n" ,true,false,null] ', '{"a":{"b":[{}]},"c":""}', '"\\ud83d\\ude00"', '0']) {
    assert.equal(JSON.stringify(parse(text)), JSON.stringify(JSON.parse(text)), text);
  }
});

test('what is not JSON, or can be read in two ways, is refused', () => {
  for (const text of [
    '', ' ', '{', '}', '[1,]', '{"a":1,}', '{a:1}', "{'a':1}", '01', '1.', '.5', '+1', '1e', 'NaN', 'Infinity', '1e999', 'nul', 'truex',
    '"', '"\n"', '"\\x"', '"\\u12"', '{"a" 1}', '{"a":1 "b":2}', '[1 2]', '{} {}', '{}x', '\ufeff{}', '\u00a0{}',
    '"\\ud800"', '"\\udc00\\ud800"', '{"a":1,"a":1}', '{"a":{"b":1,"b":2}}', '[{"x":1,"\\u0078":2}]', '{"__proto__":1,"__proto__":2}',
  ]) {
    assert.throws(() => parse(text), JsonError, text);
  }
  assert.throws(() => parse('['.repeat(40) + ']'.repeat(40)), JsonError);
  assert.throws(() => parse('['.repeat(500_000)), JsonError);
  for (const bytes of [[0xff], [0xc3], [0xed, 0xa0, 0x80]]) assert.throws(() => textOf(Uint8Array.from(bytes)), JsonError);
});

test('keys of prototypes are keys like others', () => {
  const value = parse('{"__proto__":{"polluted":true},"constructor":1,"hasOwnProperty":2,"toString":3}');
  assert.deepEqual(Object.keys(value), ['__proto__', 'constructor', 'hasOwnProperty', 'toString']);
  assert.equal({}.polluted, undefined);
  assert.equal(Object.getPrototypeOf(value), null);
});
