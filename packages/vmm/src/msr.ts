// MSR policy: every MSR that neither the engine nor the local APIC holds, for one vCPU. Intel SDM vol. 4; AMD APM vol. 2
// appendix A (bhyve: vmm's x86 MSR code and xmsr.c). What is not here is #GP, or nothing at all with `ignoreUnknown`.
import { HyveError, type Logger, type MsrValue, StateReader, silentLogger } from '@hyve/core';
import type { CpuVendor } from './cpuid.ts';
import type { LocalApic } from './lapic/lapic.ts';
import { savedWords } from './words.ts';

/** Options of {@link MsrPolicy}. */
export interface MsrPolicyOptions {
  /** This vCPU's local APIC. */
  readonly lapic: LocalApic;
  /** Vendor of the CPUID table. */
  readonly vendor: CpuVendor;
  /** TSC frequency, Hz: the ratio that PLATFORM_INFO reports. */
  readonly tscHz: number;
  /** Physical address bits, 32–52, for the variable MTRRs. Default 40. */
  readonly physBits?: number;
  /** Microcode revision, 32 bits. Default 1 for Intel, 0x01000065 for AMD. */
  readonly microcode?: number;
  /** bhyve's `-w`: unknown MSRs read 0 and swallow writes. Default false. */
  readonly ignoreUnknown?: boolean;
  /** Offers SPEC_CTRL and PRED_CMD, as the CPUID table does. Default false. */
  readonly specCtrl?: boolean;
  /** Hears once of each unknown MSR (of the first 256). */
  readonly log?: Logger;
}

/** Saved state. */
export interface MsrPolicyStateV1 {
  v: 1;
  mtrrDefType: number;
  mtrrFixed: number[];
  mtrrVariable: number[];
  miscEnable: [number, number];
  mcgStatus: number;
  specCtrl: number;
  hwcr: number;
  deCfg: number;
  syscfg: number;
}

// Indices, SDM vol. 4 names.
const P5_MC_ADDR = 0x0;
const P5_MC_TYPE = 0x1;
const PLATFORM_ID = 0x17;
const APIC_BASE = 0x1b;
const EBL_CR_POWERON = 0x2a;
const SMI_COUNT = 0x34;
const FEATURE_CONTROL = 0x3a;
const SPEC_CTRL = 0x48;
const PRED_CMD = 0x49;
const BIOS_UPDT_TRIG = 0x79;
const BIOS_SIGN_ID = 0x8b;
const PLATFORM_INFO = 0xce;
const MTRRCAP = 0xfe;
const MCG_CAP = 0x179;
const MCG_STATUS = 0x17a;
const PERF_STATUS = 0x198;
const MISC_ENABLE = 0x1a0;
const TURBO_RATIO_LIMIT = 0x1ad;
const TURBO_RATIO_LIMIT1 = 0x1ae;
const DEBUGCTL = 0x1d9;
const MTRR_PHYSBASE0 = 0x200;
const MTRR_FIX64K = 0x250;
const MTRR_FIX16K_80000 = 0x258;
const MTRR_FIX16K_A0000 = 0x259;
const MTRR_FIX4K_C0000 = 0x268;
const MTRR_FIX4K_F8000 = 0x26f;
const MTRR_DEF_TYPE = 0x2ff;
const RAPL_POWER_UNIT = 0x606;
const PKG_ENERGY_STATUS = 0x611;
const DRAM_ENERGY_STATUS = 0x619;
const PP0_ENERGY_STATUS = 0x639;
const PP1_ENERGY_STATUS = 0x641;
const TSC_DEADLINE = 0x6e0;
const X2APIC_FIRST = 0x800;
const X2APIC_LAST = 0x8ff;
// Uncore boxes that Linux silences on some models by writing them.
const UNCORE_C_BOX = 0xc24;
const UNCORE_R_BOX = 0xd04;
// AMD.
/** Four event selectors, then four counters, in every AMD processor since K7: read 0 and ignore writes, as in bhyve. */
const AMD_PERF_FIRST = 0xc0010000;
const AMD_PERF_LAST = 0xc0010007;
const AMD_SYSCFG = 0xc0010010;
const AMD_HWCR = 0xc0010015;
const AMD_IORR_FIRST = 0xc0010016;
const AMD_TOP_MEM = 0xc001001a;
const AMD_TOP_MEM2 = 0xc001001d;
const AMD_NB_CFG = 0xc001001f;
const AMD_PATCH_LOADER = 0xc0010020;
const AMD_INT_PENDING = 0xc0010055;
const AMD_MMIO_CONF_BASE = 0xc0010058;
const AMD_TSEG_ADDR = 0xc0010112;
const AMD_TSEG_MASK = 0xc0010113;
const AMD_VM_CR = 0xc0010114;
const AMD_LS_CFG = 0xc0011020;
const AMD_IC_CFG = 0xc0011021;
const AMD_DC_CFG = 0xc0011022;
const AMD_BU_CFG = 0xc0011023;
const AMD_DE_CFG = 0xc0011029;
const AMD_BU_CFG2 = 0xc001102a;

