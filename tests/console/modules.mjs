// Parses each file as a module: `node modules.mjs FILE…`.

import { readFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';

const wrong = process.argv.slice(2).flatMap((file) => {
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '--check'], { input: readFileSync(file), encoding: 'utf8' });
  return status === 0 ? [] : [`${file}: ${stderr}`];
});
console.log(JSON.stringify({ wrong }));
