// The manual page (mdoc(7)) and the shell completions, made from the table that --help prints.
import { LPC_EMULATIONS, PCI_EMULATIONS } from './devices.ts';
import { OPTIONS, type OptionHelp } from './help.ts';

/** Settings of `-o` that are not bhyve's own, for the manual. */
const SETTINGS: readonly (readonly [string, string])[] = [
  ['clock=real|virtual', 'virtual takes all guest time from retired instructions: equal input, equal run'],
  ['clock_ips=N', 'instructions that make one virtual second'],
  ['rtc.start=SECONDS', 'where the clock of the machine starts, in seconds since 1970'],
  ['boot.decompress=host|guest', 'who unpacks a Linux kernel; the host leaves to the guest what it does not know'],
  ['kernel_cache=on|off', 'whether the unpacked kernel is kept on disk for the next start'],
  ['translator=on|off|N', 'whether, and after how many runs, the software CPU translates a block'],
  ['translation_cache=on|off', "whether translations are kept on disk for the guest's next start"],
  ['vcpu_threads=auto|on|off', 'whether the software CPU runs each processor on a thread of its own'],
  ['config.dump=1', 'print all settings and run nothing'],
];

/** Text with what roff takes for itself made plain. */
function roff(text: string): string {
  // mandoc wants a macro for the system's name, which has no place inside a sentence of the table.
  const plain = text.replaceAll('\\', '\\e').replaceAll('-', '\\-').replaceAll('FreeBSD', 'Free\\&BSD');
  return /^[.']/u.test(plain) ? `\\&${plain}` : plain;
}

/** A sentence of help as one: capital letter, full stop. */
function sentence(text: string): string {
  const first = text.charAt(0);
  // Names keep their spelling.
  const head = /^[a-z]+[A-Z]/u.test(text) ? first : first.toUpperCase();
  return `${roff(head + text.slice(1))}.`;
}

/** The word of an option for mdoc's macros, which write the first hyphen. */
function flag(o: OptionHelp): string {
  return `Fl ${o.option.slice(1).replaceAll('-', '\\-')}`;
}

/** Words that mdoc would take for macros or delimiters are put in quotes. */
function argument(value: string): string {
  return `"${roff(value).replaceAll('"', '""')}"`;
}

/** The manual page, section 8. @param date as mdoc writes it, `November 22, 2026` */
export function manualPage(date: string): string {
  const out = [
    '.\\" Made by src/manual.ts from the option table; do not edit.',
    `.Dd ${date}`,
    '.Dt XHYVE 8',
    '.Os',
    '.Sh NAME',
    '.Nm xhyve',
    '.Nd run a guest operating system in a virtual PC',
    '.Sh SYNOPSIS',
    '.Nm',
    '.Op Ar options',
    '.Op Ar name',
    '.Nm',
    '.Cm pull',
    '.Ar image',
    '.Op Fl \\-json',
    '.Op Fl \\-force',
    '.Nm',
    '.Cm images',
    '.Op Fl \\-json',
    '.Nm',
    '.Cm disk',
    '.Cm create | info | check | convert | resize | map',
    '.Ar ...',
    '.Nm',
    '.Cm ctl',
    '.Ar path',
    '.Cm info | eject | change | resize | pause | resume | reset | powerdown | quit',
    '.Ar ...',
    '.Sh DESCRIPTION',
    '.Nm',
    'runs one virtual machine in the foreground.',
    'Its command line is that of xhyve and of bhyve.',
    "The processors are the host's own, through KVM,",
    'or a software CPU that needs no privileges and no hardware support.',
    '.Pp',
    'The options are:',
    '.Bl -tag -width indent',
  ];
  for (const o of OPTIONS) {
    const joined = o.value.startsWith('[=');
    out.push(
      `.It ${flag(o)}${o.value === '' ? '' : joined ? ` Ns Ar ${argument(o.value)}` : ` Ar ${argument(o.value)}`}`,
    );
    out.push(sentence(o.about));
  }
  out.push('.El', '.Pp', 'Settings for', '.Fl o', 'beside those of bhyve_config(5):', '.Bl -tag -width indent');
  for (const [name, about] of SETTINGS) out.push(`.It Ar ${argument(name)}`, sentence(about));
  out.push('.El', '.Pp', 'Devices for', '.Fl s :', '.Bl -tag -width indent');
  for (const e of PCI_EMULATIONS) out.push(`.It Cm ${roff(e.name)}`, sentence(e.about));
  out.push('.El');
  out.push(
    '.Sh SIGNALS',
    'SIGTERM and SIGHUP press the power button; a second one ends the process.',
    'On a terminal Ctrl\\-] and then x ends the guest.',
    '.Sh EXIT STATUS',
    '.Bl -tag -width indent',
    '.It 0',
    'The guest was reset.',
    '.It 1',
    'The guest powered off, or the command line cannot be carried out.',
    '.It 2',
    'The guest halted.',
    '.It 3',
    'The guest ended in a triple fault.',
    '.It 4',
    'There was an error.',
    '.El',
    '.Sh EXAMPLES',
    'A Linux kernel on this terminal:',
    '.Bd -literal -offset indent',
    'xhyve \\-A \\-m 1G \\-s 0:0,hostbridge \\-s 31,lpc \\-l com1,stdio \\e',
    '    \\-f kexec,vmlinuz,initrd.gz,"console=ttyS0"',
    '.Ed',
    '.Pp',
    'Where its kernel spends its time:',
    '.Bd -literal -offset indent',
    'xhyve \\-\\-profile hot.txt \\-\\-symbols System.map ... \\e',
    '    \\-f kexec,vmlinuz,,"console=ttyS0 nokaslr"',
    '.Ed',
    '.Sh SEE ALSO',
    'bhyve(8), bhyve_config(5), qemu(1)',
  );
  return `${out.join('\n')}\n`;
}

interface Word {
  readonly option: string;
  readonly takes: boolean;
  readonly about: string;
}

/** Each option once, with the line of its first form. */
function words(): Word[] {
  const seen = new Map<string, Word>();
  for (const o of OPTIONS)
    if (!seen.has(o.option))
      seen.set(o.option, {
        option: o.option,
        takes: o.value !== '' && !o.value.startsWith('[='),
        about: o.about.replaceAll(/['"`\\[\]:$]/gu, ''),
      });
  return [...seen.values()];
}

/** Options whose value is a file. */
const FILES = ['-F', '-k', '-r', '--control', '--trace', '--profile', '--symbols'];
const COMMANDS = ['pull', 'images', 'disk', 'ctl'];
const BOOT = ['kexec,', 'multiboot,', 'fbsd,', 'bootrom,'];
const ENGINES = ['auto', 'soft', 'kvm'];
const lpcWords = (): string[] => ['help', ...LPC_EMULATIONS.map((e) => `${e.name},`)];
const deviceWords = (): string[] => ['help', ...PCI_EMULATIONS.map((e) => e.name)];

/** For bash: to be put into bash-completion's folder. */
export function bashCompletion(): string {
  return `# bash completion of xhyve. Made by src/manual.ts from the option table; do not edit.
_xhyve() {
  local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]}
  COMPREPLY=()
  case $prev in
    ${FILES.join('|')}) compopt -o filenames 2>/dev/null; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    -f) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W '${BOOT.join(' ')}' -- "$cur")); return ;;
    -l) compopt -o nospace 2>/dev/null; COMPREPLY=($(compgen -W '${lpcWords().join(' ')}' -- "$cur")); return ;;
    -s) local slot=\${cur%%,*}
        if [[ $cur == *,* ]]; then COMPREPLY=($(compgen -P "$slot," -W '${deviceWords().join(' ')}' -- "\${cur#*,}"))
        else COMPREPLY=($(compgen -W 'help' -- "$cur")); fi
        return ;;
    --engine) COMPREPLY=($(compgen -W '${ENGINES.join(' ')}' -- "$cur")); return ;;
    ${words()
      .filter((w) => w.takes && !FILES.includes(w.option) && !['-f', '-l', '-s', '--engine'].includes(w.option))
      .map((w) => w.option)
      .join('|')}) return ;;
  esac
  if [[ $cur == -* ]]; then
    COMPREPLY=($(compgen -W '${words()
      .map((w) => w.option)
      .join(' ')}' -- "$cur"))
  elif [[ $COMP_CWORD -eq 1 ]]; then
    COMPREPLY=($(compgen -W '${COMMANDS.join(' ')}' -- "$cur"))
  fi
}
complete -F _xhyve xhyve
`;
}

/** For zsh: to be put into a folder of $fpath as _xhyve. */
export function zshCompletion(): string {
  const lines = words().map((w) => {
    const action = FILES.includes(w.option)
      ? ':file:_files'
      : w.option === '--engine'
        ? `:engine:(${ENGINES.join(' ')})`
        : w.option === '-f'
          ? `:loader:(${BOOT.join(' ')})`
          : w.option === '-l'
            ? `:device:(${lpcWords().join(' ')})`
            : w.takes
              ? ':value: '
              : '';
    return `  '*${w.option}[${w.about}]${action}'`;
  });
  return `#compdef xhyve
# Made by src/manual.ts from the option table; do not edit.
_arguments -s \\
${lines.join(' \\\n')} \\
  '1::command:(${COMMANDS.join(' ')})'
`;
}

/** For fish: to be put into a completions folder. */
export function fishCompletion(): string {
  const out = ['# Made by src/manual.ts from the option table; do not edit.', 'complete -c xhyve -f'];
  for (const c of COMMANDS) out.push(`complete -c xhyve -n __fish_is_first_arg -a ${c}`);
  for (const w of words()) {
    const name = w.option.startsWith('--') ? `-l ${w.option.slice(2)}` : `-s ${w.option.slice(1)}`;
    const value = FILES.includes(w.option)
      ? ' -r -F'
      : w.option === '--engine'
        ? ` -x -a '${ENGINES.join(' ')}'`
        : w.option === '-f'
          ? ` -x -a '${BOOT.join(' ')}'`
          : w.option === '-l'
            ? ` -x -a '${lpcWords().join(' ')}'`
            : w.takes
              ? ' -x'
              : '';
    out.push(`complete -c xhyve ${name}${value} -d '${w.about}'`);
  }
  return `${out.join('\n')}\n`;
}

/** Day on the manual page: when its text last changed in more than the option table. */
export const MANUAL_DATE = 'November 22, 2026';

/** The files made here, by path in the package. */
export function manualFiles(): Readonly<Record<string, string>> {
  return {
    'man/xhyve.8': manualPage(MANUAL_DATE),
    'completions/xhyve.bash': bashCompletion(),
    'completions/_xhyve': zshCompletion(),
    'completions/xhyve.fish': fishCompletion(),
  };
}
