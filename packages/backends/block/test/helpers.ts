// What several tests need: a directory of their own, QEMU's tools, and disks over files in memory.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Logger, silentLogger } from '@hyve/core';
import { afterAll } from 'vitest';
import type { DiskImage } from '../src/image.ts';
import { createQcow2, type Qcow2Layout } from '../src/qcow2/create.ts';
import { parseHeader } from '../src/qcow2/format.ts';
import { Qcow2Image } from '../src/qcow2/image.ts';
import { MemoryFile } from './memory-file.ts';

/** A directory that goes away with the test file. */
export function scratch(): (name: string) => string {
  const dir = mkdtempSync(join(tmpdir(), 'hyve-block-'));
  afterAll(() => rmSync(dir, { recursive: true, force: true }));
  return (name) => join(dir, name);
}

/** Whether a program can be run. */
export function have(program: string): boolean {
  const r = spawnSync(program, ['--version'], { stdio: 'ignore' });
  return r.error === undefined;
}

/** Runs a program; throws with its output when it fails. */
export function run(program: string, ...args: readonly string[]): string {
  const r = spawnSync(program, args, { encoding: 'utf8' });
  if (r.error !== undefined) throw r.error;
  if (r.status !== 0) throw new Error(`${program} ${args.join(' ')}: status ${r.status}\n${r.stdout}${r.stderr}`);
  return r.stdout;
}

/** A logger that keeps what it is told. */
export function keepingLogger(): Logger & { readonly lines: string[] } {
  const lines: string[] = [];
  const keep = (m: string): void => void lines.push(m);
  return { lines, on: false, debug: keep, info: keep, warn: keep };
}

/** Opens the qcow2 image in a file in memory. */
export async function openMemory(
  file: MemoryFile,
  o: { backing?: DiskImage | null; sync?: boolean; noDelete?: boolean; sectorSize?: number; logger?: Logger } = {},
): Promise<Qcow2Image> {
  const header = parseHeader(file.path, file.image().subarray(0, 2 << 20), file.length);
  return Qcow2Image.open({
    file,
    header,
    backing: o.backing ?? null,
    sectorSize: o.sectorSize ?? 512,
    physicalSectorSize: o.sectorSize ?? 512,
    noDelete: o.noDelete ?? false,
    sync: o.sync ?? false,
    logger: o.logger ?? silentLogger,
  });
}

/** A new qcow2 image in memory. */
export async function newMemory(layout: Qcow2Layout): Promise<MemoryFile> {
  const file = new MemoryFile();
  await createQcow2(file, layout);
  return file;
}

/** `n` bytes of one value. */
export function bytes(n: number, value: number): Uint8Array {
  return new Uint8Array(n).fill(value);
}
