// Calls every function of the addon with arguments of every kind, in an order that a seed decides. Run by addon.test.ts in a
// process of its own, so that a crash is a failed test: node fuzz.ts SEED CALLS. Prints how many calls threw and how many not.
import { loadNative, type Native, type SystemHandle, type VcpuHandle, type VmHandle } from '../src/native.ts';

const native = loadNative();
let seed = Number(process.argv[2]) >>> 0 || 1;
const calls = Number(process.argv[3]) || 1000;

/** 0 to n − 1. */
function random(n: number): number {
  seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
  return Math.floor((seed / 2 ** 32) * n);
}

const handles: unknown[] = [];
const shared = new Uint8Array(new WebAssembly.Memory({ initial: 2, maximum: 2, shared: true }).buffer);
const sizes = [0, 1, 4, 8, 24, 64, 72, 128, 144, 312, 392, 4096, 8 + 16, 8 + 40, 8 + 512 * 16, 65536];

function value(): unknown {
  switch (random(16)) {
    case 0:
      return undefined;
    case 1:
      return null;
    case 2:
      return random(2) === 0;
    case 3:
      return ['', '/dev/null', '/dev/kvm', 'x'.repeat(5000), '\0', '/nowhere', 'π'][random(7)];
    case 4:
      return [-1, 0.5, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, 2 ** 32, 2 ** 53, 1e300, -0][random(9)];
    case 5:
    case 6:
      return random(300);
    case 7:
      return BigInt(random(1000));
    case 8:
      return [Symbol('s'), {}, [], () => 1, new Date(), new Proxy({}, {})][random(6)];
    case 9:
      return new Uint8Array(sizes[random(sizes.length)] as number).fill(random(4));
    case 10:
      return [new Uint32Array(random(3000)), new Float64Array(8), new DataView(new ArrayBuffer(64))][random(3)];
    case 11:
      return shared.subarray(4096 * random(4), 4096 * (4 + random(28)) + random(2));
    case 12: {
      const gone = new Uint8Array(4096);
      structuredClone(gone.buffer, { transfer: [gone.buffer] });
      return gone;
    }
    default:
      return handles[random(handles.length)];
  }
}

/** Fresh handles in place of what has been closed meanwhile. */
function refresh(): void {
  try {
    const system: SystemHandle = native.open('/dev/kvm');
    const vm: VmHandle = native.createVm(system);
    const vcpu: VcpuHandle = native.createVcpu(system, vm, random(3));
    // The kernel does not clear immediate_exit: no run of this process takes time.
    new Uint8Array(native.runPage(vcpu))[1] = 1;
    handles.push(system, vm, vcpu);
    while (handles.length > 24) handles.shift();
  } catch (e) {
    if ((e as { code?: unknown }).code !== 'EMFILE') throw e;
  }
}

/** What each function expects, so that half of the calls get past the first check. */
const SHAPES: Readonly<Record<keyof Native, string>> = {
  open: 'path',
  closeSystem: 'system',
  checkExtension: 'system number',
  supportedCpuid: 'system words flag',
  createVm: 'system',
  closeVm: 'vm',
  enableCap: 'vm number number',
  setMemory: 'vm number page memory',
  keepMsrs: 'vm words',
  createVcpu: 'system vm', // one that could run for ever is not to be had
  closeVcpu: 'vcpu',
  runPage: 'vcpu',
  run: 'vcpu number',
  disarm: 'vcpu',
  interrupt: 'vcpu number',
  nmi: 'vcpu',
  get: 'vcpu part bytes',
  set: 'vcpu part bytes',
  createIrqchip: 'vm',
  irqLine: 'vm number flag',
  signalMsi: 'vm msi number',
  setRoutes: 'vm words',
  irqEvent: 'vm number',
  addBell: 'vm number flag page number flag number',
  removeBell: 'vm number',
  logDirty: 'vm number flag',
  dirtyLog: 'vm number bytes number',
  setClock: 'vm number',
  getVm: 'vm vmpart chip',
  setVm: 'vm vmpart chip',
  misalignment: 'memory',
  listen: 'vm function',
  next: 'vm number',
  stopThreads: 'vm number',
  startThread: 'vcpu',
  resume: 'vcpu',
  result: 'vcpu',
  stop: 'vcpu',
  external: 'vcpu flag',
  guard: 'number',
  answered: 'vcpu',
};

function shaped(kind: string): unknown {
  const newest = Math.max(0, handles.length - 3 * (1 + random(2)));
  switch (kind) {
    case 'system':
      return handles[newest];
    case 'vm':
      return handles[newest + 1];
    case 'vcpu':
      return handles[newest + 2];
    case 'path':
      return '/dev/null';
    case 'flag':
      return random(2) === 0;
    case 'function':
      return () => {};
    case 'msi':
      return 0xfee00000 + random(0x100000);
    case 'part':
      return random(15);
    case 'vmpart':
      return random(4);
    case 'chip': {
      const bytes = new Uint8Array([520, 112, 48][random(3)] as number).map(() => random(256));
      bytes.set([random(4), 0, 0, 0]);
      return bytes;
    }
    case 'page':
      return 4096 * random(64);
    case 'words':
      return Uint32Array.from({ length: random(800) }, () => random(2 ** 32));
    case 'memory':
      return shared.subarray(4096 * random(4), 4096 * (4 + random(28)));
    case 'bytes': {
      const bytes = new Uint8Array(sizes[random(sizes.length)] as number);
      for (let i = 0; i < bytes.length; i += 1 + random(40)) bytes[i] = random(256);
      if (bytes.length >= 8 && random(2) === 0) new DataView(bytes.buffer).setUint32(0, (bytes.length - 8) / 16, true);
      return bytes;
    }
    default:
      return random(300);
  }
}

const names = Object.keys(native) as (keyof Native)[];
let threw = 0;
let fine = 0;
for (let i = 0; i < calls; i++) {
  // Chance closes handles.
  if (i % 20 === 0) refresh();
  const name = names[random(names.length)] as keyof Native;
  const args: unknown[] = [];
  // The right kind of handle first, more often than chance would have it.
  for (let n = random(6); n > 0; n--) args.push(value());
  if (random(2) === 0) args[0] = handles[handles.length - 1 - random(Math.min(3, handles.length))];
  if (random(2) === 0) args.splice(0, args.length, ...SHAPES[name].split(' ').map(shaped));
  if (name === 'createVcpu') args.length = Math.min(args.length, 2);
  try {
    (native[name] as (...a: unknown[]) => unknown)(...args);
    fine++;
  } catch (e) {
    if (!(e instanceof Error) || typeof (e as { code?: unknown }).code !== 'string')
      throw new Error(`${name} threw ${String(e)}`);
    threw++;
  }
}
console.log(JSON.stringify({ threw, fine, functions: names.length }));