/** Eight variable ranges, fixed ranges, write-combining. */
const VARIABLE_RANGES = 8;
const MTRRCAP_VALUE = VARIABLE_RANGES | (1 << 8) | (1 << 10);
/** Enable and fixed-range enable. */
const DEF_TYPE_FLAGS = (1 << 11) | (1 << 10);

/** Fast strings; branch trace and PEBS unavailable. */
const MISC_ENABLE_RESET = 0x1801;
/** What can be changed: fast strings, TCC, EIST, MONITOR, CPUID limit, xTPR (and XD disable in the high half). */
const MISC_ENABLE_LO = (1 << 0) | (1 << 3) | (1 << 16) | (1 << 18) | (1 << 22) | (1 << 23);
const MISC_ENABLE_HI = 1 << 2;
/** Performance monitoring, BTS and PEBS availability: writes to them are ignored. */
const MISC_ENABLE_RO = (1 << 7) | (1 << 11) | (1 << 12);

/** HWCR bit 24: the TSC counts at P0 frequency. Linux reports a firmware bug without it. */
const HWCR_RESET = 1 << 24;
/** TLB cache disable, INVD as WBINVD, FFDIS, IGNNE, McStatusWrEn, TSC frequency. */
const HWCR_WRITABLE = (1 << 3) | (1 << 4) | (1 << 6) | (1 << 8) | (1 << 18) | (1 << 24);
/** DE_CFG: LFENCE serializes. */
const DE_CFG_LFENCE = 1 << 1;
/** SYSCFG: fixed-range DRAM attributes and TOM enables. */
const SYSCFG_WRITABLE = (1 << 18) | (1 << 19) | (1 << 20) | (1 << 21) | (1 << 22);
/** IBRS, STIBP, SSBD. */
const SPEC_CTRL_WRITABLE = 7;

/** RAPL: 1/8 W, 15.3 µJ, 1 ms. Nothing is metered; the counters stay 0. */
const RAPL_UNITS = 0xa1003;
const MAX_LOGGED = 256;

/** Whether `t` is a memory type: UC, WC, WT, WP or WB. */
function memoryType(t: number): boolean {
  return t === 0 || t === 1 || (t >= 4 && t <= 6);
}

/** Whether all four bytes are memory types. */
function memoryTypes(v: number): boolean {
  return memoryType(v & 0xff) && memoryType((v >>> 8) & 0xff) && memoryType((v >>> 16) & 0xff) && memoryType(v >>> 24);
}

/**
 * Answers RDMSR and WRMSR for one vCPU. MTRRs are kept and checked; memory is always write-back, so they change nothing.
 *
 * Not modelled: machine-check banks (none), performance counters, DEBUGCTL's branch records, CPUID limit and XD disable
 * (stored, without effect), power and thermal control.
 */
export class MsrPolicy {
  /** Reads of unknown MSRs. */
  unknownReads = 0;
  /** Writes of unknown MSRs. */
  unknownWrites = 0;

  private readonly lapic: LocalApic;
  private readonly amd: boolean;
  private readonly ratio: number;
  private readonly physHi: number;
  private readonly microcode: number;
  private readonly ignoreUnknown: boolean;
  private readonly offersSpecCtrl: boolean;
  private readonly log: Logger;
  private readonly logged: Set<number> = new Set();

  private mtrrDefType = 0;
  /** Eleven fixed-range registers as lo, hi pairs: 64K, 2 × 16K, 8 × 4K. */
  private readonly fixed: Uint32Array = new Uint32Array(22);
  /** Base and mask of each variable range, lo and hi each. */
  private readonly variable: Uint32Array = new Uint32Array(VARIABLE_RANGES * 4);
  private miscEnableLo = MISC_ENABLE_RESET;
  private miscEnableHi = 0;
  private mcgStatus = 0;
  private specCtrl = 0;
  private hwcr: number = HWCR_RESET;
  private deCfg: number = DE_CFG_LFENCE;
  private syscfg = 0;

