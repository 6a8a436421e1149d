// AML terms as functions from values to bytes (ACPI 6.4 §20, ACPI Machine Language). A term is finished bytes, so terms
// nest by being passed to each other and every PkgLength is known when its block is made. Mirrors bhyve's basl.c, which
// writes ASL text for iasl; here no compiler is needed.
import { HyveError } from '@hyve/core';
import { asciiCode } from '../bytes.ts';

/** One or more encoded AML terms. */
export type AmlTerm = Uint8Array;

/** A term, or a number standing for the integer term. */
export type AmlArg = AmlTerm | number;

/** Joins terms and byte lists in order. */
export function concat(parts: readonly (AmlTerm | readonly number[])[]): AmlTerm {
  let n = 0;
  for (const p of parts) n += p.length;
  const out = new Uint8Array(n);
  n = 0;
  for (const p of parts) {
    out.set(p, n);
    n += p.length;
  }
  return out;
}

/**
 * PkgLength, ACPI 6.4 §20.2.4: one byte up to 63, else a nibble and one to three bytes.
 * @param bodyBytes bytes that follow; the encoding counts itself too
 * @throws HyveError `AML_LENGTH` above 2^28 - 1
 */
export function pkgLength(bodyBytes: number): number[] {
  if (bodyBytes + 1 <= 0x3f) return [bodyBytes + 1];
  return lengthBytes(bodyBytes + 2 <= 0xfff ? bodyBytes + 2 : bodyBytes + 3 <= 0xfffff ? bodyBytes + 3 : bodyBytes + 4);
}

/** A length in PkgLength form that does not count itself: the width of a field in bits. */
function lengthBytes(n: number): number[] {
  if (n <= 0x3f) return [n];
  if (n <= 0xfff) return [0x40 | (n & 0xf), n >> 4];
  if (n <= 0xfffff) return [0x80 | (n & 0xf), (n >> 4) & 0xff, n >> 12];
  if (n <= 0xfffffff) return [0xc0 | (n & 0xf), (n >> 4) & 0xff, (n >> 12) & 0xff, n >> 20];
  throw new HyveError('AML_LENGTH', `an AML block of ${n} bytes is over 2^28 - 1`);
}

function segment(path: string, seg: string): number[] {
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(seg))
    throw new HyveError(
      'AML_NAME',
      `${JSON.stringify(path)}: a name segment is 1-4 of A-Z, 0-9 and _, not a digit first`,
    );
  return [...seg.padEnd(4, '_')].map((c) => c.charCodeAt(0));
}

/**
 * A NameString, ACPI 6.4 §20.2.2: `\_SB.PC00`, `^LNKA`, `FOO`. Segments are padded with `_`.
 * Used as a term it reads the named object, or calls the method when arguments follow (see {@link call}).
 * @throws HyveError `AML_NAME`
 */
export function path(text: string): AmlTerm {
  const m = /^(\\|\^*)(.*)$/.exec(text);
  const prefix = [...(m?.[1] ?? '')].map((c) => c.charCodeAt(0));
  const rest = m?.[2] ?? '';
  if (rest === '') {
    if (prefix.length === 0) throw new HyveError('AML_NAME', 'an AML name may not be empty');
    return concat([prefix, [0]]);
  }
  const segs = rest.split('.').map((s) => segment(text, s));
  if (segs.length > 255) throw new HyveError('AML_NAME', `${segs.length} name segments; at most 255 fit`);
  const lead = segs.length === 1 ? [] : segs.length === 2 ? [0x2e] : [0x2f, segs.length];
  return concat([prefix, lead, ...segs]);
}

/**
 * An integer in its shortest form: ZeroOp, OneOp, or byte, word, dword, qword constant (§20.2.3).
 * @param v 0 to 2^64 - 1
 * @throws HyveError `AML_INTEGER`
 */
export function integer(v: number | bigint): AmlTerm {
  if (typeof v === 'number' && !Number.isSafeInteger(v)) throw new HyveError('AML_INTEGER', `${v} is not an integer`);
  const b = BigInt(v);
  if (b < 0n || b > 0xffff_ffff_ffff_ffffn) throw new HyveError('AML_INTEGER', `${v} does not fit 64 bits unsigned`);
  if (b <= 1n) return Uint8Array.of(Number(b));
  const [op, n] = b <= 0xffn ? [0x0a, 1] : b <= 0xffffn ? [0x0b, 2] : b <= 0xffff_ffffn ? [0x0c, 4] : [0x0e, 8];
  const out = new Uint8Array(1 + n);
  out[0] = op;
  for (let i = 0; i < n; i++) out[1 + i] = Number((b >> BigInt(8 * i)) & 0xffn);
  return out;
}

