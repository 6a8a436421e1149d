// The control socket: a Unix socket of the machine's owner, on which each line is a command in JSON and each answer a line.
// `xhyve ctl` speaks it; so may anything else.
//
//   {"command":"eject","drive":"4","force":true}     {"ok":true}
//   {"command":"change","drive":"4","image":"b.iso"} {"ok":false,"code":"BLOCK_FILE","message":"cannot open b.iso: …"}
import { chmodSync, lstatSync, unlinkSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { isHyveError } from '@hyve/core';
import { runError } from './errors.ts';
import type { RunnablePc } from './run.ts';

/** Connections at once. */
const MAX_CLIENTS = 8;
/** Characters of a line. */
const MAX_LINE = 16 << 10;
/** Answers that a client may leave unread, bytes. */
const MAX_UNREAD = 1 << 20;

/** The answer to a command. */
export type ControlAnswer =
  | { readonly ok: true; readonly result?: unknown }
  | { readonly ok: false; readonly code: string; readonly message: string };

/** What a machine can be told. */
export const CONTROL_COMMANDS: readonly string[] = [
  'info',
  'eject',
  'change',
  'resize',
  'pause',
  'resume',
  'reset',
  'powerdown',
  'quit',
];

function wrong(message: string): Error {
  return Object.assign(new Error(message), { code: 'CONTROL' });
}

/** Carries out one command. Never rejects. @param paused whether the machine stands still */
export async function obey(pc: RunnablePc, line: string, paused: { now: boolean }): Promise<ControlAnswer> {
  try {
    let asked: unknown;
    try {
      asked = JSON.parse(line);
    } catch {
      throw wrong('this is no JSON');
    }
    if (typeof asked !== 'object' || asked === null || Array.isArray(asked)) throw wrong('an object is expected');
    const result = await carryOut(pc, asked as Record<string, unknown>, paused);
    return result === undefined ? { ok: true } : { ok: true, result };
  } catch (e) {
    const code = e instanceof Error && 'code' in e && typeof e.code === 'string' ? e.code : 'INTERNAL';
    return { ok: false, code, message: e instanceof Error ? e.message : String(e) };
  }
}

async function carryOut(pc: RunnablePc, o: Record<string, unknown>, paused: { now: boolean }): Promise<unknown> {
  const text = (name: string): string => {
    const v = o[name];
    if (typeof v !== 'string' || v === '' || v.includes('\0')) throw wrong(`"${name}" is expected to be a text`);
    return v;
  };
  const force = { force: o['force'] === true };
  const { drives } = pc;
  const can = <T>(what: T | undefined): T => {
    if (what === undefined) throw wrong('this machine cannot do that');
    return what;
  };
  switch (o['command']) {
    case 'info':
      return { paused: paused.now, drives: drives?.list() ?? [] };
    case 'eject':
      return can(drives).eject(text('drive'), force);
    case 'change':
      return can(drives).change(text('drive'), text('image'), force);
    case 'resize': {
      const { parseSize } = await import('@hyve/block-backends');
      const size = typeof o['size'] === 'number' ? o['size'] : parseSize(text('size'));
      if (size === null || !Number.isSafeInteger(size) || size <= 0) throw wrong('"size" is no size: write 20G');
      return can(drives).resize(text('drive'), size);
    }
    case 'pause':
      paused.now = true;
      return can(pc.pause?.bind(pc))();
    case 'resume':
      can(pc.resume?.bind(pc))();
      paused.now = false;
      return undefined;
    case 'reset':
      return can(pc.reset?.bind(pc))();
    case 'powerdown':
      return { listens: pc.powerButton() };
    case 'quit':
      pc.forceOff();
      return undefined;
    default:
      throw wrong(`no such command; there are ${CONTROL_COMMANDS.join(', ')}`);
  }
}

/** The socket of one machine. */
export class ControlServer {
  private readonly server: Server;
  private readonly path: string;
  private readonly pc: RunnablePc;
  private readonly clients = new Set<Socket>();
  private readonly paused = { now: false };

  private constructor(server: Server, path: string, pc: RunnablePc) {
    this.server = server;
    this.path = path;
    this.pc = pc;
    server.on('connection', (s) => this.serve(s));
    server.on('error', () => {}); // a connection that could not be taken
  }

  /** Makes the socket, for its owner alone. @throws CLI_RUN when there is something at `path` or it cannot be made */
  static async listen(path: string, pc: RunnablePc): Promise<ControlServer> {
    await removeStale(path);
    // A client may close its side once it has asked.
    const server = createServer({ allowHalfOpen: true });
    // From the first moment on nobody else may connect.
    const mask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        server.once('error', reject);
        server.listen(path, resolve);
        process.umask(mask);
      });
      chmodSync(path, 0o600);
    } catch (e) {
      server.close();
      throw runError(`--control ${path}: ${e instanceof Error ? e.message : String(e)}`, e);
    } finally {
      process.umask(mask);
    }
    server.removeAllListeners('error');
    server.unref();
    return new ControlServer(server, path, pc);
  }

  private serve(s: Socket): void {
    if (this.clients.size >= MAX_CLIENTS) {
      s.destroy();
      return;
    }
    this.clients.add(s);
    let rest = '';
    let busy = false;
    let ended = false;
    const answer = (a: ControlAnswer): void => {
      s.write(`${JSON.stringify(a)}\n`);
      if (s.writableLength > MAX_UNREAD) s.destroy();
    };
    const work = async (): Promise<void> => {
      if (busy) return;
      busy = true;
      // One after the other: the client is not read meanwhile.
      s.pause();
      for (;;) {
        const end = rest.indexOf('\n');
        if ((end < 0 ? rest.length : end) > MAX_LINE) {
          answer({ ok: false, code: 'CONTROL', message: `a line of more than ${MAX_LINE} characters` });
          s.end();
          s.destroySoon();
          return;
        }
        if (end < 0 || s.destroyed) break;
        const line = rest.slice(0, end).trim();
        rest = rest.slice(end + 1);
        if (line !== '') answer(await obey(this.pc, line, this.paused));
      }
      busy = false;
      s.resume();
      if (ended) s.end();
    };
    s.setEncoding('utf8');
    s.on('data', (d: string) => {
      rest += d;
      void work();
    });
    s.on('end', () => {
      ended = true;
      if (!busy) s.end();
    });
    s.on('error', () => {}); // it went away
    s.on('close', () => this.clients.delete(s));
    s.unref();
  }

  /** Closes connections once they have their answers, and removes the socket. */
  async close(): Promise<void> {
    for (const s of this.clients) s.destroySoon();
    await new Promise<void>((resolve) => {
      this.server.close(() => resolve());
      // A client that does not read its answers.
      setTimeout(() => {
        for (const s of this.clients) s.destroy();
      }, 200).unref();
    });
    try {
      unlinkSync(this.path);
    } catch {
      // Node has removed it.
    }
  }
}

/** A socket that a killed machine has left behind is removed; anything else stays. */
async function removeStale(path: string): Promise<void> {
  try {
    if (!lstatSync(path).isSocket()) throw runError(`--control ${path}: there is a file of that name`);
  } catch (e) {
    if (isHyveError(e)) throw e;
    return; // nothing there, or nothing to be seen: listening says what is wrong
  }
  const alive = await new Promise<boolean>((resolve) => {
    const s = connect(path);
    s.once('connect', () => {
      s.destroy();
      resolve(true);
    });
    s.once('error', (e: NodeJS.ErrnoException) => resolve(e.code !== 'ECONNREFUSED'));
  });
  if (alive) throw runError(`--control ${path}: another machine uses it`);
  unlinkSync(path);
}
