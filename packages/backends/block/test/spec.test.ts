// Disk strings, and the package's exports.
import { isHyveError } from '@hyve/core';
import { describe, expect, it } from 'vitest';
import * as disk from '../src/disk/index.ts';
import * as api from '../src/index.ts';
import { blockSpec, parseBlockSpec, parseSize } from '../src/index.ts';
import { parseNbdAddress } from '../src/nbd-protocol.ts';

describe('disk strings', () => {
  it('are bhyve’s', () => {
    expect(parseBlockSpec('/images/a.img')).toMatchObject({
      path: '/images/a.img',
      format: null,
      noCache: false,
      sync: false,
      readOnly: false,
      noDelete: false,
      sectorSize: null,
      physicalSectorSize: null,
      snapshot: 'off',
      lock: true,
      limits: {},
    });
    expect(parseBlockSpec('a,nocache,ro,sectorsize=512/4096,nodelete')).toMatchObject({
      noCache: true,
      readOnly: true,
      sectorSize: 512,
      physicalSectorSize: 4096,
      noDelete: true,
    });
    expect(parseBlockSpec('a,direct').sync).toBe(true);
    expect(parseBlockSpec('a,sync').sync).toBe(true);
    expect(parseBlockSpec('a,sectorsize=4096')).toMatchObject({ sectorSize: 4096, physicalSectorSize: 4096 });
  });

  it('have our options too', () => {
    expect(parseBlockSpec('a,format=qcow2,snapshot=on').snapshot).toBe('file');
    expect(parseBlockSpec('a,snapshot').snapshot).toBe('file');
    expect(parseBlockSpec('a,snapshot=memory').snapshot).toBe('memory');
    expect(parseBlockSpec('a,format=qcow').format).toBe('qcow2');
    expect(parseBlockSpec('a,bps=20M,iops-rd=500,iops-burst=50').limits).toEqual({
      bps: 20 << 20,
      iopsRead: 500,
      iopsBurst: 50,
    });
    expect(parseBlockSpec('nbds://h/x,tls-ca=ca.pem,reconnect=5')).toMatchObject({
      reconnectSeconds: 5,
      tls: { ca: 'ca.pem', cert: null },
    });
    const s = parseBlockSpec('a,ser=ABC,model=X', { extras: ['ser', 'model', 'nmrr'] });
    expect([...s.extras]).toEqual([
      ['ser', 'ABC'],
      ['model', 'X'],
    ]);
  });

  it('come from a configuration tree as well', () => {
    const s = blockSpec('pci.0.4.0', '/a', [
      ['ro', 'true'],
      ['nocache', 'false'],
      ['sectorsize', '512'],
    ]);
    expect(s).toMatchObject({ path: '/a', readOnly: true, noCache: false, sectorSize: 512 });
  });

  it('that are wrong are refused with the part that is', () => {
    for (const [text, why] of [
      ['', /path.*empty/],
      [',ro', /path.*empty/],
      ['a,', /empty option/],
      ['a,rw', /"rw"/],
      ['a,ser=1', /"ser"/],
      ['a,ro=maybe', /flag/],
      ['a,sectorsize', /sectorsize needs/],
      ['a,sectorsize=520', /520/],
      ['a,sectorsize=1024', /1024/],
      ['a,sectorsize=4096/512', /512/],
      ['a,sectorsize=512/1000', /1000/],
      ['a,sectorsize=x', /L\/P/],
      ['a,format=vmdk', /vmdk/],
      ['a,snapshot=maybe', /maybe/],
      ['a,bps=fast', /fast/],
      ['a,iops=0', /iops=0/],
      ['a,direct,sync', /same/],
      ['a,lock=maybe', /maybe/],
      ['ram:0', /ram/],
      ['ram:1000', /sectors/],
      ['nbds://h/x,tls-cert=c', /together/],
      ['a,reconnect=never', /never/],
    ] as const) {
      try {
        parseBlockSpec(text);
        expect.fail(`"${text}" was accepted`);
      } catch (e) {
        expect(isHyveError(e, 'BLOCK_SPEC')).toBe(true);
        expect((e as Error).message).toMatch(why);
      }
    }
  });

  it('sizes', () => {
    expect(['64M', '1.5g', '4096', '1KiB', '2TB', '0'].map(parseSize)).toEqual([
      64 << 20,
      1.5 * 2 ** 30,
      4096,
      1024,
      2 ** 41,
      0,
    ]);
    expect(['', 'x', '-1', '1.3', '9999999P', '1 M M'].map(parseSize)).toEqual(Array(6).fill(null));
  });

  it('NBD addresses', () => {
    expect(parseNbdAddress('nbd://host/my%20disk')).toEqual({
      tls: false,
      socket: null,
      host: 'host',
      port: 10809,
      exportName: 'my disk',
    });
    expect(parseNbdAddress('nbds://[::1]:99')).toMatchObject({ tls: true, host: '::1', port: 99, exportName: '' });
    expect(parseNbdAddress('nbd+unix:///x?socket=/tmp/s')).toMatchObject({ socket: '/tmp/s', exportName: 'x' });
    for (const bad of [
      'nbd://',
      'nbd+unix:///x',
      'nbd://h/x?socket=/s',
      'nbd://h:99999/',
      'nbd://h/%ff',
      `nbd://h/${'x'.repeat(5000)}`,
    ])
      expect(() => parseNbdAddress(bad)).toThrow();
  });
});

describe('exports', () => {
  it('are these', () => {
    expect(Object.keys(api).sort()).toEqual([
      'OverlayDisk',
      'RamDisk',
      'ReadHelper',
      'ThrottledDisk',
      'blockSpec',
      'openBlock',
      'parseBlockSpec',
      'parseSize',
    ]);
    expect(Object.keys(disk).sort()).toEqual([
      'DISK_HELP',
      'checkDisk',
      'checkJson',
      'convertDisk',
      'createDisk',
      'diskChainInfo',
      'diskCommand',
      'diskInfo',
      'infoJson',
      'mapDisk',
      'mapJson',
      'resizeDisk',
    ]);
  });
});
