// Texts as sentences of a page: argument 2 is format.js; prints `{ "wrong": […] }`.

import { pathToFileURL } from 'node:url';

const { sentence } = await import(pathToFileURL(process.argv[2]));
const cases = {
  'core.image.verify is false': 'core.image.verify is false',
  'core.auth_api.type = "dev"': 'core.auth_api.type = "dev"',
  'os_image_hash is not listed': 'os_image_hash is not listed',
  'mrAggregated is not listed': 'mrAggregated is not listed',
  'allowAnyDevice': 'allowAnyDevice',
  '0xab is not allowed': '0xab is not allowed',
  'https://kms.example does not answer': 'https://kms.example does not answer',
  'os image not allowed': 'OS image not allowed',
  'out-of-date TCB': 'Out-of-date TCB',
  'no evidence. It ends': 'No evidence. It ends',
  'OutOfDate is not tolerated': 'OutOfDate is not tolerated',
  '': '',
};
const wrong = Object.entries(cases).filter(([text, expected]) => sentence(text) !== expected).map(([text]) => `${text}: ${sentence(text)}`);
console.log(JSON.stringify({ wrong }));
