// Files of translations: what is appended comes back, and nothing that happens to a file does harm.
import {
  appendFileSync,
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import {
  guestIdentity,
  guestWords,
  hasTranslations,
  MAX_FILE,
  MAX_FILES,
  TranslationFile,
  type TranslationPlace,
} from '../src/translations.ts';

let root: string;
let place: TranslationPlace;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'translations-'));
  place = { dir: join(root, 'kept'), guest: 'guest' };
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const open = (p = place, machine = 'machine', build = 'build'): TranslationFile =>
  TranslationFile.open(p, machine, build) as TranslationFile;
const bytes = (...v: number[]): Uint8Array => Uint8Array.from(v);

/** Its records; each is good until the next is asked for. */
const recordsOf = (f: TranslationFile): number[][] => Array.from(f.load(), (r) => [...r]);

describe('a file of translations', () => {
  it('gives back what was appended, in order, to the next process', () => {
    const f = open();
    expect([...f.load()]).toEqual([]);
    f.append(bytes(1, 2, 3));
    f.append(bytes());
    f.close();
    const g = open();
    expect(recordsOf(g)).toEqual([[1, 2, 3], []]);
    g.append(bytes(4));
    g.close();
    expect(recordsOf(open())).toEqual([[1, 2, 3], [], [4]]);
    expect(statSync(f.path).mode & 0o777).toBe(0o600);
    expect(hasTranslations(place)).toBe(true);
    expect(hasTranslations({ ...place, guest: 'other' })).toBe(false);
  });

  it('is another for another guest, machine or build', () => {
    const files = [open(), open({ ...place, guest: 'other' }), open(place, 'other'), open(place, 'machine', 'other')];
    expect(new Set(files.map((f) => f.path)).size).toBe(4);
    expect(TranslationFile.open(place, 'machine', null)).toBeNull();
  });

  it('is cut to its whole records, and goes on from there', () => {
    const f = open();
    f.append(bytes(1, 2, 3));
    f.append(bytes(4, 5, 6));
    f.close();
    truncateSync(f.path, statSync(f.path).size - 1);
    const g = open();
    expect(recordsOf(g)).toEqual([[1, 2, 3]]);
    g.append(bytes(7));
    g.close();
    expect(recordsOf(open())).toEqual([[1, 2, 3], [7]]);
    const whole = readFileSync(f.path);
    whole[9] = 0x55;
    writeFileSync(f.path, whole);
    expect(recordsOf(open())).toEqual([]);
    appendFileSync(f.path, Buffer.alloc(100, 0xff));
    expect(recordsOf(open())).toEqual([]);
  });

  it('ends at its limit, and is begun anew after that', () => {
    const f = open();
    f.append(new Uint8Array(MAX_FILE - 8 - 8));
    f.append(bytes(1));
    f.append(new Uint8Array(0));
    f.close();
    expect(statSync(f.path).size).toBe(MAX_FILE);
    const g = open();
    expect(recordsOf(g).length).toBe(2);
    g.append(bytes(2));
    g.close();
    expect(recordsOf(open())).toEqual([[2]]);
  });

  it('leaves the place to the files used last', () => {
    mkdirSync(place.dir);
    for (let i = 0; i < MAX_FILES + 3; i++) {
      const path = join(place.dir, `${i}.translations`);
      writeFileSync(path, '');
      utimesSync(path, 1000 + i, 1000 + i);
    }
    const f = open();
    f.append(bytes(1));
    f.close();
    const left = readdirSync(place.dir);
    expect(left.length).toBe(MAX_FILES);
    expect(left).not.toContain('3.translations');
    expect(left).toContain('4.translations');
  });

  it('keeps nothing where it cannot write', () => {
    writeFileSync(place.dir, 'a file, no directory');
    const f = open();
    expect([...f.load()]).toEqual([]);
    expect(() => f.append(bytes(1))).not.toThrow();
    expect(guestWords(place)).toBeNull();
  });
});

describe('what a guest is known by', () => {
  it('is its program, not its command line, and a new version is another guest', () => {
    const kernel = join(root, 'kernel');
    writeFileSync(kernel, 'a');
    const id = (cmdline: string): string => guestIdentity({ loader: 'kexec', kernel, initrd: null, cmdline }, []);
    expect(id('x')).toBe(id('y'));
    const before = id('x');
    writeFileSync(kernel, 'ab');
    expect(id('x')).not.toBe(before);
    expect(
      guestIdentity({ loader: 'kexec', kernel: join(root, 'none'), initrd: null, cmdline: null }, ['/d']),
    ).toContain('/d');
  });

  it('gives it words that are its own and the same each time, by a secret that only the user reads', () => {
    const three = (p: TranslationPlace): number[] => {
      const word = guestWords(p) as () => number;
      return [word(), word(), word()];
    };
    const words = three(place);
    expect(three(place)).toEqual(words);
    expect(new Set(words).size).toBe(3);
    expect(three({ ...place, guest: 'other' })).not.toEqual(words);
    expect(statSync(join(place.dir, 'secret')).mode & 0o777).toBe(0o600);
    rmSync(join(place.dir, 'secret'));
    expect(three(place)).not.toEqual(words);
    writeFileSync(join(place.dir, 'secret'), 'short');
    chmodSync(join(place.dir, 'secret'), 0o600);
    expect(guestWords(place)).toBeNull();
  });
});
