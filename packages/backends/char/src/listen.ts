// A console that a client connects to over TCP or a UNIX socket, one at a time. Mirrors bhyve's tcp= back end.
import { lstatSync, unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import { HyveError } from '@hyve/core';
import type { Inbox, Input, Output } from './channel.ts';
import { errorCode, SocketOutput } from './outputs.ts';

/** @internal Both halves of a listening console. */
export class Listener implements Input, Output {
  onDrain: (() => void) | null = null;
  private readonly server: Server;
  private readonly inbox: Inbox;
  private client: { readonly socket: Socket; readonly output: SocketOutput } | null = null;
  private paused = false;
  private refused = false;
  private closing: Promise<void> | null = null;

  constructor(server: Server, inbox: Inbox) {
    this.server = server;
    this.inbox = inbox;
    server.on('connection', (socket) => this.accept(socket));
  }

  private accept(socket: Socket): void {
    if (this.client !== null || this.closing !== null) {
      socket.on('error', () => {});
      socket.end('console busy: another client is connected\r\n');
      socket.resume();
      return;
    }
    socket.setNoDelay(true);
    const output = new SocketOutput(socket);
    this.client = { socket, output };
    output.onDrain = () => this.drain();
    socket.on('data', (chunk) => this.inbox.push(Uint8Array.from(chunk as Uint8Array)));
    socket.on('close', () => {
      this.client = null;
      this.drain(); // without a client nothing stands in the guest's way
    });
    if (this.paused) socket.pause();
  }

  private drain(): void {
    if (!this.refused) return;
    this.refused = false;
    this.onDrain?.();
  }

  /** Output while nobody is connected is dropped. */
  write(bytes: Uint8Array): boolean {
    if (this.client === null) return true;
    this.refused = !this.client.output.write(bytes);
    return !this.refused;
  }

  setPaused(paused: boolean): void {
    this.paused = paused;
    if (paused) this.client?.socket.pause();
    else this.client?.socket.resume();
  }

  close(): Promise<void> {
    if (this.closing === null) this.closing = this.shutDown();
    return this.closing;
  }

  private async shutDown(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    if (this.client !== null) await this.client.output.close();
    await closed;
  }
}

/** @internal Listens on TCP. @throws HyveError `CHAR_LISTEN` */
export async function listenTcp(host: string, port: number, inbox: Inbox): Promise<Listener> {
  const server = createServer();
  await listening(server, () => server.listen({ host, port }), `tcp ${host}, port ${port}`);
  return new Listener(server, inbox);
}

/** @internal Listens on a UNIX socket; a stale one of a process that is gone is replaced. @throws HyveError `CHAR_LISTEN` */
export async function listenUnix(path: string, inbox: Inbox): Promise<Listener> {
  await removeStale(path);
  const server = createServer();
  await listening(server, () => server.listen({ path }), `unix socket ${path}`);
  return new Listener(server, inbox);
}

function listening(server: Server, start: () => void, what: string): Promise<void> {
  return new Promise((resolve, reject) => {
    const failed = (e: Error): void => {
      reject(new HyveError('CHAR_LISTEN', `cannot listen on ${what}: ${errorCode(e) || e.message}`, e));
    };
    server.once('error', failed);
    server.once('listening', () => {
      server.removeListener('error', failed);
      server.on('error', () => {}); // accept errors (out of descriptors) leave the console as it is
      resolve();
    });
    start();
  });
}

async function removeStale(path: string): Promise<void> {
  try {
    if (!lstatSync(path).isSocket()) return; // listen() reports it
  } catch {
    return;
  }
  const alive = await new Promise<boolean>((resolve) => {
    const probe = createConnection({ path });
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (e) => resolve(errorCode(e) !== 'ECONNREFUSED'));
  });
  if (!alive) unlinkSync(path);
}
