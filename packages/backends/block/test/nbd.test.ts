// NBD: real servers (qemu-nbd, nbdkit) over UNIX sockets, TCP and TLS, lost and found again; and servers that lie.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { type BlockStatus, isHyveError } from '@hyve/core';
import { afterEach, describe, expect, it } from 'vitest';
import { convertDisk, diskInfo } from '../src/disk/index.ts';
import { type DiskImage, openBlock } from '../src/index.ts';
import { NbdDisk } from '../src/nbd.ts';
import { parseNbdAddress } from '../src/nbd-protocol.ts';
import { bytes, have, keepingLogger, run, scratch } from './helpers.ts';
import { random } from './memory-file.ts';

const at = scratch();
const children: ChildProcess[] = [];
const servers: Server[] = [];
const disks: DiskImage[] = [];

afterEach(async () => {
  for (const d of disks.splice(0)) await d.close();
  for (const c of children.splice(0)) c.kill('SIGKILL');
  for (const s of servers.splice(0)) s.close();
});

async function until(what: () => boolean, seconds = 10): Promise<void> {
  for (const end = Date.now() + seconds * 1000; !what(); ) {
    if (Date.now() > end) throw new Error('it does not happen');
    await new Promise((r) => setTimeout(r, 10));
  }
}

async function serve(socket: string, program: string, ...args: readonly string[]): Promise<ChildProcess> {
  rmSync(socket, { force: true });
  const child = spawn(program, args, { stdio: ['ignore', 'ignore', 'pipe'] });
  let text = '';
  child.stderr.on('data', (b: Buffer) => {
    text += b.toString();
  });
  children.push(child);
  await until(() => {
    if (child.exitCode !== null) throw new Error(`${program}: ${text}`);
    return existsSync(socket);
  });
  return child;
}

async function end(child: ChildProcess): Promise<void> {
  const gone = new Promise((r) => child.once('exit', r));
  child.kill('SIGKILL');
  await gone;
}

async function open(spec: string): Promise<DiskImage> {
  // A server may listen a moment after its socket is there.
  for (let i = 0; ; i++) {
    try {
      const d = await openBlock(spec, { logger: keepingLogger() });
      disks.push(d);
      return d;
    } catch (e) {
      if (i === 50 || !/ECONNREFUSED|ENOENT/.test(String(e))) throw e;
      await new Promise((r) => setTimeout(r, 20));
    }
  }
}

it('a socket that nobody serves is said to be one', async () => {
  await expect(open(`nbd+unix:///?socket=${at('nobody')}`)).rejects.toThrow(
    /nobody.*: no server listens there \(ENOENT\)/u,
  );
});

