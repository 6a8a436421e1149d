import { isHyveError } from '@hyve/core';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { parseArgs, parseSlotPlace } from '../src/args.ts';
import { PCI_EMULATIONS } from '../src/devices.ts';
import { resolveMachine } from '../src/machine.ts';
import { EVERYTHING, parse, parseRun, words } from './helpers.ts';

const spec = (line: string, files: Record<string, string> = {}) => resolveMachine(parseRun(line, files), EVERYTHING);
const K = '-f kexec,vmlinuz';

describe('real command lines', () => {
  it("takes xhyve's own Linux script", () => {
    const s = spec(
      `-A -m 1G -s 0:0,hostbridge -s 31,lpc -l com1,stdio -f kexec,vmlinuz,initrd.gz,"earlyprintk=serial console=ttyS0"`,
    );
    expect(s.memoryBytes).toBe(2 ** 30);
    expect(s.tables.acpi).toBe(true);
    expect(s.pci.map((p) => [p.bus, p.slot, p.func, p.device])).toEqual([
      [0, 0, 0, 'hostbridge'],
      [0, 31, 0, 'lpc'],
    ]);
    expect(s.lpc).toEqual([{ device: 'com1', backend: 'stdio' }]);
    expect(s.boot).toEqual({
      loader: 'kexec',
      kernel: 'vmlinuz',
      initrd: 'initrd.gz',
      cmdline: 'earlyprintk=serial console=ttyS0',
    });
    expect(s.cpus).toEqual({ count: 1, sockets: 1, cores: 1, threads: 1 });
    expect(s.name).toBe('vm');
  });

  it("takes xhyve's FreeBSD script", () => {
    const s = spec(
      '-A -m 1G -c 2 -s 2:0,virtio-net -s 0:0,hostbridge -s 31,lpc -l com1,stdio -s 4:0,virtio-blk,FreeBSD.raw ' +
        '-U 4D2F6A2E-0000-4000-8000-0123456789AB -f fbsd,test/userboot.so,FreeBSD.raw,""',
    );
    expect(s.boot).toEqual({ loader: 'userboot', library: 'test/userboot.so', volume: 'FreeBSD.raw', env: null });
    expect(s.uuid).toBe('4d2f6a2e-0000-4000-8000-0123456789ab');
    expect(s.pci[2]).toEqual({
      bus: 0,
      slot: 4,
      func: 0,
      device: 'virtio-blk',
      options: { path: 'FreeBSD.raw' },
      conf: 'FreeBSD.raw',
    });
  });

  it('takes the UEFI line of bhyve(8)', () => {
    const s = spec(
      '-c 2 -m 4G -w -H -s 0,hostbridge -s 3,ahci-cd,/path/to/uefi-OS-install.iso -s 4,ahci-hd,disk.img ' +
        '-s 5,virtio-net,tap0 -s 29,fbuf,tcp=0.0.0.0:5900,w=800,h=600,wait -s 30,xhci,tablet -s 31,lpc ' +
        '-l com1,stdio -l bootrom,/usr/local/share/uefi-firmware/BHYVE_UEFI.fd uefivm',
    );
    expect(s.name).toBe('uefivm');
    expect(s.strictMsr).toBe(false);
    expect(s.hltExit).toBe(true);
    expect(s.boot).toEqual({
      loader: 'bootrom',
      code: '/usr/local/share/uefi-firmware/BHYVE_UEFI.fd',
      vars: null,
    });
    const by = (slot: number) => s.pci.find((p) => p.slot === slot)?.options;
    expect(by(29)).toEqual({ tcp: '0.0.0.0:5900', w: '800', h: '600', wait: 'true' });
    expect(by(30)).toEqual({ 'slot.1.device': 'tablet' });
    expect(by(5)).toEqual({ backend: 'tap0' });
  });

  it('takes the multi-port AHCI line of bhyve(8)', () => {
    const s = spec(
      `-s 0:0,hostbridge -s 1:0,lpc -s 2:0,virtio-net,tap0 -s 3:0,ahci,hd:/images/disk.1,hd:/images/disk.2,ser=AB,ro -l com1,stdio -A -H -P -m 8G ${K} vm1`,
    );
    expect(s.pci[3]?.options).toEqual({
      'port.0.type': 'hd',
      'port.0.path': '/images/disk.1',
      'port.1.type': 'hd',
      'port.1.path': '/images/disk.2',
      'port.1.ser': 'AB',
      'port.1.ro': 'true',
    });
    expect(s.pauseExit).toBe(true);
  });

  it("takes HyperKit's and linuxkit's forms", () => {
    expect(spec('-A -u -l bootrom,UEFI.fd,VARS.fd').boot).toEqual({
      loader: 'bootrom',
      code: 'UEFI.fd',
      vars: 'VARS.fd',
    });
    expect(spec('-f bootrom,UEFI.fd,,').boot).toEqual({ loader: 'bootrom', code: 'UEFI.fd', vars: null });
    expect(spec('-f multiboot,kernel.elf,a.mod;one=1:b.mod,top,level').boot).toEqual({
      loader: 'multiboot',
      kernel: 'kernel.elf',
      modules: [
        { path: 'a.mod', cmdline: 'one=1' },
        { path: 'b.mod', cmdline: '' },
      ],
      cmdline: 'top,level',
    });
    const s = spec(`-s 31,lpc -l com1,autopty=tty,log=console-ring -s 7,virtio-9p,path=sock,tag=db ${K}`);
    expect(s.lpc).toEqual([{ device: 'com1', backend: 'autopty=tty,log=console-ring' }]);
    expect(s.pci[0]?.options).toEqual({ path: 'sock', tag: 'db' });
  });

  it('reads the -f kexec fields: trailing ones optional, the last keeps commas', () => {
    const boot = (f: string) => spec(`-f ${f}`).boot;
    const kexec = (kernel: string, initrd: string | null, cmdline: string | null) => ({
      loader: 'kexec',
      kernel,
      initrd,
      cmdline,
    });
    expect(boot('kexec,K')).toEqual(kexec('K', null, null));
    expect(boot('kexec,K,')).toEqual(kexec('K', null, null));
    expect(boot('kexec,K,,')).toEqual(kexec('K', null, null));
    expect(boot('kexec,K,,quiet')).toEqual(kexec('K', null, 'quiet'));
    expect(boot('kexec,K,I,a,b=c,d')).toEqual(kexec('K', 'I', 'a,b=c,d'));
    expect(boot('kexec,K,I,rate=100%(x)%%')).toEqual(kexec('K', 'I', 'rate=100%(x)%%'));
    expect(spec('-f kexec,A,B,C -f kexec,D').boot).toEqual(kexec('D', null, null));
  });

  it('tells fw_cfg items from boot loaders', () => {
    const s = spec(`${K} -f opt/a,string=x,y=z -f name=opt/b,file=/etc/f`);
    expect(s.fwcfg.items).toEqual([
      { name: 'opt/a', source: 'string', data: 'x,y=z' },
      { name: 'opt/b', source: 'file', data: '/etc/f' },
    ]);
  });

  it('groups flags and attaches values as getopt does', () => {
    const s = spec(`-Aw -m1G -c4 -uHPxeWYb -s31,lpc -lcom1,null -fkexec,k`);
    expect(s.strictMsr).toBe(false);
    expect(s.memoryBytes).toBe(2 ** 30);
    expect(s.cpus.count).toBe(4);
    expect(s.clock.rtc).toBe('utc');
    expect(s.x2apic && s.strictIo && s.virtioMsi && s.bvmcons && s.hltExit && s.pauseExit).toBe(true);
    expect(s.tables.mptable).toBe(false);
    expect(spec(`-Ym 512 ${K}`).memoryBytes).toBe(512 * 2 ** 20); // -Y takes no argument
    expect(spec(`-xa ${K}`).x2apic).toBe(false);
    expect(spec(`${K} -- -vm`).name).toBe('-vm');
  });
});

