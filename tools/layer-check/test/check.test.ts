import { describe, expect, it } from 'vitest';
import { check, checkReferences, type Manifest, type Package, packageOf, README_HEADINGS } from '../src/check.ts';
import { LAYERS, layerOf } from '../src/layers.ts';
import { readWorkspace } from '../src/read.ts';

/** A package with nothing wrong. */
function good(
  name: string,
  o: { files?: Record<string, string>; manifest?: Partial<Manifest>; folder?: string } = {},
): Package {
  const exports = { '.': './src/index.ts' };
  return {
    folder: o.folder ?? `packages/${name.replace('@hyve/', '')}`,
    manifest: {
      name,
      version: '1.0.0',
      license: 'BSD-2-Clause',
      description: 'A part',
      keywords: ['x86'],
      type: 'module',
      sideEffects: false,
      engines: { node: '>=24' },
      files: ['dist', 'src', 'README.md'],
      scripts: { build: 'tsc -b', test: 'vitest run' },
      exports,
      publishConfig: { access: 'public', exports: { '.': { default: './dist/index.js' } } },
      ...o.manifest,
    },
    sources: new Map(Object.entries({ 'src/index.ts': '', 'test/a.test.ts': '', ...o.files })),
    readme: README_HEADINGS.map((h) => `## ${h}\n`).join(''),
  };
}
const core = good('@hyve/core');
const testkit = good('@hyve/testkit', { manifest: { dependencies: { '@hyve/core': 'workspace:^' } } });
/** Findings about one package in a small workspace. */
function findings(p: Package, ...others: Package[]): string[] {
  return check([core, testkit, p, ...others]).map((f) => `${f.where}: ${f.what}`);
}
const usesCore = { dependencies: { '@hyve/core': 'workspace:^' } };

