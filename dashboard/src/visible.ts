/** What guests say, as text that does nothing: control characters appear as their pictures (Unicode, Control Pictures). */

// ECMA-48: control sequences, operating system commands and the like, and single escapes.
const SEQUENCES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|[PX^_\]][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])/g; // eslint-disable-line no-control-regex
const CONTROLS = /[\x00-\x1f\x7f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g; // eslint-disable-line no-control-regex
const BUT_LINES = /[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\u2066-\u2069]/g; // eslint-disable-line no-control-regex

/** Text that a guest has printed, of any number of lines, without the sequences that would move a cursor or change colours. */
export function visible(text: string): string {
  return text.replaceAll("\r\n", "\n").replace(SEQUENCES, "").replace(BUT_LINES, picture);
}

/** A name that a guest has chosen, as one line that shows everything in it: two names are never shown alike for what cannot be seen. */
export function named(name: string): string {
  return name.replace(CONTROLS, picture);
}

function picture(character: string): string {
  const code = character.charCodeAt(0);
  if (code > 0x7f) return "\ufffd"; // one that would reorder the text around it, or has no width
  return String.fromCharCode(code === 0x7f ? 0x2421 : 0x2400 + code);
}
