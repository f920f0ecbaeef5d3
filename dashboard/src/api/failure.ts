/** Why something failed, in the shape in which it is shown: what, why, and what to do about it. */

import { BandSoxError } from "bandsox";

export interface Failure {
  code: string;
  message: string;
  cause: string | null;
  remedy: string | null;
}

/** Whatever was thrown, as a failure. */
export function asFailure(error: unknown): Failure {
  if (error instanceof BandSoxError) {
    return { code: error.code, message: error.message, cause: reason(error.cause), remedy: error.remedy ?? null };
  }
  if (error instanceof DOMException && error.name === "AbortError") {
    return { code: "aborted", message: "it was cancelled", cause: null, remedy: null };
  }
  return { code: "error", message: error instanceof Error ? error.message : String(error), cause: null, remedy: null };
}

function reason(cause: unknown): string | null {
  if (typeof cause === "string") return cause;
  return cause instanceof Error ? cause.message : null;
}
