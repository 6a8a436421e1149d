// What --help prints. The option table is data: the man page and shell completions are made from it.

/** One option of the run command. */
export interface OptionHelp {
  /** As typed: `-m`, `--json`. */
  readonly option: string;
  /** Its value's shape, or empty. */
  readonly value: string;
  /** What it does, one line. */
  readonly about: string;
}

const row = (option: string, value: string, about: string): OptionHelp => ({ option, value, about });

/** Every option, in the order help prints them. */
export const OPTIONS: readonly OptionHelp[] = [
  row('-f', 'kexec,KERNEL[,INITRD[,CMDLINE]]', 'boot Linux; commas in CMDLINE are kept'),
  row('-f', 'multiboot,KERNEL[,MODULES[,CMDLINE]]', 'boot a Multiboot 1 kernel; MODULES is FILE[;TEXT][:FILE…]'),
  row('-f', 'fbsd,USERBOOT,VOLUME[,ENV]', "boot with FreeBSD's userboot (also spelled userboot)"),
  row('-f', 'bootrom,ROM[,VARS]', 'boot a ROM, the same as -l bootrom'),
  row('-f', 'NAME,string=TEXT | NAME,file=PATH', 'offer a fw_cfg file to the firmware'),
  row('-l', 'com1|com2|com3|com4[,BACKEND]', 'serial port; BACKEND: stdio, null, autopty[=FILE], tcp=PORT or a path'),
  row('-l', 'bootrom,ROM[,VARS]', 'boot a ROM image'),
  row('-l', 'fwcfg,bhyve|qemu', 'which firmware interface the guest finds'),
  row('-l', 'tpm,passthru|swtpm,PATH', 'TPM 2.0'),
  row('-l', 'pc-testdev', "kvm-unit-tests' test device"),
  row('-l', 'help', 'list LPC devices'),
  row('-s', '[BUS:]SLOT[:FUNCTION],DEVICE[,SETTINGS]', 'put a device in a PCI slot'),
  row('-s', 'help', 'list PCI devices'),
  row('-m', 'SIZE', 'memory, such as 512M or 2G; a small number is megabytes; default 256M'),
  row('-c', '[[cpus=]N][,sockets=N][,cores=N][,threads=N]', 'processors; default 1, N alone makes one package'),
  row('-A', '', 'build ACPI tables (the default; -o acpi_tables=false to do without)'),
  row('-Y', '', 'build no MP table'),
  row('-U', 'UUID', 'SMBIOS system UUID'),
  row('-u', '', 'the clock shows UTC instead of local time'),
  row('-x', '', 'local APICs start in x2APIC mode'),
  row('-a', '', 'local APICs start in xAPIC mode (the default)'),
  row('-w', '', 'unknown MSRs read 0 and ignore writes instead of raising #GP'),
  row('-e', '', 'end the machine when the guest touches an unknown I/O port'),
  row('-b', '', 'debug console at port 0x220'),
  row('-g', 'PORT', 'relay the debug port 0x224 to a TCP port'),
  row('-G', '[w][ADDRESS:]PORT', 'GDB server; w waits for it before the first instruction'),
  row('-H', '', 'HLT leaves the engine'),
  row('-P', '', 'PAUSE leaves the engine'),
  row('-W', '', 'virtio devices use MSI instead of MSI-X'),
  row('-C', '', 'guest memory belongs in a core file'),
  row('-S', '', 'keep guest memory from being swapped'),
  row('-D', '', 'destroy the machine on power-off (it always is)'),
  row('-p', 'VCPU:HOSTCPU', 'pin a vCPU to a host CPU'),
  row('-n', 'id=N,size=SIZE,cpus=LIST', 'guest NUMA domain'),
  row('-K', 'LAYOUT', 'keyboard layout for VNC'),
  row('-r', 'FILE', 'restore a snapshot'),
  row('-F', 'FILE', 'write the process id to FILE, which must not exist'),
  row('-k', 'FILE', 'read name=value settings from FILE'),
  row('-o', 'NAME=VALUE', 'set one setting; config.dump=1 prints them all'),
  row('-M', '', 'print the vmnet MAC address'),
  row('-h', '', 'this text'),
  row('-v', '', 'the version'),
  row('--engine', 'auto|soft|kvm', 'what runs the processors'),
  row('--dry-run', '', 'print the resolved machine and run nothing'),
  row('--json', '', 'print as JSON where there is something to parse'),
  row('--stats', '[=SECONDS]', 'counters on stderr at the end, and a line of rates every SECONDS'),
  row('--trace', 'FILE', 'write the instructions of guest blocks as the software CPU meets them'),
  row('--profile', 'FILE', 'write where the guest spends its time'),
  row('--symbols', 'FILE', 'names for --profile: System.map (with nokaslr) or /proc/kallsyms'),
  row('--control', 'PATH', "a socket for 'xhyve ctl': change media, resize disks, pause"),
  row('--help', '', 'this text'),
  row('--version', '', 'the version'),
];

const MAIN_INTRO = `Usage: xhyve [options] [NAME]
       xhyve pull IMAGE [--json] [--force]
       xhyve images [--json]
       xhyve disk create|info|check|convert|resize|map ...
       xhyve ctl PATH info|eject|change|resize|pause|resume|reset|powerdown|quit ...

Runs a PC guest. A Linux kernel on this terminal:
  xhyve -A -m 1G -s 0:0,hostbridge -s 31,lpc -l com1,stdio \\
        -f kexec,vmlinuz,initrd.gz,"earlyprintk=serial console=ttyS0"

Options:`;

const MAIN_OUTRO = `Exit status: 0 the guest reset, 1 it powered off, 2 it halted, 3 triple fault,
4 an error. A command line that cannot be carried out ends with 1.
SIGTERM and SIGHUP press the power button; a second one ends the process.
On a terminal Ctrl-] then x ends the guest.`;

const PULL_TEXT = `Usage: xhyve pull IMAGE [--json] [--force]

Fetches a guest into the cache and prints where its files are. An image that is
already there needs no network. --force fetches again; --json prints the manifest.
'xhyve images' lists the names.`;

const IMAGES_TEXT = `Usage: xhyve images [--json]

Lists the guests that 'xhyve pull' knows and which of them are in the cache.`;

/** The text of a help topic, without a final newline. */
export function helpText(topic: 'xhyve' | 'pull' | 'images'): string {
  if (topic === 'pull') return PULL_TEXT;
  if (topic === 'images') return IMAGES_TEXT;
  const lines = OPTIONS.map((o) => {
    const left = `  ${o.option}${o.value === '' ? '' : ` ${o.value}`}`;
    return left.length < 26 ? `${left.padEnd(26)}${o.about}` : `${left}\n${' '.repeat(26)}${o.about}`;
  });
  return `${MAIN_INTRO}\n${lines.join('\n')}\n\n${MAIN_OUTRO}`;
}
