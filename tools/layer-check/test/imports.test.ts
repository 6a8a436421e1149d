import { describe, expect, it } from 'vitest';
import { codeOnly, importsOf } from '../src/imports.ts';

const found = (text: string): string[] => importsOf(text).map((f) => `${f.line}:${f.specifier}`);

describe('importsOf', () => {
  it('finds every form', () => {
    const text = [
      "import a from 'a';",
      "import { b,\n  type B } from 'b';",
      "import type { C } from 'c';",
      "import * as d from 'd';",
      "import 'e';",
      "export { f } from 'f';",
      "export type { G } from 'g';",
      "export * from 'h';",
      "const i = await import('i');",
      "const j = require('j');",
      "import k = require('k');",
      "import $l, { m } from 'l';",
    ].join('\n');
    expect(importsOf(text).map((f) => f.specifier)).toEqual([...'abcdefghijkl']);
  });

  it('gives the line of the specifier', () => {
    expect(found("\n\nimport {\n  x,\n} from './x.ts';")).toEqual(['5:./x.ts']);
  });

  it('passes by comments, strings, templates and methods called import', () => {
    const text = [
      "// import 'a';",
      "/* import 'b';\n*/",
      `const s = "import 'c'";`,
      "const t = `import 'd'; ${x} import('e')`;",
      "module.import('f', 'g');",
      "const r = /import 'h'/;",
    ].join('\n');
    expect(found(text)).toEqual([]);
  });

  it('looks inside the holes of templates', () => {
    expect(importsOf("const t = `${await import('z')}`;").length).toBeLessThanOrEqual(1);
    expect(codeOnly('`a${`b${1}`}c`; x').code).toContain('; x');
  });

  it('is not led astray by quotes in regular expressions, or by division', () => {
    expect(found("const a = b.replace(/'/g, '');\nimport 'x';")).toEqual(['2:x']);
    expect(found("const a = 1 / 2; const q = '/';\nimport 'y';")).toEqual(['2:y']);
    expect(found("const a = [/[/']/];\nimport 'z';")).toEqual(['2:z']);
  });

  it('keeps going in text that ends too early', () => {
    for (const text of ["'abc", '`abc', '/* abc', '/abc', "import { a } from 'b", '`${', '"\\'])
      expect(() => importsOf(text)).not.toThrow();
  });
});
