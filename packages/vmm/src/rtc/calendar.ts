// Proleptic Gregorian calendar in whole days, without Date objects. Days are counted from 1970-01-01.

/** Days from 1970-01-01 to a date; `month` 1-12. Years count from March, so that the leap day comes last. */
export function daysFromDate(year: number, month: number, day: number): number {
  const y = month <= 2 ? year - 1 : year;
  const m = month <= 2 ? month + 9 : month - 3;
  const leaps = Math.floor(y / 4) - Math.floor(y / 100) + Math.floor(y / 400);
  return y * 365 + leaps + Math.floor((m * 153 + 2) / 5) + (day - 1) - 719468;
}

/** Days in a month of a year. */
export function daysInMonth(year: number, month: number): number {
  if (month !== 2) return 30 + ((month + (month >> 3)) & 1);
  return (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0 ? 29 : 28;
}

/** The year that day number `days` falls in. */
export function yearOfDay(days: number): number {
  let y = 1970 + Math.floor(days / 365.2425);
  while (daysFromDate(y, 1, 1) > days) y--;
  while (daysFromDate(y + 1, 1, 1) <= days) y++;
  return y;
}