describe.skipIf(!have('qemu-nbd'))('qemu-nbd (needs qemu-utils)', () => {
  it('serves reads, writes, zeros, trims and flushes, many at a time', async () => {
    const image = at('a.img');
    const size = 8 << 20;
    writeFileSync(image, new Uint8Array(size));
    const socket = at('a.sock');
    await serve(
      socket,
      'qemu-nbd',
      '-t',
      '-k',
      socket,
      '-f',
      'raw',
      '-x',
      'my disk',
      '--discard=unmap',
      '-e',
      '8',
      image,
    );
    const disk = await open(`nbd+unix:///my%20disk?socket=${socket}`);
    expect([disk.format, disk.size, disk.sectorSize, disk.readOnly, disk.canDiscard]).toEqual([
      'nbd',
      size,
      512,
      false,
      true,
    ]);
    const want = new Uint8Array(size);
    const rnd = random(3);
    const zone = size / 64;
    for (let round = 0; round < 6; round++) {
      const jobs: Promise<BlockStatus>[] = [];
      for (let z = 0; z < 64; z++) {
        const from = z * zone + Math.floor(rnd() * 100) * 512;
        const n = 512 * (1 + Math.floor(rnd() * 100));
        const k = rnd();
        if (k < 0.6) {
          const v = 1 + Math.floor(rnd() * 255);
          want.fill(v, from, from + n);
          jobs.push(disk.write(from, [bytes(100, v), bytes(n - 100, v)]));
        } else if (k < 0.8) {
          want.fill(0, from, from + n);
          jobs.push(disk.writeZeroes(from, n, rnd() < 0.5));
        } else if (k < 0.9) jobs.push(disk.flush());
        else jobs.push(disk.read(from, [new Uint8Array(n)]));
      }
      expect(new Set(await Promise.all(jobs))).toEqual(new Set(['ok']));
    }
    expect(await disk.discard(0, 1 << 20)).toBe('ok');
    const all = new Uint8Array(new SharedArrayBuffer(size));
    expect(await disk.read(0, [all.subarray(0, 999), all.subarray(999)])).toBe('ok');
    expect(Buffer.compare(all.subarray(1 << 20), want.subarray(1 << 20))).toBe(0);
    expect(await disk.flush()).toBe('ok');
    expect(Buffer.compare(readFileSync(image), all)).toBe(0);
    expect(await disk.read(size, [new Uint8Array(512)])).toBe('out-of-range');
    expect((await diskInfo(`nbd+unix:///my%20disk?socket=${socket}`)).virtualSize).toBe(size);
    await expect(open(`nbd+unix:///other?socket=${socket}`)).rejects.toThrow(/no such export/);
  });

  it('killed and started again, it gets every request that it has not answered', async () => {
    const image = at('b.img');
    writeFileSync(image, new Uint8Array(4 << 20));
    const socket = at('b.sock');
    const args = ['-t', '-k', socket, '-f', 'raw', '-e', '4', image] as const;
    let server = await serve(socket, 'qemu-nbd', ...args);
    const disk = await open(`nbd+unix:///?socket=${socket}`);
    let done = 0;
    const jobs: Promise<void>[] = [];
    for (let i = 0; i < 1024; i++)
      jobs.push(
        disk.write(i * 4096, [bytes(4096, (i % 255) + 1)]).then((s) => {
          expect(s).toBe('ok');
          done++;
        }),
      );
    for (const part of [0.2, 0.6]) {
      await until(() => done > 1024 * part || done === 1024);
      await end(server);
      await new Promise((r) => setTimeout(r, 120));
      server = await serve(socket, 'qemu-nbd', ...args);
    }
    await Promise.all(jobs);
    expect(await disk.flush()).toBe('ok');
    const now = readFileSync(image);
    for (let i = 0; i < 1024; i++) expect(now[i * 4096 + 4095]).toBe((i % 255) + 1);
  }, 20_000);

  it('gone for longer than is waited for, requests fail; back again, they work', async () => {
    const image = at('c.img');
    writeFileSync(image, new Uint8Array(1 << 20));
    const socket = at('c.sock');
    const args = ['-t', '-k', socket, '-f', 'raw', image] as const;
    const server = await serve(socket, 'qemu-nbd', ...args);
    const disk = await open(`nbd+unix:///?socket=${socket},reconnect=0.3`);
    await end(server);
    const begin = Date.now();
    expect(await disk.write(0, [bytes(512, 1)])).toBe('io-error');
    expect(Date.now() - begin).toBeLessThan(5000);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
    await serve(socket, 'qemu-nbd', ...args);
    await until(() => disk.counters()['reconnects'] === 1);
    expect(await disk.write(0, [bytes(512, 2)])).toBe('ok');
  }, 20_000);

  it('is a target and a source of conversions, and a backing file', async () => {
    const raw = at('d.img');
    const data = new Uint8Array(3 << 20);
    data.fill(7, 100_000, 2_000_000);
    writeFileSync(raw, data);
    writeFileSync(at('d-target.img'), bytes(3 << 20, 0xff));
    const socket = at('d.sock');
    await serve(socket, 'qemu-nbd', '-t', '-k', socket, '-f', 'raw', '-e', '3', at('d-target.img'));
    const address = `nbd+unix:///?socket=${socket}`;
    await convertDisk(raw, address);
    expect(Buffer.compare(readFileSync(at('d-target.img')), data)).toBe(0);
    await convertDisk(address, at('d.qcow2'), { format: 'qcow2' });
    run('qemu-img', 'compare', '-q', at('d.qcow2'), raw);
    run('qemu-img', 'create', '-q', '-f', 'qcow2', '-b', address, '-F', 'raw', at('e.qcow2'));
    const disk = await open(at('e.qcow2'));
    const b = new Uint8Array(3 << 20);
    expect(await disk.read(0, [b])).toBe('ok');
    expect(Buffer.compare(b, data)).toBe(0);
    expect(await disk.write(512, [bytes(512, 1)])).toBe('ok');
  });
});

