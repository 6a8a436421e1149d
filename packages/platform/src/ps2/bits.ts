// 8042 keyboard controller and PS/2 devices: IBM PS/2 Hardware Interface Technical Reference (Keyboard and Auxiliary
// Device Controller; Keyboards; Mouse), 1990, and Intel UPI-42 command set as PC chipsets implement it. All 8 bits.

/** Offset of port 0x60 from itself, and of 0x64. */
export const DATA = 0;
export const STATUS = 4;
export const COMMAND = 4;

/** Status register, port 0x64 read. */
export const ST_OBF: number = 1 << 0;
export const ST_SYS: number = 1 << 2;
export const ST_CMD: number = 1 << 3;
export const ST_UNLOCKED: number = 1 << 4;
export const ST_AUX: number = 1 << 5;

/** Command byte, controller RAM byte 0. */
export const CTR_KBD_INT: number = 1 << 0;
export const CTR_AUX_INT: number = 1 << 1;
export const CTR_SYS: number = 1 << 2;
export const CTR_KBD_DISABLE: number = 1 << 4;
export const CTR_AUX_DISABLE: number = 1 << 5;
export const CTR_TRANSLATE: number = 1 << 6;
export const CTR_WRITABLE = 0x7f;
/** What firmware leaves: IRQ 1 and 12 on, self-test passed, translation on. */
export const CTR_RESET: number = CTR_KBD_INT | CTR_AUX_INT | CTR_SYS | CTR_TRANSLATE;

/** Output port, read by D0, written by D1. */
export const OUT_RESET_N: number = 1 << 0;
export const OUT_A20: number = 1 << 1;
export const OUT_KBD_OBF: number = 1 << 4;
export const OUT_AUX_OBF: number = 1 << 5;
export const OUT_KBD_CLOCK: number = 1 << 6;
export const OUT_KBD_DATA: number = 1 << 7;

/** Controller commands, port 0x64 write. 0x20–0x3F and 0x60–0x7F read and write RAM byte (cmd & 0x1F). */
export const CMD_AUX_DISABLE = 0xa7;
export const CMD_AUX_ENABLE = 0xa8;
export const CMD_AUX_TEST = 0xa9;
export const CMD_SELF_TEST = 0xaa;
export const CMD_KBD_TEST = 0xab;
export const CMD_KBD_DISABLE = 0xad;
export const CMD_KBD_ENABLE = 0xae;
export const CMD_READ_INPUT = 0xc0;
export const CMD_READ_OUTPUT = 0xd0;
export const CMD_WRITE_OUTPUT = 0xd1;
export const CMD_WRITE_KBD_OBF = 0xd2;
export const CMD_WRITE_AUX_OBF = 0xd3;
export const CMD_WRITE_AUX = 0xd4;
export const CMD_A20_OFF = 0xdd;
export const CMD_A20_ON = 0xdf;
export const CMD_TEST_INPUTS = 0xe0;
export const CMD_PULSE = 0xf0;

/** Replies of keyboard and mouse. */
export const REPLY_ACK = 0xfa;
export const REPLY_BAT_OK = 0xaa;
export const REPLY_ECHO = 0xee;
export const REPLY_RESEND = 0xfe;

/** Commands of keyboard (KBD_), mouse (MOUSE_) and both (DEV_). */
export const KBD_LEDS = 0xed;
export const KBD_ECHO = 0xee;
export const KBD_SCANCODE_SET = 0xf0;
export const DEV_ID = 0xf2;
export const KBD_TYPEMATIC = 0xf3;
export const DEV_ENABLE = 0xf4;
export const DEV_DISABLE = 0xf5;
export const DEV_DEFAULTS = 0xf6;
export const KBD_ALL_FIRST = 0xf7;
export const KBD_ALL_LAST = 0xfa;
export const KBD_KEY_FIRST = 0xfb;
export const KBD_KEY_LAST = 0xfd;
export const DEV_RESEND = 0xfe;
export const DEV_RESET = 0xff;
export const MOUSE_SCALE_1 = 0xe6;
export const MOUSE_SCALE_2 = 0xe7;
export const MOUSE_RESOLUTION = 0xe8;
export const MOUSE_STATUS = 0xe9;
export const MOUSE_STREAM = 0xea;
export const MOUSE_READ = 0xeb;
export const MOUSE_UNWRAP = 0xec;
export const MOUSE_WRAP = 0xee;
export const MOUSE_REMOTE = 0xf0;
export const MOUSE_RATE = 0xf3;