describe('-m (strtoul base 0, then expand_number)', () => {
  it.each([
    ['256', 256 * 2 ** 20],
    ['0x100', 256 * 2 ** 20],
    ['0400', 256 * 2 ** 20],
    ['1048576', 2 ** 20],
    ['268435456', 2 ** 28],
    ['1G', 2 ** 30],
    ['1g', 2 ** 30],
    ['1GB', 2 ** 30],
    ['0x10M', 2 ** 24],
    ['1048576b', 2 ** 20],
    ['2t', 2 ** 41],
    ['1049000', 1049000 - (1049000 % 4096)],
  ])('%s', (text, bytes) => {
    expect(spec(`-m ${text} ${K}`).memoryBytes).toBe(bytes);
  });
  it('defaults to 256 MiB', () => expect(spec(K).memoryBytes).toBe(2 ** 28));
});

describe('-c', () => {
  it.each([
    ['4', [4, 1, 4, 1]],
    ['cpus=4', [4, 1, 4, 1]],
    ['8,sockets=2,cores=2,threads=2', [8, 2, 2, 2]],
    ['sockets=2,cores=3', [6, 2, 3, 1]],
    ['threads=2', [2, 1, 1, 2]],
    ['cores=4,cpus=4', [4, 1, 4, 1]],
    ['0x4', [4, 1, 4, 1]],
  ])('%s', (text, [count, sockets, cores, threads]) => {
    expect(spec(`-c ${text} ${K}`).cpus).toEqual({ count, sockets, cores, threads });
  });
  it('takes an empty value for one CPU', () => {
    const i = parseArgs(['-c', '', '-f', 'kexec,k'], { readText: () => '' });
    expect(i.kind === 'run' && resolveMachine(i, EVERYTHING).cpus.count).toBe(1);
  });
});