describe('the layer check', () => {
  it('has nothing against a good package', () => {
    const text = "import { Bus } from '@hyve/core';\nimport { x } from './x.ts';";
    expect(findings(good('@hyve/pci', { files: { 'src/index.ts': text }, manifest: usesCore }))).toEqual([]);
  });

  it("knows a platform's build by name, and asks nothing else of it", () => {
    const build: Package = {
      ...good('@hyve/hv-native-linux-x64', { manifest: { os: ['linux'], type: 'commonjs' } }),
      readme: null,
      sources: new Map(),
    };
    const loader = good('@hyve/hv-native', {
      manifest: { ...usesCore, optionalDependencies: { '@hyve/hv-native-linux-x64': 'workspace:^' } },
    });
    expect(findings(build, loader)).toEqual([]);
    expect(checkReferences(['packages/core'], [core, build])).toEqual([]);
  });

  it('refuses an import that goes up or sideways', () => {
    const vmm = good('@hyve/vmm', { manifest: usesCore });
    const p = good('@hyve/pci', {
      files: { 'src/index.ts': "import '@hyve/vmm';" },
      manifest: { dependencies: { '@hyve/core': 'workspace:^', '@hyve/vmm': 'workspace:^' } },
    });
    expect(findings(p, vmm)).toEqual([
      'packages/pci/package.json: @hyve/pci may not depend on @hyve/vmm',
      'packages/pci/src/index.ts:1: @hyve/pci may not import @hyve/vmm',
    ]);
  });

  it('counts types as imports too', () => {
    const p = good('@hyve/core', { files: { 'src/index.ts': "import type { A } from '@hyve/pci';" } });
    const pci = good('@hyve/pci', { manifest: usesCore });
    expect(check([p, pci]).map((f) => f.what)).toEqual([
      '@hyve/core may not import @hyve/pci',
      "@hyve/pci: @hyve/pci is not in this package's dependencies",
    ]);
  });

  it.each(['node:fs', 'fs', 'node:process'])('refuses %s outside the host packages', (builtin) => {
    const p = good('@hyve/platform', { files: { 'src/index.ts': `import '${builtin}';` } });
    expect(findings(p)).toHaveLength(1);
    const backend = good('@hyve/char-backends', { files: { 'src/index.ts': `import 'node:fs';` } });
    expect(findings(backend)).toEqual([]);
  });

  it('wants node: before the names of Node', () => {
    expect(findings(good('@hyve/char-backends', { files: { 'src/index.ts': `import 'fs';` } }))).toEqual([
      'packages/char-backends/src/index.ts:1: fs: write node:fs',
    ]);
  });

  it('lets tests use Node and the testkit, declared', () => {
    const files = {
      'test/a.test.ts': "import 'node:fs';\nimport '@hyve/testkit';\nimport 'vitest';\nimport 'fast-check';",
    };
    expect(
      findings(good('@hyve/x86', { files, manifest: { devDependencies: { '@hyve/testkit': 'workspace:^' } } })),
    ).toEqual([]);
    expect(findings(good('@hyve/x86', { files }))).toEqual([
      "packages/x86/test/a.test.ts:2: @hyve/testkit: @hyve/testkit is not in this package's devDependencies",
    ]);
  });

  it('keeps the testkit out of what is shipped', () => {
    const p = good('@hyve/pci', {
      files: { 'src/index.ts': "import '@hyve/testkit';" },
      manifest: { dependencies: { '@hyve/testkit': 'workspace:^' } },
    });
    expect(findings(p).join('\n')).toMatch(/for tests only, so in devDependencies[\s\S]*is for tests only/);
  });

  it('refuses a path into another package, and shipped code that imports tests', () => {
    const files = {
      'src/a/b.ts': "import '../../../core/src/bus.ts';\nimport '../c.ts';",
      'src/d.ts': "import '../test/rig.ts';",
    };
    expect(findings(good('@hyve/pci', { files }))).toEqual([
      'packages/pci/src/a/b.ts:1: ../../../core/src/bus.ts leaves the package: import it by name',
      'packages/pci/src/d.ts:1: ../test/rig.ts: shipped code imports a test',
    ]);
  });

  it('refuses subpaths that are not exported', () => {
    const p = good('@hyve/pci', { files: { 'src/index.ts': "import '@hyve/core/bus';" }, manifest: usesCore });
    expect(findings(p)).toEqual(['packages/pci/src/index.ts:1: @hyve/core/bus: @hyve/core does not export ./bus']);
  });

  it('refuses undeclared dependencies', () => {
    expect(findings(good('xhyve', { folder: 'apps/xhyve-cli', files: { 'src/index.ts': "import 'zod';" } }))).toEqual([
      "apps/xhyve-cli/src/index.ts:1: zod: zod is not in this package's dependencies",
    ]);
  });

  it.each([['*'], ['latest'], [''], ['>=1.0.0'], ['1.x'], ['git+https://example.org/x.git']])(
    'refuses the range "%s"',
    (range) => {
      expect(
        findings(good('xhyve', { folder: 'apps/xhyve-cli', manifest: { dependencies: { zod: range } } })),
      ).toHaveLength(1);
    },
  );

  it('takes exact, caret and tilde versions', () => {
    const manifest = { dependencies: { a: '1.2.3', b: '^1.2.3', c: '~1.2.3', d: '1.0.0-beta.1' } };
    expect(findings(good('xhyve', { folder: 'apps/xhyve-cli', manifest }))).toEqual([]);
  });

  it('wants workspace ranges within the repository', () => {
    expect(findings(good('@hyve/pci', { manifest: { dependencies: { '@hyve/core': '1.0.0' } } }))).toHaveLength(1);
  });

  it('refuses a package without README, headings or tests', () => {
    const p = good('@hyve/pci');
    expect(findings({ ...p, readme: null })).toEqual(['packages/pci/README.md: is missing']);
    expect(findings({ ...p, readme: (p.readme as string).replace('## Support', '') })).toEqual([
      'packages/pci/README.md: has no "## Support"',
    ]);
    const slowOnly = new Map([['test/a.slow.test.ts', '']]);
    expect(findings({ ...p, sources: slowOnly })).toEqual(['packages/pci/test: has no test']);
  });

  it.each([
    'version',
    'license',
    'description',
    'keywords',
    'type',
    'sideEffects',
    'engines',
    'files',
    'scripts',
    'exports',
  ])('refuses a manifest without "%s"', (field) => {
    const p = good('@hyve/pci');
    const { [field as keyof Manifest]: _, ...manifest } = p.manifest;
    expect(findings({ ...p, manifest: manifest as Manifest }).join()).toContain(`"${field}"`);
  });

  it('wants published exports to match', () => {
    const p = good('@hyve/pci', { manifest: { exports: { '.': './src/index.ts', './bus': './src/bus.ts' } } });
    expect(findings(p)).toHaveLength(1);
  });

  it('asks for a place for new packages', () => {
    expect(findings(good('@hyve/new-thing')).join()).toContain('no place among the layers');
  });

  it('holds tools to being private, and nothing else', () => {
    const tool = { ...good('@hyve-tools/x', { folder: 'tools/x' }), readme: null };
    expect(findings(tool)).toEqual(['tools/x/package.json: a tool is "private": true']);
    expect(findings({ ...tool, manifest: { name: '@hyve-tools/x', private: true } })).toEqual([]);
  });

  it('compares the references of tsconfig.json with the packages', () => {
    const tool = good('@hyve-tools/x', { folder: 'tools/x' });
    expect(checkReferences(['packages/core', 'tools/x'], [core, tool])).toEqual([]);
    expect(checkReferences(['packages/gone'], [core, tool]).map((f) => f.what)).toEqual([
      'references packages/gone, which is no package',
      'does not reference packages/core',
    ]);
  });

  it('finds dependencies that go round', () => {
    const a = good('@hyve/virtio', { manifest: { dependencies: { '@hyve/pci': 'workspace:^' } } });
    const b = good('@hyve/pci', { manifest: { dependencies: { '@hyve/virtio': 'workspace:^' } } });
    expect(check([a, b]).map((f) => f.what)).toContain(
      'dependencies go round: @hyve/virtio → @hyve/pci → @hyve/virtio',
    );
  });
});