/** An ASCII string constant. @throws HyveError `TABLE_TEXT` */
export function string(text: string): AmlTerm {
  const out = new Uint8Array(text.length + 2);
  out[0] = 0x0d;
  for (let i = 0; i < text.length; i++) out[1 + i] = asciiCode(text, i);
  return out;
}

/**
 * A compressed EISA id such as `PNP0A03`, as the dword that _HID and _CID hold (ACPI 6.4 §19.3.4).
 * @throws HyveError `AML_EISAID` unless three capitals and four hexadecimal digits
 */
export function eisaId(id: string): AmlTerm {
  if (!/^[A-Z]{3}[0-9A-F]{4}$/.test(id))
    throw new HyveError('AML_EISAID', `${JSON.stringify(id)}: an EISA id is three capitals and four hex digits`);
  const letter = (i: number): number => id.charCodeAt(i) - 0x40;
  const vendor = (letter(0) << 10) | (letter(1) << 5) | letter(2);
  const product = Number.parseInt(id.slice(3), 16);
  return Uint8Array.of(0x0c, vendor >> 8, vendor & 0xff, product >> 8, product & 0xff);
}

function arg(v: AmlArg): AmlTerm {
  return typeof v === 'number' ? integer(v) : v;
}

function block(op: readonly number[], parts: readonly (AmlTerm | readonly number[])[]): AmlTerm {
  const body = concat(parts);
  return concat([op, pkgLength(body.length), body]);
}

/** Buffer holding `bytes`. */
export function buffer(bytes: Uint8Array): AmlTerm {
  return block([0x11], [integer(bytes.length), bytes]);
}

/** A UUID as the 16-byte buffer ToUUID makes: the first three groups little-endian. @throws HyveError `AML_UUID` */
export function uuid(text: string): AmlTerm {
  if (!/^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/i.test(text))
    throw new HyveError('AML_UUID', `not a UUID: ${text}`);
  const h = text.replaceAll('-', '');
  const order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
  return buffer(Uint8Array.from(order, (i) => Number.parseInt(h.slice(2 * i, 2 * i + 2), 16)));
}

/** Package of at most 255 elements. @throws HyveError `AML_LENGTH` */
export function pkg(elements: readonly AmlArg[]): AmlTerm {
  if (elements.length > 255) throw new HyveError('AML_LENGTH', `a package of ${elements.length}; at most 255 fit`);
  return block([0x12], [[elements.length], ...elements.map(arg)]);
}

/** Name(path, value). */
export function name(at: string, value: AmlArg): AmlTerm {
  return concat([[0x08], path(at), arg(value)]);
}

/** Scope(path) { terms }. */
export function scope(at: string, terms: readonly AmlTerm[]): AmlTerm {
  return block([0x10], [path(at), ...terms]);
}

/** Device(path) { terms }. */
export function device(at: string, terms: readonly AmlTerm[]): AmlTerm {
  return block([0x5b, 0x82], [path(at), ...terms]);
}

/** Method(path, args, Serialized or not) { body }. Methods that create names must be serialized. */
export function method(
  at: string,
  o: { readonly args?: number; readonly serialized?: boolean },
  body: readonly AmlTerm[],
): AmlTerm {
  return block([0x14], [path(at), [(o.args ?? 0) | (o.serialized === true ? 8 : 0)], ...body]);
}

/** Address spaces of {@link operationRegion}, ACPI 6.4 §5.5.2.4. */
export const RegionSpace = { SystemMemory: 0, SystemIo: 1, PciConfig: 2, EmbeddedControl: 3, Cmos: 5 } as const;

/** OperationRegion(path, space, offset, length). */
export function operationRegion(at: string, space: number, offset: AmlArg, length: AmlArg): AmlTerm {
  return concat([[0x5b, 0x80], path(at), [space], arg(offset), arg(length)]);
}

/** One element of a field list: `[name, bits]`, or `['', bits]` to skip bits. */
export type FieldUnit = readonly [name: string, bits: number];

/** How a field is accessed: `any`, or one width; update is always Preserve and no lock is taken. */
export type FieldAccess = 'any' | 'byte' | 'word' | 'dword' | 'qword';

const ACCESS: readonly FieldAccess[] = ['any', 'byte', 'word', 'dword', 'qword'];

