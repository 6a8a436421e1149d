// Kernel messages at level warn and worse, in a form in which two boots can be compared.

/** Lines of `dmesg -r` at levels 0 to 4: text without times, numbers and addresses, to the line as it stands. */
export function complaints(raw: string): Map<string, string> {
  const out = new Map<string, string>();
  for (const line of raw.split('\n')) {
    const m = /^<(\d+)>\[\s*\d+\.\d+\]\s?(?:\[\s*[TC]\d+\]\s*)?(.*)$/u.exec(line.trimEnd());
    if (m === null || (Number(m[1]) & 7) > 4) continue;
    const text = m[2] as string;
    const key = text.replaceAll(/\b0x[0-9a-f]+\b|\b[0-9a-f]{8,16}\b|\d+/gu, '#').trim();
    if (key !== '' && !out.has(key)) out.set(key, text);
  }
  return out;
}
