// Finds the module specifiers in TypeScript source without a compiler: comments go, strings are understood, and
// `import`, `export … from`, `import()` and `require()` are looked for in what is left.

/** One module specifier. */
export interface Found {
  readonly specifier: string;
  /** 1-based. */
  readonly line: number;
}

/**
 * Replaces comments by spaces and the insides of strings and templates by a placeholder, so that only code is left.
 * Line breaks stay where they are. Regular expressions are told from division by what precedes them.
 */
export function codeOnly(source: string): { code: string; strings: string[] } {
  const strings: string[] = [];
  let code = '';
  let i = 0;
  let last = '';
  const blank = (text: string): string => text.replace(/[^\n]/g, ' ');
  const take = (end: number, out: string): void => {
    code += out;
    i = end;
  };
  while (i < source.length) {
    const c = source[i] as string;
    const next = source[i + 1];
    if (c === '/' && next === '/') {
      const end = source.indexOf('\n', i);
      const stop = end < 0 ? source.length : end;
      take(stop, blank(source.slice(i, stop)));
    } else if (c === '/' && next === '*') {
      const end = source.indexOf('*/', i + 2);
      const stop = end < 0 ? source.length : end + 2;
      take(stop, blank(source.slice(i, stop)));
    } else if (c === "'" || c === '"') {
      let end = i + 1;
      while (end < source.length && source[end] !== c && source[end] !== '\n') end += source[end] === '\\' ? 2 : 1;
      strings.push(source.slice(i + 1, end));
      take(end + 1, `"${strings.length - 1}"`);
      last = '"';
    } else if (c === '`') {
      const end = templateEnd(source, i + 1);
      // Code inside ${} is looked at too: a dynamic import may hide there.
      const text = source.slice(i + 1, end - 1);
      const inner = [...text.matchAll(/\$\{/g)].map((m) => text.slice(m.index + 2)).join('\n');
      strings.push(text);
      take(end, `"${strings.length - 1}"${inner.includes('import(') ? inner : blank(text).replace(/ +/g, '')}`);
      last = '"';
    } else if (c === '/' && /[=(,:[!&|?{};+\-*%~^<>\n]|^$/.test(last)) {
      let end = i + 1;
      let inClass = false;
      while (end < source.length && source[end] !== '\n' && (inClass || source[end] !== '/')) {
        if (source[end] === '\\') end++;
        else if (source[end] === '[') inClass = true;
        else if (source[end] === ']') inClass = false;
        end++;
      }
      take(end + 1, ' ');
      last = ')';
    } else {
      if (!/\s/.test(c)) last = c;
      take(i + 1, c);
    }
  }
  return { code, strings };
}

/** Index after the closing backquote of a template whose text starts at `i`. */
function templateEnd(source: string, i: number): number {
  let depth = 0;
  let at = i;
  while (at < source.length) {
    const c = source[at] as string;
    if (c === '\\') at++;
    else if (depth === 0 && c === '`') return at + 1;
    else if (c === '$' && source[at + 1] === '{') {
      depth++;
      at++;
    } else if (depth > 0 && c === '{') depth++;
    else if (depth > 0 && c === '}') depth--;
    else if (depth > 0 && c === '`') at = templateEnd(source, at + 1) - 1;
    at++;
  }
  return source.length;
}

const FORMS = [
  /(?<![.\w$])import\s*\(\s*"(\d+)"/g,
  /(?<![.\w$])require\s*\(\s*"(\d+)"/g,
  /(?<![.\w$])import\s+"(\d+)"/g,
  /(?<![.\w$])(?:import|export)\s+(?:type\s+)?(?:[\w$*{][\w$\s,*{}]*?)\s*from\s*"(\d+)"/g,
  /(?<![.\w$])import\s+[\w$]+\s*=\s*require\s*\(\s*"(\d+)"/g,
];

/** All module specifiers of a source text, in order. */
export function importsOf(source: string): Found[] {
  const { code, strings } = codeOnly(source);
  const found = new Map<number, Found>();
  for (const form of FORMS) {
    for (const m of code.matchAll(form)) {
      const number = Number(m[1]);
      const line = code.slice(0, m.index + m[0].length).split('\n').length;
      found.set(number, { specifier: strings[number] as string, line });
    }
  }
  return [...found].sort((x, y) => x[0] - y[0]).map(([, f]) => f);
}