function fieldList(units: readonly FieldUnit[]): AmlTerm {
  return concat(
    units.flatMap(([n, bits]) => [n === '' ? [0] : segment(n, n), lengthBytes(bits)] as readonly (readonly number[])[]),
  );
}

/** Field(region, access, NoLock, Preserve) { units }. */
export function field(region: string, access: FieldAccess, units: readonly FieldUnit[]): AmlTerm {
  return block([0x5b, 0x81], [path(region), [ACCESS.indexOf(access)], fieldList(units)]);
}

/** IndexField(index, data, access, NoLock, Preserve) { units }. */
export function indexField(index: string, data: string, access: FieldAccess, units: readonly FieldUnit[]): AmlTerm {
  return block([0x5b, 0x86], [path(index), path(data), [ACCESS.indexOf(access)], fieldList(units)]);
}

/** CreateByteField, CreateWordField, CreateDWordField or CreateQWordField(source, byteIndex, path) by width in bytes. */
export function createField(bytes: 1 | 2 | 4 | 8, source: AmlTerm, byteIndex: AmlArg, at: string): AmlTerm {
  const op = bytes === 1 ? 0x8c : bytes === 2 ? 0x8b : bytes === 4 ? 0x8a : 0x8f;
  return concat([[op], source, arg(byteIndex), path(at)]);
}

/** LocalN, 0–7. */
export function local(n: 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7): AmlTerm {
  return Uint8Array.of(0x60 + n);
}

/** ArgN, 0–6. */
export function argument(n: 0 | 1 | 2 | 3 | 4 | 5 | 6): AmlTerm {
  return Uint8Array.of(0x68 + n);
}

/** Calls the method at `path` with the arguments it declares. */
export function call(at: string, args: readonly AmlArg[] = []): AmlTerm {
  return concat([path(at), ...args.map(arg)]);
}

/** If (predicate) { then } Else { otherwise }. */
export function cond(predicate: AmlArg, then: readonly AmlTerm[], otherwise: readonly AmlTerm[] = []): AmlTerm {
  const yes = block([0xa0], [arg(predicate), ...then]);
  return otherwise.length === 0 ? yes : concat([yes, block([0xa1], otherwise)]);
}

/** While (predicate) { body }. */
export function loop(predicate: AmlArg, body: readonly AmlTerm[]): AmlTerm {
  return block([0xa2], [arg(predicate), ...body]);
}

/** Return (value). */
export function ret(value: AmlArg): AmlTerm {
  return concat([[0xa4], arg(value)]);
}

/** Store (value, target). */
export function store(value: AmlArg, target: AmlTerm): AmlTerm {
  return concat([[0x70], arg(value), target]);
}

/** Notify (object, value). */
export function notify(object: string, value: AmlArg): AmlTerm {
  return concat([[0x86], path(object), arg(value)]);
}

/** Increment or decrement a target in place. */
export function step(direction: 'up' | 'down', target: AmlTerm): AmlTerm {
  return concat([[direction === 'up' ? 0x75 : 0x76], target]);
}

const BINARY = { add: 0x72, subtract: 0x74, multiply: 0x77, shl: 0x79, shr: 0x7a, and: 0x7b, or: 0x7d, xor: 0x7f };
const UNARY = { not: 0x80, findSetLeftBit: 0x81, findSetRightBit: 0x82 };
const COMPARE = { and: 0x90, or: 0x91, eq: 0x93, gt: 0x94, lt: 0x95 };

/** Two operands and an optional target: Add, Subtract, Multiply, ShiftLeft, ShiftRight, And, Or, Xor. */
export function binary(op: keyof typeof BINARY, a: AmlArg, b: AmlArg, target?: AmlTerm): AmlTerm {
  return concat([[BINARY[op]], arg(a), arg(b), target ?? [0]]);
}

/** One operand and an optional target: Not, FindSetLeftBit, FindSetRightBit (bit numbers count from 1; 0: none). */
export function unary(op: keyof typeof UNARY, a: AmlArg, target?: AmlTerm): AmlTerm {
  return concat([[UNARY[op]], arg(a), target ?? [0]]);
}

/** LAnd, LOr, LEqual, LGreater, LLess. */
export function compare(op: keyof typeof COMPARE, a: AmlArg, b: AmlArg): AmlTerm {
  return concat([[COMPARE[op]], arg(a), arg(b)]);
}

/** LNot. */
export function lnot(a: AmlArg): AmlTerm {
  return concat([[0x92], arg(a)]);
}