describe.skipIf(!have('nbdkit'))('nbdkit (needs nbdkit)', () => {
  it('read-only, without flush, with errors, delays and small requests', async () => {
    const socket = at('k1.sock');
    await serve(socket, 'nbdkit', '-f', '-U', socket, '-r', 'pattern', '1M');
    const ro = await open(`nbd+unix:///?socket=${socket}`);
    expect(ro.readOnly).toBe(true);
    expect(await ro.write(0, [new Uint8Array(512)])).toBe('read-only');
    const b = new Uint8Array(4096);
    expect(await ro.read(8192, [b])).toBe('ok');
    expect(new DataView(b.buffer).getUint32(4)).toBe(8192);

    const flaky = at('k2.sock');
    await serve(
      flaky,
      'nbdkit',
      '-f',
      '-U',
      flaky,
      '--filter=error',
      'memory',
      '4M',
      'error=ENOSPC',
      'error-pwrite-rate=100%',
    );
    const full = await open(`nbd+unix:///?socket=${flaky}`);
    expect(await full.write(0, [bytes(512, 1)])).toBe('no-space');
    expect(await full.read(0, [new Uint8Array(512)])).toBe('ok');

    const small = at('k3.sock');
    await serve(
      small,
      'nbdkit',
      '-f',
      '-U',
      small,
      '--filter=blocksize-policy',
      '--filter=delay',
      'memory',
      '16M',
      'blocksize-minimum=4096',
      'blocksize-preferred=4096',
      'blocksize-maximum=64k',
      'blocksize-error-policy=error',
      'rdelay=2ms',
    );
    const picky = await open(`nbd+unix:///?socket=${small}`);
    expect(picky.sectorSize).toBe(4096);
    expect(await picky.write(0, [bytes(1 << 20, 3)])).toBe('ok');
    const back = new Uint8Array(1 << 20);
    expect(await picky.read(0, [back])).toBe('ok');
    expect(back.every((x) => x === 3)).toBe(true);
  });

  it.skipIf(!have('openssl'))('speaks TLS, and a stranger’s certificate is refused (needs openssl)', async () => {
    const dir = at('');
    const ssl = (...a: readonly string[]): void => {
      const r = spawnSync('openssl', a, { cwd: dir, encoding: 'utf8' });
      if (r.status !== 0) throw new Error(r.stderr);
    };
    const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2'];
    ssl('req', '-x509', ...key, '-keyout', 'ca-key.pem', '-out', 'ca-cert.pem', '-subj', '/CN=test ca');
    ssl('req', '-x509', ...key, '-keyout', 'other-key.pem', '-out', 'other-cert.pem', '-subj', '/CN=other ca');
    ssl('req', ...key, '-keyout', 'server-key.pem', '-out', 'server.csr', '-subj', '/CN=localhost');
    writeFileSync(at('ext'), 'subjectAltName=DNS:localhost\n');
    ssl(
      'x509',
      '-req',
      '-in',
      'server.csr',
      '-CA',
      'ca-cert.pem',
      '-CAkey',
      'ca-key.pem',
      '-CAcreateserial',
      '-out',
      'server-cert.pem',
      '-days',
      '2',
      '-extfile',
      'ext',
    );
    const socket = at('tls.sock');
    await serve(socket, 'nbdkit', '-f', '-U', socket, '--tls=require', `--tls-certificates=${dir}`, 'memory', '8M');
    const address = `nbds+unix:///?socket=${socket}`;
    const disk = await open(`${address},tls-ca=${at('ca-cert.pem')},tls-hostname=localhost`);
    const data = new Uint8Array(new SharedArrayBuffer(1 << 20)).fill(5);
    expect(await disk.write(4096, [data])).toBe('ok');
    const back = new Uint8Array(1 << 20);
    expect(await disk.read(4096, [back])).toBe('ok');
    expect(back.every((x) => x === 5)).toBe(true);
    expect(await disk.flush()).toBe('ok');
    await expect(open(`${address},tls-ca=${at('other-cert.pem')},tls-hostname=localhost`)).rejects.toSatisfy((e) =>
      isHyveError(e, 'BLOCK_NBD'),
    );
    await expect(open(`${address},tls-ca=${at('ca-cert.pem')},tls-hostname=elsewhere`)).rejects.toSatisfy((e) =>
      isHyveError(e, 'BLOCK_NBD'),
    );
    await expect(open(`nbd+unix:///?socket=${socket}`)).rejects.toThrow(/TLS/);
  });
});

