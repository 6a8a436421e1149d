// X11 keysyms (X Window System Protocol, appendix A; XF86keysym.h) to keys of a US keyboard, for VNC clients, which send
// keysyms and the modifiers that make them.
import { isKeyName, type KeyName } from './keys.ts';

/** Unshifted and shifted character of each printing key. */
const CHARACTERS: readonly (readonly [KeyName, string])[] = [
  ['Backquote', '`~'],
  ['Digit1', '1!'],
  ['Digit2', '2@'],
  ['Digit3', '3#'],
  ['Digit4', '4$'],
  ['Digit5', '5%'],
  ['Digit6', '6^'],
  ['Digit7', '7&'],
  ['Digit8', '8*'],
  ['Digit9', '9('],
  ['Digit0', '0)'],
  ['Minus', '-_'],
  ['Equal', '=+'],
  ['BracketLeft', '[{'],
  ['BracketRight', ']}'],
  ['Backslash', '\\|'],
  ['Semicolon', ';:'],
  ['Quote', '\'"'],
  ['Comma', ',<'],
  ['Period', '.>'],
  ['Slash', '/?'],
  ['Space', '  '],
];

/** Keysyms that are no characters. */
const SYMBOLS: readonly (readonly [number, KeyName])[] = [
  [0xff08, 'Backspace'],
  [0xff09, 'Tab'],
  [0xfe20, 'Tab'], // ISO_Left_Tab: Shift+Tab
  [0xff0a, 'Enter'], // Linefeed
  [0xff0d, 'Enter'],
  [0xff13, 'Pause'],
  [0xff6b, 'Pause'], // Break
  [0xff14, 'ScrollLock'],
  [0xff15, 'PrintScreen'], // Sys_Req
  [0xff61, 'PrintScreen'],
  [0xff1b, 'Escape'],
  [0xffff, 'Delete'],
  [0xff50, 'Home'],
  [0xff51, 'ArrowLeft'],
  [0xff52, 'ArrowUp'],
  [0xff53, 'ArrowRight'],
  [0xff54, 'ArrowDown'],
  [0xff55, 'PageUp'],
  [0xff56, 'PageDown'],
  [0xff57, 'End'],
  [0xff58, 'Home'], // Begin
  [0xff63, 'Insert'],
  [0xff67, 'ContextMenu'],
  [0xff7f, 'NumLock'],
  [0xff22, 'NonConvert'], // Muhenkan
  [0xff23, 'Convert'], // Henkan
  [0xff27, 'KanaMode'], // Hiragana_Katakana
  [0xff31, 'Lang1'], // Hangul
  [0xff34, 'Lang2'], // Hangul_Hanja
  [0xff80, 'Space'], // KP_Space
  [0xff89, 'Tab'], // KP_Tab
  [0xff8d, 'NumpadEnter'],
  [0xff95, 'Numpad7'], // KP_Home
  [0xff96, 'Numpad4'],
  [0xff97, 'Numpad8'],
  [0xff98, 'Numpad6'],
  [0xff99, 'Numpad2'],
  [0xff9a, 'Numpad9'],
  [0xff9b, 'Numpad3'],
  [0xff9c, 'Numpad1'],
  [0xff9d, 'Numpad5'], // KP_Begin
  [0xff9e, 'Numpad0'],
  [0xff9f, 'NumpadDecimal'],
  [0xffaa, 'NumpadMultiply'],
  [0xffab, 'NumpadAdd'],
  [0xffac, 'NumpadComma'], // KP_Separator
  [0xffad, 'NumpadSubtract'],
  [0xffae, 'NumpadDecimal'],
  [0xffaf, 'NumpadDivide'],
  [0xffbd, 'NumpadEqual'],
  [0xffe1, 'ShiftLeft'],
  [0xffe2, 'ShiftRight'],
  [0xffe3, 'ControlLeft'],
  [0xffe4, 'ControlRight'],
  [0xffe5, 'CapsLock'],
  [0xffe6, 'CapsLock'], // Shift_Lock
  [0xffe7, 'MetaLeft'],
  [0xffe8, 'MetaRight'],
  [0xffe9, 'AltLeft'],
  [0xffea, 'AltRight'],
  [0xffeb, 'MetaLeft'], // Super_L
  [0xffec, 'MetaRight'],
  [0xffed, 'MetaLeft'], // Hyper_L
  [0xffee, 'MetaRight'],
  [0xfe03, 'AltRight'], // ISO_Level3_Shift
  [0xff7e, 'AltRight'], // Mode_switch
  [0x00a5, 'IntlYen'],
  [0x00a6, 'IntlBackslash'], // brokenbar, the 102nd key of some layouts
  [0x1008ff11, 'AudioVolumeDown'],
  [0x1008ff12, 'AudioVolumeMute'],
  [0x1008ff13, 'AudioVolumeUp'],
  [0x1008ff14, 'MediaPlayPause'],
  [0x1008ff31, 'MediaPlayPause'], // AudioPause
  [0x1008ff15, 'MediaStop'],
  [0x1008ff16, 'MediaTrackPrevious'],
  [0x1008ff17, 'MediaTrackNext'],
  [0x1008ff18, 'BrowserHome'],
  [0x1008ff19, 'LaunchMail'],
  [0x1008ff1b, 'BrowserSearch'],
  [0x1008ff1d, 'LaunchApp2'], // Calculator
  [0x1008ff33, 'LaunchApp1'], // My Computer
  [0x1008ff5d, 'LaunchApp1'], // Explorer
  [0x1008ff26, 'BrowserBack'],
  [0x1008ff27, 'BrowserForward'],
  [0x1008ff28, 'BrowserStop'],
  [0x1008ff29, 'BrowserRefresh'],
  [0x1008ff30, 'BrowserFavorites'],
  [0x1008ff32, 'MediaSelect'],
  [0x1008ff2a, 'Power'],
  [0x1008ff2f, 'Sleep'],
  [0x1008ff2b, 'WakeUp'],
];

function buildTable(): ReadonlyMap<number, KeyName> {
  const table = new Map<number, KeyName>(SYMBOLS);
  for (const [key, pair] of CHARACTERS) for (const c of pair) table.set(c.charCodeAt(0), key);
  for (let i = 0; i < 26; i++) {
    const key = `Key${String.fromCharCode(0x41 + i)}`;
    if (!isKeyName(key)) continue;
    table.set(0x41 + i, key);
    table.set(0x61 + i, key);
  }
  for (let i = 0; i < 10; i++) {
    const key = `Numpad${i}`;
    if (isKeyName(key)) table.set(0xffb0 + i, key);
  }
  for (let i = 1; i <= 24; i++) {
    const key = `F${i}`;
    if (isKeyName(key)) table.set(0xffbd + i, key);
  }
  for (let i = 1; i <= 4; i++) table.set(0xff90 + i, `F${i}` as KeyName); // KP_F1–KP_F4
  return table;
}

const TABLE: ReadonlyMap<number, KeyName> = buildTable();

/**
 * The key of a US keyboard that carries an X11 keysym in either shift level, or null. Unicode keysyms (0x01000000 + code
 * point) of ASCII characters count as those characters.
 */
export function keysymToKey(keysym: number): KeyName | null {
  const sym = keysym >= 0x01000020 && keysym <= 0x0100007e ? keysym - 0x01000000 : keysym;
  return TABLE.get(sym) ?? null;
}
