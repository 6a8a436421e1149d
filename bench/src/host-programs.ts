// Programs of the host as a guest's initial RAM file system: the files that they and their libraries are, and a script that
// runs and times them.
import { execFileSync } from 'node:child_process';
import { existsSync, lstatSync, readdirSync, readFileSync, readlinkSync, realpathSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { CpioWriter } from '../../apps/xhyve-cli/src/images/cpio.ts';

/** Something to run. */
export interface Load {
  readonly name: string;
  /** Programs it needs: names in /usr/bin, or what finds a path. */
  readonly needs: readonly string[];
  /** Directories whose files it needs. */
  readonly trees?: readonly string[];
  /** For bash, in a directory of its own kind under /tmp; `nums` has 150,000 numbers, `big` 30 MB of zeros. */
  readonly script: string;
}

/** Every load needs these. */
const COMMON = ['bash', 'cat', 'mkdir', 'rm', 'cp', 'mount', 'seq', 'dd', 'wc', 'head', 'ls', 'sleep'];

const PYTHON = `
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(24)
d = {}
for i in range(200000): d[i % 5003] = d.get(i % 5003, 0) + i
s = sorted(str(x) for x in range(60000))
import json, re
json.loads(json.dumps([{'a': i, 'b': [i] * 5} for i in range(5000)]))
re.findall(r'[ab]+[0-9]', 'ab1xx' * 20000)
`;
const PERL = `my %h; my $s = 0; for my $i (1..300000) { $h{$i % 7919} .= "x"; $s += length($h{$i % 7919}); }
my $t = "the quick brown fox " x 20000; my $c = 0; $c++ while $t =~ /(\\w+)o(\\w)/g;
my @a = sort { $a <=> $b } map { ($_ * 7919) % 100003 } 1..60000;
`;
const C = `#include <stdio.h>
#include <stdlib.h>
struct node { struct node *left, *right; int key; };
static struct node *insert(struct node *t, int key) {
  if (!t) { t = calloc(1, sizeof *t); t->key = key; return t; }
  if (key < t->key) t->left = insert(t->left, key); else t->right = insert(t->right, key);
  return t;
}
int main(void) {
  struct node *t = 0; unsigned x = 1;
  for (int i = 0; i < 100000; i++) { x = x * 1664525 + 1013904223; t = insert(t, x >> 8); }
  printf("%d\\n", t->key);
  return 0;
}
`;
const SQL =
  'create table t(a integer primary key, b text); with recursive c(x) as (select 1 union all select x + 1 from c where x < 30000) insert into t select x, hex(x * 7919) from c; create index i on t(b); select count(*), max(b) from t where b like "%9"; select sum(a) from t where a in (select a / 2 from t);';

/** The loads, in the order they run. */
const LOADS: readonly Load[] = [
  { name: 'bash-loop', needs: [], script: 'for ((i = 0; i < 60000; i++)); do ((x += i * i % 7)); done' },
  { name: 'bash-fork', needs: [], script: 'for i in {1..150}; do cat /proc/self/stat > /dev/null; done' },
  { name: 'python', needs: ['python'], script: 'python -S /lib/work/work.py' },
  { name: 'python-start', needs: ['python'], script: 'for i in 1 2 3; do python -c "import json, re, os"; done' },
  { name: 'perl', needs: ['perl'], script: 'perl /lib/work/work.pl' },
  { name: 'sort', needs: ['sort'], script: 'sort -r nums' },
  { name: 'awk', needs: ['awk'], script: "awk '{ s += $1 * 2; a[$1 % 100] += $1 } END { print s, length(a) }' nums" },
  { name: 'sed', needs: ['sed'], script: "sed -e 's/1\\(.\\)3/x\\1y/g' nums" },
  { name: 'grep', needs: ['grep'], script: "grep -c '9.*[13]5$' nums" },
  { name: 'gzip', needs: ['gzip'], script: 'gzip -9 < nums > nums.gz' },
  { name: 'gunzip', needs: ['gzip'], script: 'gzip -9 < nums | gzip -dc' },
  { name: 'bzip2', needs: ['bzip2'], script: 'bzip2 < nums' },
  { name: 'xz', needs: ['xz'], script: 'xz -6 < nums' },
  { name: 'zstd', needs: ['zstd'], script: 'zstd -q -9 < nums' },
  { name: 'sha256sum', needs: ['sha256sum'], script: 'sha256sum big' },
  { name: 'md5sum', needs: ['md5sum'], script: 'md5sum big' },
  { name: 'openssl-aes', needs: ['openssl'], script: 'openssl enc -aes-256-cbc -pbkdf2 -pass pass:x -in big' },
  {
    name: 'openssl-ec',
    needs: ['openssl'],
    script:
      'openssl ecparam -name prime256v1 -genkey -out key; for i in 1 2 3 4 5; do openssl dgst -sha256 -sign key nums; done',
  },
  { name: 'bc', needs: ['bc'], script: 'echo "scale = 400; 4 * a(1)" | bc -l' },
  { name: 'sqlite', needs: ['sqlite3'], script: `rm -f db; sqlite3 db '${SQL}'` },
  { name: 'gcc-O0', needs: ['cc1'], trees: ['/usr/include'], script: 'cc1 -quiet -O0 /lib/work/work.c -o out.s' },
  { name: 'gcc-O2', needs: ['cc1'], trees: ['/usr/include'], script: 'cc1 -quiet -O2 /lib/work/work.c -o out.s' },
  {
    name: 'tar',
    needs: ['tar'],
    trees: ['/usr/include/linux'],
    script: 'tar cf inc.tar -C /usr/include linux; mkdir x; tar xf inc.tar -C x; rm -r x inc.tar',
  },
  {
    name: 'git',
    needs: ['git'],
    trees: ['/usr/include/linux'],
    script:
      'git init -q r 2> /dev/null; cd r; cp -r /usr/include/linux .; git -c user.name=a -c user.email=b add .; git -c user.name=a -c user.email=b commit -qm x; git log --stat; cd ..; rm -r r',
  },
];

/** Where a program is, or null. */
function find(name: string): string | null {
  if (name === 'python') {
    const found = readdirSync('/usr/bin').filter((f) => /^python3\.\d+$/u.test(f));
    return found[0] === undefined ? null : `/usr/bin/${found[0]}`;
  }
  if (name === 'cc1') {
    try {
      const path = execFileSync('gcc', ['-print-prog-name=cc1'], { encoding: 'utf8' }).trim();
      return path.startsWith('/') ? path : null;
    } catch {
      return null;
    }
  }
  for (const path of [`/usr/bin/${name}`, `/bin/${name}`]) if (existsSync(path)) return path;
  return null;
}

/** Those whose programs are here, of `only` if that is not null, and a line for each that is left out. */
export function loads(only: readonly string[] | null): { chosen: Load[]; left: string[] } {
  const chosen: Load[] = [];
  const left: string[] = [];
  for (const l of LOADS) {
    if (only !== null && !only.includes(l.name)) continue;
    const absent = [...l.needs.filter((n) => find(n) === null), ...(l.trees ?? []).filter((t) => !existsSync(t))];
    if (absent.length === 0) chosen.push(l);
    else left.push(`${l.name}: this host has no ${absent.join(', ')}`);
  }
  for (const name of only ?? []) if (!LOADS.some((l) => l.name === name)) left.push(`${name}: no such program`);
  return { chosen, left };
}

/** Puts host files into an archive, each once, with the libraries of programs. */
class HostFiles {
  readonly cpio = new CpioWriter();
  private readonly there: Set<string> = new Set();

  /** A file as what its path leads to, under that path. */
  file(path: string): void {
    if (this.there.has(path)) return;
    this.there.add(path);
    const real = realpathSync(path);
    this.cpio.file(path.slice(1), readFileSync(real), statSync(real).mode & 0o777);
  }

  /** A program under /usr/bin, by the name that scripts call it, with its libraries. */
  program(name: string, path: string): void {
    const to = `/usr/bin/${name}`;
    if (this.there.has(to)) return;
    this.there.add(to);
    const real = realpathSync(path);
    this.cpio.file(to.slice(1), readFileSync(real), 0o755);
    let libraries = '';
    try {
      libraries = execFileSync('ldd', [real], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
    } catch {
      // Static.
    }
    for (const [library] of libraries.matchAll(/\/\S+/gu)) this.file(library);
  }

  /** All files of a directory, links as they are. */
  tree(path: string): void {
    for (const name of readdirSync(path)) {
      const at = join(path, name);
      if (this.there.has(at) || /^(?:__pycache__|dist-packages|test|tests|idlelib)$/u.test(name)) continue;
      const s = lstatSync(at);
      if (s.isDirectory()) this.tree(at);
      else if (s.isSymbolicLink()) {
        this.there.add(at);
        this.cpio.symlink(at.slice(1), readlinkSync(at));
      } else if (s.isFile()) this.file(at);
    }
  }
}

/** An initial RAM file system that runs the loads `runs` times and prints `@W name microseconds status` after each, `@D` at the end. */
export function programsArchive(chosen: readonly Load[], runs: number): Uint8Array {
  const files = new HostFiles();
  const { cpio } = files;
  cpio.charDevice('dev/console', 5, 1);
  for (const d of ['proc', 'sys', 'tmp', 'usr/bin', 'usr/lib', 'lib/work']) cpio.dir(d);
  cpio.symlink('bin', 'usr/bin');
  for (const name of new Set([...COMMON, ...chosen.flatMap((l) => l.needs)])) {
    const path = find(name);
    if (path === null) throw new Error(`this host has no ${name}`);
    files.program(name, path);
    if (name === 'python') files.tree(`/usr/lib/${path.slice(path.lastIndexOf('/') + 1)}`);
    if (name === 'cc1') files.tree(join(dirname(path), 'include'));
    if (name === 'openssl' && existsSync('/etc/ssl/openssl.cnf')) {
      cpio.dir('usr/lib/ssl');
      cpio.file('usr/lib/ssl/openssl.cnf', readFileSync('/etc/ssl/openssl.cnf'));
    }
  }
  for (const t of new Set(chosen.flatMap((l) => l.trees ?? []))) files.tree(t);
  const text = (path: string, content: string): void => cpio.file(path, content);
  text('lib/work/work.py', PYTHON);
  text('lib/work/work.pl', PERL);
  text('lib/work/work.c', C);
  chosen.forEach((l, i) => {
    text(`lib/work/${i}`, l.script);
  });
  const body = chosen.map((l, i) => `t ${l.name} ${i}`).join('\n');
  const init = `#!/bin/bash
export PATH=/usr/bin HOME=/tmp LC_ALL=C
mount -t proc p /proc; mount -t sysfs s /sys; mount -t tmpfs t /tmp; mount -t devtmpfs d /dev
exec > /dev/console 2>&1
cd /tmp
seq 1 150000 > nums
dd if=/dev/zero of=big bs=1M count=30 2> /dev/null
t() {
  local from=\${EPOCHREALTIME/./}
  bash /lib/work/$2 > out 2> err
  local status=$?
  echo "@W $1 $((\${EPOCHREALTIME/./} - from)) $status"
  [ $status = 0 ] || head -c 200 err
}
for run in ${Array.from({ length: runs }, (_, n) => n + 1).join(' ')}; do
${body}
done
echo "@D"
while :; do sleep 1000; done
`;
  cpio.file('init', init, 0o755);
  return cpio.finish();
}