// ---- Servers that lie

type Behave = (
  request: { type: number; handle: Buffer; offset: number; length: number },
  socket: Socket,
  n: number,
) => void;

function hello(flags = 3): Buffer {
  const b = Buffer.alloc(18);
  b.write('NBDMAGICIHAVEOPT', 0, 'latin1');
  b.writeUInt16BE(flags, 16);
  return b;
}

function optionReply(option: number, type: number, data: Buffer): Buffer {
  const h = Buffer.alloc(20);
  h.writeUInt32BE(0x0003e889, 0);
  h.writeUInt32BE(0x045565a9, 4);
  h.writeUInt32BE(option, 8);
  h.writeUInt32BE(type, 12);
  h.writeUInt32BE(data.length, 16);
  return Buffer.concat([h, data]);
}

function exportInfo(size: bigint, flags = 0x6d): Buffer {
  const b = Buffer.alloc(12);
  b.writeBigUInt64BE(size, 2);
  b.writeUInt16BE(flags, 10);
  return b;
}

function simple(handle: Buffer, error = 0, data: Buffer = Buffer.alloc(0)): Buffer {
  const h = Buffer.alloc(16);
  h.writeUInt32BE(0x67446698, 0);
  h.writeUInt32BE(error, 4);
  handle.copy(h, 8);
  return Buffer.concat([h, data]);
}

/** A server of our own: `greet` answers the handshake, `behave` each request. */
async function liar(behave: Behave, greet?: (socket: Socket) => void): Promise<string> {
  let n = 0;
  const server = createServer((socket) => {
    socket.on('error', () => {});
    let got = Buffer.alloc(0);
    let greeted = false;
    if (greet !== undefined) {
      greet(socket);
      return;
    }
    socket.write(hello());
    socket.on('data', (b) => {
      got = Buffer.concat([got, b]);
      if (!greeted) {
        // Client flags, then the option that asks for the export.
        if (got.length < 20) return;
        const length = got.readUInt32BE(16);
        if (got.length < 20 + length) return;
        got = got.subarray(20 + length);
        greeted = true;
        socket.write(Buffer.concat([optionReply(7, 3, exportInfo(1n << 20n)), optionReply(7, 1, Buffer.alloc(0))]));
      }
      while (got.length >= 28) {
        const type = got.readUInt16BE(6);
        const length = got.readUInt32BE(24);
        const payload = type === 1 ? length : 0;
        if (got.length < 28 + payload) return;
        const r = { type, handle: Buffer.from(got.subarray(8, 16)), offset: Number(got.readBigUInt64BE(16)), length };
        got = got.subarray(28 + payload);
        behave(r, socket, n++);
      }
    });
  });
  servers.push(server);
  await new Promise<void>((r) => server.listen(0, '127.0.0.1', r));
  return `nbd://127.0.0.1:${(server.address() as { port: number }).port}/`;
}