describe('-s slots', () => {
  it.each([
    ['3', [0, 3, 0]],
    ['3:1', [0, 3, 1]],
    ['1:3:7', [1, 3, 7]],
    ['255:31:7', [255, 31, 7]],
  ] as const)('%s', (text, place) => expect(parseSlotPlace(text, '-s')).toEqual(place));
  it('knows every device of the table', () => {
    for (const e of PCI_EMULATIONS) {
      const s = spec(`-s 5,${e.name} ${K}`);
      expect(s.pci[0]?.device).toBe(e.name);
    }
  });
  it('keeps a path with an equals sign in it', () => {
    expect(spec(`-s 4,virtio-blk,/d/a=b.img,ro ${K}`).pci[0]?.options).toEqual({ path: '/d/a=b.img', ro: 'true' });
  });
});

describe('configuration tree', () => {
  it('reads -k files and -o in the order given, with %(var) references', () => {
    const files = {
      'vm.conf':
        '# a machine\nname=web\ncpus=2\nmemory.size=1G\n\npci.0.0.0.device=hostbridge\npci.0.3.0.device=virtio-blk\npci.0.3.0.path=/disks/%(name).img\npci.0.31.0.device=lpc\nlpc.com1.path=stdio\nboot.loader=kexec\nboot.kernel=/k/%(name)/100%%\nx86.strictmsr=off\nunknown.thing=1\n',
    };
    const s = spec('-k vm.conf -o memory.size=2G -o name=db -o system.serial_number=42 -G w[::1]:1234', files);
    expect(s.name).toBe('db');
    expect(s.memoryBytes).toBe(2 ** 31);
    expect(s.pci[1]?.options).toEqual({ path: '/disks/db.img' });
    expect(s.pci[1]?.conf).toBeNull();
    expect(s.boot).toMatchObject({ kernel: '/k/db/100%' });
    expect(s.strictMsr).toBe(false);
    expect(s.tables.smbiosStrings).toEqual({ 'system.serial_number': '42' });
    expect(s.gdb).toEqual({ address: '::1', port: 1234, wait: true });
    expect(spec('-o memory.size=2G -k vm.conf', files).memoryBytes).toBe(2 ** 30);
  });
  it('has virtual time', () => {
    expect(spec(`-o clock=virtual ${K}`).clock).toEqual({
      rtc: 'utc',
      mode: 'virtual',
      startSeconds: 946_684_800,
      instructionsPerSecond: 1e9,
    });
    expect(spec(K).clock).toMatchObject({ rtc: 'local', mode: 'real', startSeconds: null });
  });
  it('survives JSON', () => {
    const s = spec(`-s 31,lpc -l com1,stdio -l tpm,swtpm,/run/s ${K},i,c -n id=0,size=128M,cpus=0 -g 5555 -F p`);
    expect(JSON.parse(JSON.stringify(s))).toEqual(s);
  });
});

