// The software CPU in a page: the conformance suite, bundled, in headless Chromium. Shared WebAssembly memory needs the
// page to be cross-origin isolated, hence the two headers.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'vite';
import { expect, it } from 'vitest';

/** What the page runs: every case, and a report to where it came from. */
const PAGE_CODE = `
import { SoftCpu } from '@hyve/cpu';
import { CONFORMANCE_CASES, INTERRUPT_CASE_NAMES } from '@hyve/testkit/conformance';
const failed = [];
let cases = 0;
for (const c of CONFORMANCE_CASES) {
  // The board brings the software CPU's interrupt controllers.
  if (INTERRUPT_CASE_NAMES.includes(c.name)) continue;
  try {
    c.run(new SoftCpu());
  } catch (e) {
    failed.push(c.name + ': ' + (e && e.message));
  }
  cases++;
}
const report = { isolated: crossOriginIsolated, agent: navigator.userAgent, cases, failed };
await fetch('/report', { method: 'POST', body: JSON.stringify(report) });
`;

interface Report {
  readonly isolated: boolean;
  readonly agent: string;
  readonly cases: number;
  readonly failed: readonly string[];
}

async function bundle(): Promise<string> {
  const id = '\0page';
  const out = await build({
    root: join(import.meta.dirname, '..'),
    configFile: false,
    logLevel: 'error',
    plugins: [
      { name: 'page', resolveId: (s) => (s === 'page' ? id : null), load: (s) => (s === id ? PAGE_CODE : null) },
    ],
    resolve: { alias: { '@hyve/cpu': join(import.meta.dirname, '../src/index.ts') } },
    build: {
      write: false,
      target: 'esnext',
      minify: false,
      rollupOptions: { input: 'page', preserveEntrySignatures: false },
    },
  });
  const outputs = (Array.isArray(out) ? out : [out]) as { output: { code?: string }[] }[];
  return outputs[0]?.output[0]?.code ?? '';
}

/** Opens the code in Chromium and waits for what it reports. */
async function inChromium(code: string): Promise<Report> {
  const profile = mkdtempSync(join(tmpdir(), 'hyve-chromium-'));
  const { promise, resolve, reject } = Promise.withResolvers<Report>();
  const server = createServer((request, response) => {
    const headers = { 'cross-origin-opener-policy': 'same-origin', 'cross-origin-embedder-policy': 'require-corp' };
    if (request.url === '/report') {
      let text = '';
      request.on('data', (d) => (text += d)).on('end', () => resolve(JSON.parse(text) as Report));
      response.end();
    } else if (request.url === '/page.js') {
      response.writeHead(200, { ...headers, 'content-type': 'text/javascript' }).end(code);
    } else {
      response.writeHead(200, { ...headers, 'content-type': 'text/html' });
      response.end('<!doctype html><script type="module" src="/page.js"></script>');
    }
  });
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  const args = [
    '--headless',
    '--no-sandbox',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    `--user-data-dir=${profile}`,
    url,
  ];
  const browser = spawn('chromium', args, { stdio: ['ignore', 'ignore', 'pipe'], detached: true });
  let errors = '';
  browser.stderr.on('data', (d) => (errors += d));
  browser.on('exit', (status) => reject(new Error(`chromium ended with ${status}: ${errors.slice(-2000)}`)));
  const late = setTimeout(() => reject(new Error(`no report from the page: ${errors.slice(-2000)}`)), 150_000);
  try {
    return await promise;
  } finally {
    clearTimeout(late);
    browser.removeAllListeners('exit');
    const gone = new Promise((r) => browser.on('close', r));
    if (browser.pid !== undefined && browser.exitCode === null) process.kill(-browser.pid, 'SIGKILL');
    await gone;
    server.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
  }
}

it('passes the conformance suite in headless Chromium', async (t) => {
  if (spawnSync('chromium', ['--version']).status !== 0) return t.skip('chromium is missing');
  const report = await inChromium(await bundle());
  expect(report.isolated).toBe(true);
  expect(report.cases).toBeGreaterThan(40);
  expect(report.failed).toEqual([]);
}, 120_000);