async function openLiar(address: string, reconnectSeconds: number, answerSeconds = 30): Promise<NbdDisk> {
  const disk = await NbdDisk.open({
    address: parseNbdAddress(address),
    tls: { ca: null, cert: null, key: null, hostname: null },
    readOnly: false,
    noDelete: false,
    sync: false,
    sectorSize: null,
    physicalSectorSize: null,
    reconnectSeconds,
    answerSeconds,
    logger: keepingLogger(),
  });
  disks.push(disk);
  return disk;
}

describe('a server that lies', () => {
  const honest: Behave = (r, s) =>
    s.write(simple(r.handle, 0, r.type === 0 ? Buffer.alloc(r.length, 7) : Buffer.alloc(0)));

  it('is believed while it is honest', async () => {
    const disk = await openLiar(await liar(honest), 1);
    const b = new Uint8Array(4096);
    expect(await disk.read(0, [b.subarray(0, 1), b.subarray(1)])).toBe('ok');
    expect(b.every((x) => x === 7)).toBe(true);
    expect([await disk.write(0, [b]), await disk.flush(), await disk.discard(0, 512)]).toEqual(['ok', 'ok', 'ok']);
  });

  for (const [what, behave] of [
    [
      'a wrong magic number',
      (r, s) => s.write(Buffer.concat([Buffer.from('deadbeef', 'hex'), simple(r.handle).subarray(4)])),
    ],
    ['a handle of no request', (_r, s) => s.write(simple(Buffer.from('0000000012345678', 'hex')))],
    [
      'a handle with its upper half changed',
      (r, s) => s.write(simple(Buffer.concat([Buffer.from('00000001', 'hex'), r.handle.subarray(4)]))),
    ],
    ['short data and a closed connection', (r, s) => s.end(simple(r.handle, 0, Buffer.alloc(100)))],
    ['half a header', (r, s) => s.end(simple(r.handle).subarray(0, 7))],
    [
      'a structured reply nobody asked for',
      (r, s) => s.write(Buffer.concat([Buffer.from('668e33ef', 'hex'), simple(r.handle).subarray(4)])),
    ],
    ['a reply given twice', (r, s) => s.write(Buffer.concat([simple(r.handle, 5), simple(r.handle, 5)]))],
    ['a closed connection', (_r, s) => s.destroy()],
    ['a word of shutting down', (r, s) => s.write(simple(r.handle, 108))],
  ] as [string, Behave][]) {
    it(`with ${what} ends in an error status`, async () => {
      const disk = await openLiar(await liar(behave), 0.15);
      const got = await Promise.all([
        disk.read(0, [new Uint8Array(4096)]),
        disk.write(4096, [new Uint8Array(512)]),
        disk.flush(),
      ]);
      for (const s of got) expect(s).toBe('io-error');
      expect(disk.counters()['failures']).toBe(3);
    });
  }

  it('with silence is given up after a while', async () => {
    const disk = await openLiar(await liar(() => {}), 0.1, 0.1);
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
  });

  it('with more data than was asked for does not write beyond the buffers', async () => {
    const disk = await openLiar(
      await liar((r, s) => s.write(simple(r.handle, 0, Buffer.alloc(r.length + 100, 9)))),
      0.1,
    );
    const b = new Uint8Array(2048);
    await disk.read(0, [b.subarray(512, 1024)]);
    expect([b[511], b[512], b[1023], b[1024]]).toEqual([0, 9, 9, 0]);
    await disk.close();
  });

  it('that dies of one request does not take the others along', async () => {
    const disk = await openLiar(
      await liar((r, s, n) => {
        if (r.offset === 512) s.destroy();
        else honest(r, s, n);
      }),
      20,
    );
    const [poison, fine] = await Promise.all([
      disk.read(512, [new Uint8Array(512)]),
      disk.read(4096, [new Uint8Array(512)]),
    ]);
    expect([poison, fine]).toEqual(['io-error', 'ok']);
  }, 15_000);

  it('in its greeting is refused when the disk is opened', async () => {
    const greet = (...parts: readonly Buffer[]): Promise<string> =>
      liar(honest, (s) => {
        s.write(Buffer.concat([...parts]));
        s.on('data', () => {});
      });
    const why = async (address: string): Promise<string> => {
      const e = await openLiar(address, 1).catch((x: unknown) => x);
      expect(isHyveError(e, 'BLOCK_NBD')).toBe(true);
      return (e as Error).message;
    };
    expect(await why(await greet(Buffer.from('HTTP/1.1 400 Bad Request\r\n')))).toMatch(/no NBD server/);
    expect(await why(await greet(hello(0)))).toMatch(/newstyle/);
    expect(await why(await greet(hello(), Buffer.alloc(20)))).toMatch(/magic/);
    expect(await why(await greet(hello(), optionReply(6, 1, Buffer.alloc(0))))).toMatch(/option 6/);
    expect(await why(await greet(hello(), optionReply(7, 1, Buffer.alloc(0))))).toMatch(/how large/);
    expect(await why(await greet(hello(), optionReply(7, 3, exportInfo(1n << 60n))))).toMatch(/2\^53/);
    expect(await why(await greet(hello(), optionReply(7, 0x80000006, Buffer.alloc(0))))).toMatch(/no such export/);
    const huge = optionReply(7, 3, Buffer.alloc(0));
    huge.writeUInt32BE(0x7fffffff, 16);
    expect(await why(await greet(hello(), huge))).toMatch(/2147483647 bytes/);
    const chatter = Buffer.concat(Array.from({ length: 300 }, () => optionReply(7, 3, Buffer.alloc(12))));
    expect(await why(await greet(hello(), chatter))).toMatch(/point/);
    expect(
      await why(await greet(hello(), optionReply(7, 3, exportInfo(0n)), optionReply(7, 1, Buffer.alloc(0)))),
    ).toMatch(/empty/);
    const blocks = Buffer.alloc(14);
    blocks.writeUInt16BE(3, 0);
    blocks.writeUInt32BE(1 << 17, 2);
    expect(
      await why(
        await greet(
          hello(),
          optionReply(7, 3, exportInfo(1n << 20n)),
          optionReply(7, 3, blocks),
          optionReply(7, 1, Buffer.alloc(0)),
        ),
      ),
    ).toMatch(/block sizes/);
    expect(await why(await liar(honest, (s) => s.destroy()))).toMatch(/closed/);
    expect(await why('nbd://127.0.0.1:1/')).toMatch(/ECONNREFUSED/);
  });

  it('that comes back with another size is not trusted', async () => {
    let size = 1n << 20n;
    let sockets: Socket[] = [];
    const address = await liar(honest, (s) => {
      sockets.push(s);
      s.write(hello());
      let got = 0;
      s.on('data', (b) => {
        got += b.length;
        if (got >= 20)
          s.write(Buffer.concat([optionReply(7, 3, exportInfo(size)), optionReply(7, 1, Buffer.alloc(0))]));
        got = Number.NEGATIVE_INFINITY;
      });
    });
    const disk = await openLiar(address, 0.3);
    size = 1n << 19n;
    for (const s of sockets) s.destroy();
    sockets = [];
    expect(await disk.read(0, [new Uint8Array(512)])).toBe('io-error');
  });
});
