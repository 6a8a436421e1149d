// `node tools/layer-check/src/main.ts`: one line per finding, exit status 1 if there is any.
import { join } from 'node:path';
import { check, checkReferences } from './check.ts';
import { readReferences, readWorkspace } from './read.ts';

const root = process.argv[2] ?? join(import.meta.dirname, '../../..');
const packages = readWorkspace(root);
const findings = [...check(packages), ...checkReferences(readReferences(root), packages)];
for (const f of findings) console.log(`${f.where}: ${f.what}`);
console.log(`layer check: ${packages.length} packages, ${findings.length} findings`);
process.exitCode = findings.length === 0 ? 0 : 1;
