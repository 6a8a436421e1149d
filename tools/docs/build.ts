// The API reference: `node tools/docs/build.ts` writes docs/api and fails on undocumented exports and broken links.
// typedoc needs TypeScript's JavaScript API, which version 7 lacks: this folder brings version 6 for it.
import { globSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Application, type ProjectReflection, ReflectionKind, type TypeDocOptions } from 'typedoc';

const root = join(import.meta.dirname, '../..');

interface Manifest {
  readonly name: string;
  readonly exports: Readonly<Record<string, string>>;
}

/** Source files behind the exports of every published package, and the packages' names. */
function readPackages(): { files: string[]; names: string[] } {
  const files: string[] = [];
  const names: string[] = [];
  for (const file of globSync(['packages/*/package.json', 'packages/*/*/package.json', 'apps/*/package.json'], {
    cwd: root,
  })) {
    const manifest = JSON.parse(readFileSync(join(root, file), 'utf8')) as Manifest;
    names.push(manifest.name);
    for (const source of Object.values(manifest.exports)) files.push(join(root, file, '..', source));
  }
  return { files: files.sort(), names };
}

const { files, names } = readPackages();

// One program over all of them: cross-package links resolve, and TypeScript starts once.
const tsconfig = join(root, 'node_modules/.cache/hyve-docs/tsconfig.json');
mkdirSync(join(tsconfig, '..'), { recursive: true });
const base = JSON.parse(readFileSync(join(root, 'tsconfig.base.json'), 'utf8')) as { compilerOptions: object };
writeFileSync(
  tsconfig,
  JSON.stringify({
    compilerOptions: {
      ...base.compilerOptions,
      composite: false,
      declaration: false,
      declarationMap: false,
      isolatedDeclarations: false,
      noEmit: true,
      lib: ['es2024', 'dom'],
      types: ['node'],
      typeRoots: [join(root, 'node_modules/@types')],
    },
    files,
  }),
);

const options: TypeDocOptions = {
  name: 'Hyve',
  entryPoints: files,
  entryPointStrategy: 'resolve',
  tsconfig,
  out: join(root, 'docs/api'),
  readme: join(root, 'README.md'),
  projectDocuments: [],
  excludeInternal: true,
  excludePrivate: true,
  excludeExternals: true,
  excludeProtected: true,
  disableGit: true,
  disableSources: true,
  githubPages: false,
  hideGenerator: true,
  skipErrorChecking: true,
  validation: {
    notExported: false,
    invalidLink: true,
    notDocumented: true,
    rewrittenLink: false,
    unusedMergeModuleWith: false,
    invalidPath: false,
  },
  requiredToBeDocumented: ['Variable', 'Function', 'Class', 'Interface', 'Method', 'Accessor', 'TypeAlias'],
  packagesRequiringDocumentation: names,
  logLevel: 'Warn',
};

/**
 * Fields of classes and interfaces need a comment too, except where the name says it all: discriminants, and the
 * fields of saved state, which are named after the registers they hold.
 */
function undocumentedFields(project: ProjectReflection): string[] {
  return project
    .getReflectionsByKind(ReflectionKind.Property)
    .filter((p) => p.parent?.kindOf(ReflectionKind.ClassOrInterface) && !/StateV\d+$/.test(p.parent.name))
    .filter((p) => !p.hasComment() && !(p.isDeclaration() && p.type?.type === 'literal'))
    .map((p) => p.getFriendlyFullName());
}

const app = await Application.bootstrapWithPlugins(options);
const project = await app.convert();
if (project === undefined) process.exitCode = 1;
else {
  app.validate(project);
  for (const name of undocumentedFields(project)) app.logger.warn(`${name} has no comment`);
  if (process.argv.includes('--emit')) await app.generateOutputs(project);
  const { errorCount, warningCount } = app.logger;
  console.log(`docs: ${files.length} entry points, ${errorCount + warningCount} findings`);
  process.exitCode = errorCount + warningCount === 0 ? 0 : 1;
}