describe('other answers', () => {
  it.each([
    ['-h', { kind: 'help', topic: 'xhyve' }],
    ['--help', { kind: 'help', topic: 'xhyve' }],
    ['pull -h', { kind: 'help', topic: 'pull' }],
    ['-v', { kind: 'version', json: false }],
    ['--version --json', { kind: 'version', json: true }],
    ['-s help', { kind: 'list', what: 'pci', json: false }],
    ['-l help --json', { kind: 'list', what: 'lpc', json: true }],
    ['pull debian-cloud --json', { kind: 'pull', name: 'debian-cloud', json: true, force: false }],
    ['images', { kind: 'images', json: false }],
  ])('%s', (line, answer) => expect(parse(line)).toEqual(answer));
});

describe('bad input gives one line that names the option and the value', () => {
  it.each([
    ['-z', "unknown option '-z'"],
    ['--frobnicate', "unknown option '--frobnicate'"],
    ['--json=1', '--json takes no value'],
    ['-m', '-m needs a value'],
    [`-m 0 ${K}`, '-m 0: 0 bytes is too little'],
    [`-m 1K ${K}`, '-m 1K: 1 KiB is too little'],
    [`-m 1.5G ${K}`, '-m 1.5G: not a memory size'],
    [`-m -5 ${K}`, '-m -5: not a memory size'],
    [`-m 99999E ${K}`, '-m 99999E: not a memory size'],
    [`-c 0 ${K}`, '-c 0: cpus must be 1 to 64'],
    [`-c 1000 ${K}`, '-c 1000: cpus must be 1 to 64'],
    [`-c four ${K}`, "-c four: 'four' is not a number"],
    [`-c nodes=2 ${K}`, "'nodes' is none of"],
    [`-c 4,sockets=3 ${K}`, '3 socket(s) of 1 core(s) of 1 thread(s) are 3 CPUs, not 4'],
    [`-c sockets=9,cores=9 ${K}`, '81 CPUs; at most 64'],
    [`-s 3,dummy -s 0:3:0,uart ${K}`, "slot 0:3:0 is already taken by 'dummy'"],
    [`-s 32,dummy ${K}`, 'slot 32 is outside 0 to 31'],
    [`-s 3:8,dummy ${K}`, 'function 8 is outside 0 to 7'],
    [`-s 256:3:0,dummy ${K}`, 'bus 256 is outside 0 to 255'],
    [`-s x,dummy ${K}`, "'x' is not BUS:SLOT:FUNCTION"],
    [`-s 3 ${K}`, '-s 3: no device'],
    [`-s 3, ${K}`, "unknown device ''"],
    [`-s 3,floppy ${K}`, "-s 3,floppy: unknown device 'floppy'"],
    [`-s 31,lpc -s 30,lpc ${K}`, 'there is an LPC bridge at 0:30:0 already'],
    [`-s 1:0:0,lpc ${K}`, 'must be on bus 0'],
    [`-l com1,stdio ${K}`, '-l com1: it needs the LPC bridge; add -s 31,lpc'],
    [`-s 31,lpc -l com9,stdio ${K}`, "unknown LPC device 'com9'"],
    [`-s 31,lpc -l com1,stdio -l com2,stdio ${K}`, 'com1 has the terminal already'],
    ['-m 1G', 'nothing to boot'],
    ['-f kexec', 'no kernel'],
    ['-f kexec,,i,c', 'no kernel'],
    ['-f fbsd,lib.so', 'no boot volume'],
    ['-f linux,vmlinuz', "'linux' is no boot loader"],
    ['-f opt/a,string', "'opt/a' is no boot loader"],
    [`${K} -l bootrom,rom.fd`, 'both -f kexec and a boot ROM'],
    ['-l bootrom', 'no ROM file'],
    [`-l fwcfg,xen ${K}`, "the interface is 'bhyve' or 'qemu'"],
    [`-U 1234 ${K}`, '-U 1234: not a UUID'],
    [`-g 0 ${K}`, "-g 0: '0' is no TCP port"],
    [`-G localhost:http ${K}`, "'http' is no TCP port"],
    [`-p 0 ${K}`, '-p 0: not VCPU:HOSTCPU'],
    [`-n size=1G ${K}`, 'needs a domain id'],
    [`-o memory.size ${K}`, '-o memory.size: not name=value'],
    [`-o x86.strictio=maybe ${K}`, "x86.strictio: 'maybe' is neither true nor false"],
    [`-o clock=sundial ${K}`, "clock: 'sundial' is none of real, virtual"],
    [`-o name=%(nobody) ${K}`, "'%(nobody)' names no configuration variable"],
    [`-o a=%(b) -o b=%(a) -o name=%(a) ${K}`, 'references go deeper than 32 levels'],
    [`-o pci.0.3.0.path=x ${K}`, 'there is no pci.0.3.0.device'],
    [`-o name.first=x ${K} vm`, "'name' already has settings below it"],
    ['-k nowhere.conf', '-k nowhere.conf: no such file'],
    [`--engine qemu ${K}`, '--engine qemu: no such engine'],
    [`${K} a b`, "one machine name at most, got 'a' and 'b'"],
    [`${K} vm -m 1G`, "option '-m' comes after the machine's name 'vm'"],
    ['pull', 'name an image'],
    ['pull a b', 'one image at a time'],
    ['images -x', "'-x' is not understood"],
  ])('%s', (line, message) => {
    let error: unknown;
    try {
      spec(line);
    } catch (e) {
      error = e;
    }
    expect(isHyveError(error, 'CLI_USAGE'), String(error)).toBe(true);
    expect((error as Error).message).toContain(message);
    expect((error as Error).message).not.toContain('\n');
  });
  it('names the line of a bad -k file', () => {
    expect(() => spec('-k f', { f: 'a=1\nnonsense\n' })).toThrow("-k f: line 2: 'nonsense' is not name=value");
  });
});

