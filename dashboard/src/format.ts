/** Numbers and times as people read them. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** A number of bytes: `1.5 MiB`. */
export function bytes(count: number): string {
  let value = count;
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${value >= 100 || unit === 0 ? Math.round(value) : value.toFixed(1)} ${UNITS[unit]}`;
}

/** A number of MiB: `512 MiB`, `4.0 GiB`. */
export const mebibytes = (count: number): string => bytes(count * 1024 * 1024);

const SPANS: [number, string][] = [
  [86400, "d"],
  [3600, "h"],
  [60, "min"],
  [1, "s"],
];

/** A number of seconds, to its largest unit: `3 h`. */
export function span(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const [size, unit] = SPANS.find(([each]) => whole >= each) ?? [1, "s"];
  return `${Math.floor(whole / size)} ${unit}`;
}

/** How long ago a moment was: `3 h ago`. */
export function ago(epochSeconds: number, now: number): string {
  const past = now / 1000 - epochSeconds;
  return past < 5 ? "just now" : `${span(past)} ago`;
}

/** A moment in the reader's own time and manner. */
export function moment(epochSeconds: number): string {
  return new Date(epochSeconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** The same to the minute, for tables. */
export function minute(epochSeconds: number): string {
  return new Date(epochSeconds * 1000).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** A noun with its number: `1 VM`, `3 VMs`, `3 entries`. */
export function count(number: number, noun: string, plural = `${noun}s`): string {
  return `${number} ${number === 1 ? noun : plural}`;
}
