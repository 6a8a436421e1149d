// What tells one build of this program from another: files in the user's cache are good for the build that wrote them.
import { hash } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';

/** SHA-256 of a text, hexadecimal. */
export function digest(text: string): string {
  return hash('sha256', text);
}

/** The digest that a program built into one piece has beside it; null when it runs from its modules. */
export function bundleDigest(): string | null {
  try {
    return readFileSync(new URL('./build-id', import.meta.url), 'utf8');
  } catch {
    return null;
  }
}

/** Digest of every program file below some directories. @throws what Node's file system throws */
export function programDigest(dirs: readonly string[]): string {
  let text = '';
  for (const dir of dirs)
    for (const name of (readdirSync(dir, { recursive: true }) as string[]).sort())
      if (/\.(ts|js|mjs)$/u.test(name)) text += `${name}\n${readFileSync(join(dir, name), 'utf8')}`;
  return digest(text);
}

/** Digest of what translations depend on; null if its text cannot be read. Takes milliseconds when not in one piece. */
export function translatorDigest(): string | null {
  const bundled = bundleDigest();
  if (bundled !== null) return bundled;
  try {
    const pc = createRequire(createRequire(import.meta.url).resolve('@hyve/pc'));
    const cpu = pc.resolve('@hyve/cpu');
    return programDigest([dirname(cpu), dirname(createRequire(cpu).resolve('@hyve/x86'))]);
  } catch {
    return null;
  }
}