  constructor(o: MsrPolicyOptions) {
    const physBits = o.physBits ?? 40;
    if (!(physBits >= 32 && physBits <= 52))
      throw new HyveError('MSR_OPTIONS', `${physBits} physical address bits, expected 32–52`);
    this.lapic = o.lapic;
    this.amd = o.vendor === 'amd';
    this.ratio = Math.min(255, Math.max(1, Math.round(o.tscHz / 1e8)));
    this.physHi = 2 ** (physBits - 32) - 1;
    this.microcode = o.microcode ?? (this.amd ? 0x01000065 : 1);
    this.ignoreUnknown = o.ignoreUnknown ?? false;
    this.offersSpecCtrl = o.specCtrl ?? false;
    this.log = o.log ?? silentLogger;
  }

  /** Power-on values. The local APIC is reset by its owner. */
  reset(): void {
    this.mtrrDefType = 0;
    this.fixed.fill(0);
    this.variable.fill(0);
    this.miscEnableLo = MISC_ENABLE_RESET;
    this.miscEnableHi = 0;
    this.mcgStatus = 0;
    this.specCtrl = 0;
    this.hwcr = HWCR_RESET;
    this.deCfg = DE_CFG_LFENCE;
    this.syscfg = 0;
  }

  /** Saves what the guest can change. */
  save(): MsrPolicyStateV1 {
    return {
      v: 1,
      mtrrDefType: this.mtrrDefType,
      mtrrFixed: [...this.fixed],
      mtrrVariable: [...this.variable],
      miscEnable: [this.miscEnableLo, this.miscEnableHi],
      mcgStatus: this.mcgStatus,
      specCtrl: this.specCtrl,
      hwcr: this.hwcr,
      deCfg: this.deCfg,
      syscfg: this.syscfg,
    };
  }

  /** Restores it. @throws HyveError `STATE_VERSION`, `STATE_FORMAT` */
  load(state: unknown): void {
    const name = 'msr policy';
    const r = new StateReader(name, state, 1);
    const fixed = savedWords(name, state, 'mtrrFixed', 22);
    const variable = savedWords(name, state, 'mtrrVariable', VARIABLE_RANGES * 4);
    const miscEnable = savedWords(name, state, 'miscEnable', 2);
    this.mtrrDefType = r.u32('mtrrDefType');
    this.fixed.set(fixed);
    this.variable.set(variable);
    this.miscEnableLo = miscEnable[0] as number;
    this.miscEnableHi = miscEnable[1] as number;
    this.mcgStatus = r.u32('mcgStatus');
    this.specCtrl = r.u32('specCtrl');
    this.hwcr = r.u32('hwcr');
    this.deCfg = r.u32('deCfg');
    this.syscfg = r.u32('syscfg');
  }

  /** RDMSR. @returns false for #GP(0) */
  rdmsr(index: number, out: MsrValue): boolean {
    if (index >= X2APIC_FIRST && index <= X2APIC_LAST) return this.lapic.readX2(index, out);
    out.lo = 0;
    out.hi = 0;
    if (index >= MTRR_PHYSBASE0 && index < MTRR_PHYSBASE0 + 2 * VARIABLE_RANGES) {
      const i = (index - MTRR_PHYSBASE0) * 2;
      out.lo = this.variable[i] as number;
      out.hi = this.variable[i + 1] as number;
      return true;
    }
    const f = fixedIndex(index);
    if (f >= 0) {
      out.lo = this.fixed[f] as number;
      out.hi = this.fixed[f + 1] as number;
      return true;
    }
    switch (index) {
      case APIC_BASE:
        this.lapic.readApicBase(out);
        return true;
      case TSC_DEADLINE:
        if (!this.lapic.hasTscDeadline) break;
        this.lapic.readTscDeadline(out);
        return true;
      case MTRRCAP:
        out.lo = MTRRCAP_VALUE;
        return true;
      case MTRR_DEF_TYPE:
        out.lo = this.mtrrDefType;
        return true;
      case P5_MC_ADDR:
      case P5_MC_TYPE:
      case MCG_CAP:
        return true;
      case MCG_STATUS:
        out.lo = this.mcgStatus;
        return true;
      case BIOS_SIGN_ID:
        // Intel has the revision in the high half, AMD in the low.
        if (this.amd) out.lo = this.microcode;
        else out.hi = this.microcode;
        return true;
      case SPEC_CTRL:
        if (!this.offersSpecCtrl) break;
        out.lo = this.specCtrl;
        return true;
      case DEBUGCTL:
        return true;
      default:
        if (this.amd ? this.readAmd(index, out) : this.readIntel(index, out)) return true;
    }
    return this.unknownRead(index);
  }