describe('the layers', () => {
  it('have no way round', () => {
    // Each layer may import only layers; following "may" from any of them ends.
    const reach = (name: string, seen: string[]): void => {
      expect(seen).not.toContain(name);
      for (const next of layerOf(name)?.may ?? []) if (!next.endsWith('*')) reach(next, [...seen, name]);
    };
    for (const l of LAYERS) reach(l.name, []);
  });

  it('keep the engines apart and the board free of the host', () => {
    expect(layerOf('@hyve/cpu')?.may).not.toContain('@hyve/hv-native');
    expect(layerOf('@hyve/hv-native')?.may).not.toContain('@hyve/cpu');
    expect(layerOf('@hyve/vmm')?.may).not.toContain('@hyve/pci');
    expect(layerOf('@hyve/pc')?.may.join()).not.toMatch(/backends|native/);
    expect(layerOf('@hyve/virtio-net')?.may).toContain('@hyve/virtio');
  });
});

describe('reading', () => {
  it('splits specifiers', () => {
    expect(packageOf('@hyve/vmm/lapic')).toBe('@hyve/vmm');
    expect(packageOf('xz-decompress/dist/x.js')).toBe('xz-decompress');
  });

  it('finds this repository', () => {
    const packages = readWorkspace(`${import.meta.dirname}/../../..`);
    const core = packages.find((p) => p.manifest.name === '@hyve/core');
    expect(core?.folder).toBe('packages/core');
    expect(core?.sources.has('src/index.ts')).toBe(true);
    expect(packages.map((p) => p.folder)).toContain('tools/layer-check');
  });
});