describe('what is not built yet', () => {
  const few = {
    pci: ['hostbridge', 'lpc'],
    lpc: ['com1'],
    boot: ['kexec' as const],
    engines: ['soft' as const],
    features: [],
  };
  it.each([
    [`-s 4,virtio-blk,d ${K}`, "-s 0:4:0: the device 'virtio-blk' is not built yet"],
    [`-s 31,lpc -l com2,null ${K}`, "-l com2: the LPC device 'com2' is not built yet"],
    ['-l bootrom,r', 'booting a ROM (-l bootrom) is not built yet'],
    ['-f multiboot,k', 'booting Multiboot kernels (-f multiboot) is not built yet'],
    [`-G 1234 ${K}`, 'the GDB server (-G) is not built yet'],
    [`-r state ${K}`, 'restoring a snapshot (-r) is not built yet'],
    [`-M ${K}`, 'printing the vmnet MAC address (-M) is not built yet'],
    [`-p 0:1 ${K}`, 'pinning vCPUs to host CPUs (-p) is not built yet'],
    [`--engine kvm ${K}`, '--engine kvm is not built yet'],
  ])('%s', (line, message) => {
    let error: unknown;
    try {
      resolveMachine(parseRun(line), few);
    } catch (e) {
      error = e;
    }
    expect(isHyveError(error, 'CLI_NOT_BUILT')).toBe(true);
    expect((error as Error).message).toBe(message);
  });
});

describe('any argv', () => {
  const piece = fc.oneof(
    fc.constantFrom(
      ...words(
        '-A -b -c -C -e -f -F -g -h -H -l -m -M -p -P -s -S -u -U -v -w -W -x -Y -a -D -G -k -K -n -o -r --json --dry-run --engine --stats --stats=1 --trace --profile=p --symbols -- - help 0 1 4 1G 64K -1 0x10 1e9 com1 com1,stdio com1,tcp=:1 31,lpc 0,hostbridge 3,virtio-blk,a,b=c 4,ahci,hd:x,ro 5,passthru,1/2/3 kexec,k,i,c kexec multiboot,k,m;a:b fbsd,a,b bootrom,r x,string=y pci.0.3.0.path=x pci.0.3.0=x name=%(name) cpus=%(x) a.b=c a=b cpus=2,sockets=2 id=0,cpus=0-3 0,1,2 tpm,swtpm,s fwcfg,qemu w:99999 [::1]:1 pull images',
      ),
    ),
    fc.string({ maxLength: 12 }),
  );
  it('gives a machine or one clear refusal, never anything else', () => {
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (argv) => {
        try {
          const i = parseArgs(argv, { readText: (p) => `${p}=1\n` });
          if (i.kind === 'run') JSON.stringify(resolveMachine(i, EVERYTHING));
        } catch (e) {
          if (!isHyveError(e, 'CLI_USAGE') && !isHyveError(e, 'CLI_NOT_BUILT')) throw e;
          expect((e as Error).message.length).toBeGreaterThan(5);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
