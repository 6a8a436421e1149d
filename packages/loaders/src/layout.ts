// Low-memory addresses the Linux and PVH loaders use; GDT, zero page and command line are where xhyve's kexec.c has them.
//
//   0x02000  flat GDT (5 descriptors)
//   0x03000  Linux zero page, or PVH start info, module list and memory map
//   0x04000  command line, up to 0xC000 bytes with its NUL
//   0x10000  page tables for 64-bit entry: PML4, PDPT, 4 page directories, 0-4 GiB in 2 MiB pages
//   0x16000  setup_data list
//   0x80000  end of what is used

/** Flat GDT. */
export const GDT = 0x2000;
/** Linux boot_params, 4 KiB. */
export const ZERO_PAGE = 0x3000;
/** Command line. */
export const CMDLINE = 0x4000;
/** Most bytes of command line that fit before the page tables, with its NUL. */
export const CMDLINE_ROOM = 0xc000;
/** Identity page tables. */
export const PAGE_TABLES = 0x10000;
/** setup_data nodes. */
export const SETUP_DATA = 0x16000;
/** End of setup_data's room. */
export const SETUP_DATA_END = 0x80000;
/** Where kernels go at the lowest. */
export const MIB = 0x100000;
/** Where high memory begins. */
export const GIB4: number = 2 ** 32;
