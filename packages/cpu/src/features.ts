// What the software CPU can do, as CPUID rows, and the decoder's feature names. Intel SDM volume 2 "CPUID".
import type { CpuidEntry } from '@hyve/core';
import { PHYS_BITS } from './state.ts';

/**
 * Family 6, model 54, stepping 1: an in-order Atom, which this processor resembles in that it never speculates. Kernels
 * that go by the model leave out page-table isolation, retpolines and the rest, which would cost time and protect nothing.
 */
export const SIGNATURE = 0x00030661;

/** Feature names as the opcode table uses them, all of them implemented. */
export const FEATURES: readonly string[] = [
  'fxsr', 'mmx', 'sse', 'sse2', 'sse3', 'ssse3', 'sse4_1', 'sse4_2', 'popcnt', 'cx8', 'cx16', 'clflush', 'clflushopt', 'movbe',
  'rdrand', 'rdseed', 'rdtscp', 'syscall', 'sysenter', 'xsave', 'xsaveopt', 'xsavec', 'fsgsbase', 'invpcid', 'smap',
  'avx', 'avx2', 'fma', 'f16c', 'bmi1', 'bmi2', 'lzcnt', 'aes', 'pclmulqdq', 'sha', 'adx',
]; // biome-ignore format: a list

const str = (s: string, at: number): number =>
  (s.charCodeAt(at) | (s.charCodeAt(at + 1) << 8) | (s.charCodeAt(at + 2) << 16) | (s.charCodeAt(at + 3) << 24)) >>> 0;

const bits = (...n: number[]): number => n.reduce((m, b) => m | (1 << b), 0) >>> 0;

const BRAND = 'Hyve software x86-64 CPU'.padEnd(48, '\0');

/** The rows. State-dependent fields (OSXSAVE, XSAVE sizes) hold their maximum. */
export function supportedCpuid(): CpuidEntry[] {
  const brand = (i: number): CpuidEntry => ({
    leaf: 0x80000002 + i,
    eax: str(BRAND, 16 * i),
    ebx: str(BRAND, 16 * i + 4),
    ecx: str(BRAND, 16 * i + 8),
    edx: str(BRAND, 16 * i + 12),
  });
  return [
    { leaf: 0, eax: 0x16, ebx: str('Genu', 0), ecx: str('ntel', 0), edx: str('ineI', 0) },
    {
      leaf: 1,
      eax: SIGNATURE,
      ebx: 8 << 8,
      // SSE3 PCLMULQDQ SSSE3 FMA CX16 PCID SSE4.1 SSE4.2 x2APIC MOVBE POPCNT TSC-deadline AES XSAVE AVX F16C RDRAND hypervisor
      ecx: bits(0, 1, 9, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31),
      // FPU VME- DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2
      edx: bits(0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 14, 15, 16, 17, 19, 23, 24, 25, 26),
    },
    // Caches are told by leaf 4. Without this row a C library finds none, and takes 16 KiB for more than a cache holds.
    { leaf: 2, eax: 0xff01, ebx: 0, ecx: 0, edx: 0 },
    // 32 KiB L1 data and instruction, 8-way; 1 MiB L2, 16 MiB L3, 16-way; 64-byte lines. Copies pass by caches from about
    // the size of the last one on, in loops that are slower here than REP MOVSB.
    { leaf: 4, subleaf: 0, eax: 0x0121, ebx: (7 << 22) | 63, ecx: 63, edx: 0 },
    { leaf: 4, subleaf: 1, eax: 0x0122, ebx: (7 << 22) | 63, ecx: 63, edx: 0 },
    { leaf: 4, subleaf: 2, eax: 0x0143, ebx: (15 << 22) | 63, ecx: 1023, edx: 0 },
    { leaf: 4, subleaf: 3, eax: 0x0163, ebx: (15 << 22) | 63, ecx: 16383, edx: 0 },
    { leaf: 6, eax: 4, ebx: 0, ecx: 0, edx: 0 },
    // FSGSBASE TSC_ADJUST BMI1 AVX2 SMEP BMI2 ERMS INVPCID RDSEED ADX SMAP CLFLUSHOPT SHA; UMIP; FSRM
    { leaf: 7, subleaf: 0, eax: 1, ebx: bits(0, 1, 3, 5, 7, 8, 9, 10, 18, 19, 20, 23, 29), ecx: bits(2), edx: bits(4) },
    // FZRM FSRS FSRC
    { leaf: 7, subleaf: 1, eax: bits(10, 11, 12), ebx: 0, ecx: 0, edx: 0 },
    // x87, SSE and AVX state. XSAVEOPT and XSAVEC; the upper halves of YMM0–YMM15 at 576.
    { leaf: 0xd, subleaf: 0, eax: 7, ebx: 832, ecx: 832, edx: 0 },
    { leaf: 0xd, subleaf: 1, eax: 3, ebx: 832, ecx: 0, edx: 0 },
    { leaf: 0xd, subleaf: 2, eax: 256, ebx: 576, ecx: 0, edx: 0 },
    { leaf: 0x80000000, eax: 0x80000008, ebx: 0, ecx: 0, edx: 0 },
    // LAHF in 64-bit mode, LZCNT, PREFETCHW; SYSCALL NX 1-GiB pages RDTSCP long mode
    { leaf: 0x80000001, eax: 0, ebx: 0, ecx: bits(0, 5, 8), edx: bits(11, 20, 26, 27, 29) },
    brand(0),
    brand(1),
    brand(2),
    { leaf: 0x80000006, eax: 0, ebx: 0, ecx: (1024 << 16) | (8 << 12) | 64, edx: 0 },
    { leaf: 0x80000007, eax: 0, ebx: 0, ecx: 0, edx: bits(8) },
    { leaf: 0x80000008, eax: PHYS_BITS | (48 << 8), ebx: 0, ecx: 0, edx: 0 },
  ];
}
