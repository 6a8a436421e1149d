// Sets a fresh clone up and runs one of its programs: `node tools/bootstrap.mjs demo|test|setup [arguments]`.
// Runs on Node 20 with npm alone. It installs the pinned pnpm's view of the workspace, then hands over to the Node that
// is a dev dependency of this repository. When everything is installed already it touches no network.
import { spawn, spawnSync } from 'node:child_process';
import { copyFileSync, existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import process from 'node:process';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const node = join(root, 'node_modules', '.bin', 'node');
const noteFile = join(root, 'node_modules', '.hyve-installed');

/** What each word runs, on the pinned Node. */
const PROGRAMS = {
  demo: ['apps/xhyve-cli/src/demo.ts'],
  test: ['tools/check/src/main.ts'],
};

/** The folders pnpm-workspace.yaml lists, as far as they exist. */
function packageFolders() {
  const list = readFileSync(join(root, 'pnpm-workspace.yaml'), 'utf8').matchAll(/^ {2}- "([^"*]+?)(\/\*)?"$/gm);
  const folders = [];
  for (const [, name, all] of list) {
    const at = join(root, name);
    if (!existsSync(at)) continue;
    if (all === undefined) {
      folders.push(at);
      continue;
    }
    for (const name of readdirSync(at).sort()) folders.push(join(at, name));
  }
  return folders;
}

/** Whether what pnpm last installed is exactly what the lock file asks for, and all of it is still there. */
function installed() {
  const wanted = readFileSync(join(root, 'pnpm-lock.yaml'));
  // pnpm keeps what it installed; our own note counts as well, for lock files that list packages this copy lacks.
  const same = [join(root, 'node_modules', '.pnpm', 'lock.yaml'), noteFile].some(
    (file) => existsSync(file) && readFileSync(file).equals(wanted),
  );
  if (!same || !existsSync(node)) return false;
  return [root, ...packageFolders()].every((folder) => {
    const manifest = join(folder, 'package.json');
    if (!existsSync(manifest)) return true;
    const { dependencies = {}, devDependencies = {} } = JSON.parse(readFileSync(manifest, 'utf8'));
    const names = Object.keys({ ...dependencies, ...devDependencies });
    return names.every((name) => existsSync(join(folder, 'node_modules', name)));
  });
}

/** What a child's end means as our exit status. */
function statusOf(code, signal) {
  if (signal === null) return code ?? 1;
  return 128 + ({ SIGHUP: 1, SIGINT: 2, SIGKILL: 9, SIGTERM: 15 }[signal] ?? 0);
}

function install() {
  const pinned = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).packageManager;
  const started = Date.now();
  const seconds = () => `${((Date.now() - started) / 1000).toFixed(0)} s`;
  console.error(`hyve: installing dependencies with ${pinned} (once; about 20 seconds)`);
  const args = ['-y', pinned, 'install', '--frozen-lockfile', '--reporter=append-only'];
  return new Promise((resolve) => {
    const env = { ...process.env, CI: 'true', TURBO_TELEMETRY_DISABLED: '1' };
    const child = spawn('npx', args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], env });
    const kept = [];
    let last = '';
    const line = (text) => {
      kept.push(text);
      if (kept.length > 40) kept.shift();
      const progress = /^Progress: (.*)$/.exec(text);
      if (progress !== null) last = progress[1];
    };
    for (const stream of [child.stdout, child.stderr]) {
      let rest = '';
      stream.setEncoding('utf8');
      stream.on('data', (chunk) => {
        const lines = (rest + chunk).split(/\r?\n/);
        rest = lines.pop();
        for (const text of lines) line(text);
      });
      stream.on('end', () => rest !== '' && line(rest));
    }
    const tick = setInterval(() => console.error(`hyve: … ${seconds()}${last === '' ? '' : `: ${last}`}`), 2000);
    child.on('error', (e) => {
      clearInterval(tick);
      console.error(`hyve: cannot start npx: ${e.message}. npm comes with Node; is it on the PATH?`);
      resolve(false);
    });
    child.on('close', (code, signal) => {
      clearInterval(tick);
      if (code === 0 && existsSync(node)) {
        copyFileSync(join(root, 'pnpm-lock.yaml'), noteFile);
        console.error(`hyve: installed in ${seconds()}`);
        resolve(true);
        return;
      }
      for (const text of kept) console.error(`  ${text}`);
      console.error(`hyve: installing failed (${signal ?? `exit ${code}`}). The messages above are from ${pinned}.`);
      resolve(false);
    });
  });
}

/** Runs a program on the pinned Node with our terminal, passing signals on; gives its exit status. */
function run(args) {
  // The bin folder goes first on PATH, so that `node` means the pinned one in everything the program starts.
  const env = { ...process.env, PATH: `${join(root, 'node_modules', '.bin')}:${process.env.PATH ?? ''}` };
  env.TURBO_TELEMETRY_DISABLED = '1';
  return new Promise((resolve) => {
    const child = spawn(node, args, { cwd: root, stdio: 'inherit', env });
    // Ctrl-C reaches the child by the terminal already; this process only has to outlive it.
    process.on('SIGINT', () => {});
    for (const signal of ['SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
    child.on('error', (e) => {
      console.error(`hyve: cannot start ${node}: ${e.message}`);
      resolve(1);
    });
    child.on('close', (code, signal) => resolve(statusOf(code, signal)));
  });
}

async function main() {
  const [word, ...rest] = process.argv.slice(2);
  const program = PROGRAMS[word];
  if (program === undefined && word !== 'setup') {
    console.error(`usage: node tools/bootstrap.mjs setup|${Object.keys(PROGRAMS).join('|')} [arguments]`);
    return 1;
  }
  const major = Number(process.versions.node.split('.')[0]);
  if (major < 20) {
    console.error(`hyve: needs Node.js 20 or newer to set itself up; this is ${process.version}`);
    return 1;
  }
  if (!installed()) {
    if (!(await install())) {
      if (word === 'test') console.log('0 passed, 1 failed');
      return 1;
    }
    // A package may come with a binary that this machine cannot run; better to hear it here than from the guest.
    const probe = spawnSync(node, ['-v'], { encoding: 'utf8' });
    if (probe.status !== 0) {
      console.error(`hyve: the installed Node does not run here: ${probe.error?.message ?? probe.stderr.trim()}`);
      return 1;
    }
    // As it is in the published package. Without a compiler guests start slower from the second time on, that is all.
    const built = spawnSync(node, ['packages/hv-native/scripts/build-native.ts', 'compiled', 'thread', '--try'], {
      cwd: root,
    });
    if (built.status !== 0) console.error(`hyve: the native library was not built: ${built.stdout}${built.stderr}`);
  }
  if (program === undefined) return 0;
  if (!existsSync(join(root, program[0]))) {
    console.error(`hyve: ${program[0]} is missing from this copy`);
    return 1;
  }
  return run([...program, ...rest]);
}

process.exitCode = await main();