  private readIntel(index: number, out: MsrValue): boolean {
    switch (index) {
      case PLATFORM_ID:
      case EBL_CR_POWERON:
      case SMI_COUNT:
      case PKG_ENERGY_STATUS:
      case DRAM_ENERGY_STATUS:
      case PP0_ENERGY_STATUS:
      case PP1_ENERGY_STATUS:
        return true;
      case FEATURE_CONTROL:
        out.lo = 1; // locked, with VMX and SMX off
        return true;
      case PLATFORM_INFO:
        // Base ratio in bits 15:8, lowest in 47:40.
        out.lo = this.ratio << 8;
        out.hi = this.ratio << 8;
        return true;
      case PERF_STATUS:
        out.lo = this.ratio << 8;
        return true;
      case TURBO_RATIO_LIMIT:
      case TURBO_RATIO_LIMIT1:
        out.lo = Math.imul(this.ratio, 0x01010101) >>> 0;
        out.hi = out.lo;
        return true;
      case MISC_ENABLE:
        out.lo = this.miscEnableLo;
        out.hi = this.miscEnableHi;
        return true;
      case RAPL_POWER_UNIT:
        out.lo = RAPL_UNITS;
        return true;
      default:
        return false;
    }
  }

  private readAmd(index: number, out: MsrValue): boolean {
    switch (index) {
      case AMD_HWCR:
        out.lo = this.hwcr;
        return true;
      case AMD_DE_CFG:
        out.lo = this.deCfg;
        return true;
      case AMD_SYSCFG:
        out.lo = this.syscfg;
        return true;
      case AMD_VM_CR:
        out.lo = 0x18; // SVM disabled and locked
        return true;
      case AMD_NB_CFG:
      case AMD_INT_PENDING:
      case AMD_MMIO_CONF_BASE:
      case AMD_TSEG_ADDR:
      case AMD_TSEG_MASK:
      case AMD_LS_CFG:
      case AMD_IC_CFG:
      case AMD_DC_CFG:
      case AMD_BU_CFG:
      case AMD_BU_CFG2:
      case AMD_TOP_MEM:
      case AMD_TOP_MEM2:
        return true;
      default:
        return (index >= AMD_IORR_FIRST && index < AMD_TOP_MEM) || (index >= AMD_PERF_FIRST && index <= AMD_PERF_LAST);
    }
  }

  /** WRMSR. @returns false for #GP(0) */
  wrmsr(index: number, lo: number, hi: number): boolean {
    if (index >= X2APIC_FIRST && index <= X2APIC_LAST) return this.lapic.writeX2(index, lo, hi);
    if (index >= MTRR_PHYSBASE0 && index < MTRR_PHYSBASE0 + 2 * VARIABLE_RANGES)
      return this.writeVariable(index, lo, hi);
    const f = fixedIndex(index);
    if (f >= 0) {
      if (!memoryTypes(lo) || !memoryTypes(hi)) return false;
      this.fixed[f] = lo;
      this.fixed[f + 1] = hi;
      return true;
    }
    switch (index) {
      case APIC_BASE:
        return this.lapic.writeApicBase(lo, hi);
      case TSC_DEADLINE:
        if (!this.lapic.hasTscDeadline) break;
        this.lapic.writeTscDeadline(lo, hi);
        return true;
      case MTRRCAP:
      case MCG_CAP:
        return false; // read-only
      case MTRR_DEF_TYPE:
        if (hi !== 0 || (lo & ~(DEF_TYPE_FLAGS | 0xff)) !== 0 || !memoryType(lo & 0xff)) return false;
        this.mtrrDefType = lo;
        return true;
      case P5_MC_ADDR:
      case P5_MC_TYPE:
        return true;
      case MCG_STATUS:
        if (hi !== 0 || (lo & ~7) !== 0) return false;
        this.mcgStatus = lo;
        return true;
      case BIOS_SIGN_ID:
      case BIOS_UPDT_TRIG:
        return true; // there is no other microcode to load
      case SPEC_CTRL:
        if (!this.offersSpecCtrl) break;
        if (hi !== 0 || (lo & ~SPEC_CTRL_WRITABLE) !== 0) return false;
        this.specCtrl = lo;
        return true;
      case PRED_CMD:
        if (!this.offersSpecCtrl) break;
        return hi === 0 && (lo & ~1) === 0;
      case DEBUGCTL:
        // Branch records and single-step on branches can be asked for; nothing comes of it.
        return hi === 0 && (lo & ~3) === 0;
      default:
        if (this.amd) {
          const r = this.writeAmd(index, lo, hi);
          if (r !== null) return r;
        } else {
          const r = this.writeIntel(index, lo, hi);
          if (r !== null) return r;
        }
    }
    return this.unknownWrite(index, lo, hi);
  }

