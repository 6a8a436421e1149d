// Real guests on KVM: Debian with one processor and with four, its disks, timers and power switch; SeaBIOS.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pullImage } from 'xhyve/images';

const PROGRAM = join(import.meta.dirname, '../../../apps/xhyve-cli/bin/xhyve.js');
const BIOS = '/usr/share/seabios/bios.bin';

/** What became of one guest. */
export interface Report {
  /** What was tried. */
  readonly name: string;
  /** Whether all of it came out as expected. */
  readonly ok: boolean;
  /** Time to the last thing expected, s. */
  readonly seconds: number;
  /** What the guest said of itself, or why it failed; one line. */
  readonly detail: string;
}

/** Screen text and what to type when it appears. */
type Step = readonly [wait: RegExp, type: string];

/** Runs the program through steps. The last step's groups are the detail. */
function drive(name: string, args: readonly string[], steps: readonly Step[], limitS: number): Promise<Report> {
  const start = performance.now();
  const child = spawn(process.execPath, [PROGRAM, ...args], { stdio: 'pipe' });
  child.stdin.on('error', () => {});
  return new Promise((resolve) => {
    let text = '';
    let errors = '';
    let at = 0;
    let step = 0;
    const found: string[] = [];
    const timer = setTimeout(() => child.kill('SIGKILL'), limitS * 1000);
    const look = (): void => {
      for (; step < steps.length; step++) {
        const [wait, type] = steps[step] as Step;
        const m = wait.exec(text.slice(at));
        if (m === null) return;
        at += m.index + m[0].length;
        found.push(...m.slice(1));
        child.stdin.write(type);
      }
      // The last step's answer may be the end of the program, which then ends by itself.
      if ((steps.at(-1) as Step)[1] === '') child.kill('SIGKILL');
    };
    child.stdout.setEncoding('latin1').on('data', (s: string) => {
      text += s;
      look();
    });
    child.stderr.setEncoding('latin1').on('data', (s: string) => {
      errors += s;
    });
    child.on('close', (code, signal) => {
      clearTimeout(timer);
      const seconds = (performance.now() - start) / 1000;
      const ok = step === steps.length;
      const said = errors.trim().split('\n').at(-1) ?? '';
      const last =
        text
          .trimEnd()
          .split(/[\r\n]+/)
          .at(-1) ?? '';
      const why = `${said === '' ? `no ${(steps[step] as Step | undefined)?.[0]}; last line: ${last}` : said} (${signal ?? `exit ${code}`})`;
      resolve({ name, ok, seconds, detail: ok ? found.join(', ') : why });
    });
  });
}

const PROMPT = /(?:~|\/\S*) # (?:\u001b\[6n)?$/u;

/** Every guest, in turn. `limitS` bounds each. */
export async function guests(limitS: number, told: (r: Report) => void): Promise<Report[]> {
  const reports: Report[] = [];
  const add = (r: Report): void => {
    reports.push(r);
    told(r);
  };
  const folder = mkdtempSync(join(tmpdir(), 'hyve-kvm-'));
  try {
    for (const irqchip of ['none', 'split', 'all']) {
      const name = `SeaBIOS, irqchip ${irqchip}`;
      if (!existsSync(BIOS)) {
        add({ name, ok: false, seconds: 0, detail: `not run: no ${BIOS}` });
        continue;
      }
      const port = join(folder, 'sercon');
      writeFileSync(port, Uint8Array.of(0xf8, 0x03, 0, 0, 0, 0, 0, 0));
      const words = `--engine kvm -o kvm.irqchip=${irqchip} -m 64M -o lpc.fwcfg=qemu -f etc/sercon-port,file=${port} -s 0,hostbridge -s 31,lpc -l com1,stdio -l bootrom,${BIOS}`;
      add(
        await drive(
          name,
          words.split(' '),
          [
            [/SeaBIOS \((version [^)]*)\)/, ''],
            [/No bootable device\./, ''],
          ],
          Math.max(limitS, 120),
        ),
      );
    }
    let image: Awaited<ReturnType<typeof pullImage>>;
    try {
      image = await pullImage('debian-cloud');
    } catch (e) {
      add({ name: 'Debian', ok: false, seconds: 0, detail: `not run: ${e instanceof Error ? e.message : String(e)}` });
      return reports;
    }
    const disk = join(folder, 'disk.img');
    writeFileSync(disk, new Uint8Array(8 << 20).fill(0x5a));
    for (const [cpus, irqchip, paravirtual] of [
      [1, 'none', 'none'],
      [1, 'split', 'none'],
      [1, 'split', 'kvm'],
      [1, 'all', 'none'],
      [4, 'split', 'none'],
      [4, 'all', 'none'],
      [4, 'none', 'none'],
    ] as const) {
      const name = `Debian, -c ${cpus}, irqchip ${irqchip}${paravirtual === 'none' ? '' : ', kvmclock'}`;
      const args = [
        ...['--engine', 'kvm', '-o', `kvm.irqchip=${irqchip}`, '-o', `kvm.paravirt=${paravirtual}`],
        ...['-A', '-u', '-m', image.manifest.memory, '-c', String(cpus)],
        ...[
          '-s',
          '0:0,hostbridge',
          '-s',
          `2,virtio-blk,${disk}`,
          '-s',
          '3,virtio-rnd',
          '-s',
          '31,lpc',
          '-l',
          'com1,stdio',
        ],
        ...['-f', `kexec,${image.paths.kernel},${image.paths.initrd ?? ''},${image.manifest.cmdline ?? ''}`],
      ];
      add(
        await drive(
          name,
          args,
          [
            [
              PROMPT,
              'echo cpus=$(grep -c ^processor /proc/cpuinfo) clock=$(cat /sys/devices/system/clocksource/*/current_clocksource)\r',
            ],
            [/(cpus=\d+ clock=\w+)/, 'time sleep 1\r'],
            [/real\s+(0m 1\.0\ds|0m1\.0\d+s)/, 'dd if=/dev/vda bs=64k 2>/dev/null | md5sum\r'],
            [
              /([0-9a-f]{32})/,
              'for i in 1 2 3 4 5 6 7 8; do (i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done) & done; wait; echo all=done\r',
            ],
            [/\n(all=done)/, 'poweroff -f\r'],
          ],
          limitS,
        ),
      );
    }
    return reports;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