  /** Null: not an Intel MSR of ours. */
  private writeIntel(index: number, lo: number, hi: number): boolean | null {
    switch (index) {
      case MISC_ENABLE:
        if ((hi & ~MISC_ENABLE_HI) !== 0 || (lo & ~(MISC_ENABLE_LO | MISC_ENABLE_RO)) !== 0) return false;
        this.miscEnableLo = (lo & MISC_ENABLE_LO) | (MISC_ENABLE_RESET & MISC_ENABLE_RO);
        this.miscEnableHi = hi;
        return true;
      case UNCORE_C_BOX:
      case UNCORE_R_BOX:
      case EBL_CR_POWERON:
        return true;
      case PLATFORM_ID:
      case SMI_COUNT:
      case FEATURE_CONTROL:
      case PLATFORM_INFO:
      case PERF_STATUS:
      case TURBO_RATIO_LIMIT:
      case TURBO_RATIO_LIMIT1:
      case RAPL_POWER_UNIT:
      case PKG_ENERGY_STATUS:
      case DRAM_ENERGY_STATUS:
      case PP0_ENERGY_STATUS:
      case PP1_ENERGY_STATUS:
        return false; // read-only or locked
      default:
        return null;
    }
  }

  /** Null: not an AMD MSR of ours. */
  private writeAmd(index: number, lo: number, hi: number): boolean | null {
    switch (index) {
      case AMD_HWCR:
        if (hi !== 0 || (lo & ~HWCR_WRITABLE) !== 0) return false;
        this.hwcr = lo;
        return true;
      case AMD_DE_CFG:
        this.deCfg = (lo & DE_CFG_LFENCE) | DE_CFG_LFENCE;
        return true;
      case AMD_SYSCFG:
        if (hi !== 0 || (lo & ~SYSCFG_WRITABLE) !== 0) return false;
        this.syscfg = lo;
        return true;
      case AMD_PATCH_LOADER:
      case AMD_NB_CFG:
      case AMD_INT_PENDING:
      case AMD_MMIO_CONF_BASE:
      case AMD_TSEG_ADDR:
      case AMD_TSEG_MASK:
      case AMD_LS_CFG:
      case AMD_IC_CFG:
      case AMD_DC_CFG:
      case AMD_BU_CFG:
      case AMD_BU_CFG2:
      case AMD_VM_CR:
      case AMD_TOP_MEM:
      case AMD_TOP_MEM2:
        return true; // taken, without effect
      default:
        if (index >= AMD_PERF_FIRST && index <= AMD_PERF_LAST) return true;
        return index >= AMD_IORR_FIRST && index < AMD_TOP_MEM ? true : null;
    }
  }

  private writeVariable(index: number, lo: number, hi: number): boolean {
    if ((hi & ~this.physHi) !== 0) return false;
    const mask = (index & 1) !== 0;
    if (mask ? (lo & 0x7ff) !== 0 : (lo & 0xf00) !== 0 || !memoryType(lo & 0xff)) return false;
    const i = (index - MTRR_PHYSBASE0) * 2;
    this.variable[i] = lo;
    this.variable[i + 1] = hi;
    return true;
  }

  private unknownRead(index: number): boolean {
    this.unknownReads++;
    if (this.firstTime(index)) this.log.debug(`rdmsr 0x${index.toString(16)}: unknown, ${this.answer()}`);
    return this.ignoreUnknown;
  }

  private unknownWrite(index: number, lo: number, hi: number): boolean {
    this.unknownWrites++;
    if (this.firstTime(index))
      this.log.debug(
        `wrmsr 0x${index.toString(16)} = 0x${hi.toString(16)}:${lo.toString(16).padStart(8, '0')}: unknown, ${this.answer()}`,
      );
    return this.ignoreUnknown;
  }

  private answer(): string {
    return this.ignoreUnknown ? 'ignored' : '#GP';
  }

  /** Whether to log `index`: the first time, while there is room (a guest can name 2^32 of them). */
  private firstTime(index: number): boolean {
    if (!this.log.on || this.logged.size >= MAX_LOGGED || this.logged.has(index)) return false;
    this.logged.add(index);
    return true;
  }
}

/** Index of a fixed-range MTRR's low half in the table, or -1. */
function fixedIndex(index: number): number {
  if (index >= MTRR_FIX4K_C0000 && index <= MTRR_FIX4K_F8000) return (index - MTRR_FIX4K_C0000 + 3) * 2;
  if (index === MTRR_FIX64K) return 0;
  if (index === MTRR_FIX16K_80000) return 2;
  if (index === MTRR_FIX16K_A0000) return 4;
  return -1;
}
