/** Why something failed, in the shape in which it is shown: what, why, and what to do about it. */

import { BandSoxError } from "bandsox";

export interface Failure {
  code: string;
  message: string;
  cause: string | null;
  remedy: string | null;
}

/** The error that an answer of the server describes. */
export function described(status: number, told: unknown): BandSoxError {
  const { code, message, cause, remedy } = (typeof told === "object" && told !== null ? told : {}) as Partial<Failure>;
  return new BandSoxError(code ?? "error", message ?? `the server answered with status ${status}`, {
    statusCode: status,
    cause: cause ?? undefined,
    remedy: remedy ?? undefined,
  });
}

/** Whatever was thrown, as a failure. */
export function asFailure(error: unknown): Failure {
  if (error instanceof BandSoxError) {
    return { code: error.code, message: error.message, cause: reason(error.cause), remedy: error.remedy ?? null };
  }
  if (error instanceof DOMException && error.name === "AbortError") {
    return { code: "aborted", message: "it was cancelled", cause: null, remedy: null };
  }
  if (error instanceof TypeError) {
    const remedy = "see whether `bandsox serve` runs; this page goes on by itself when it does";
    return { code: "server_unavailable", message: "the server does not answer", cause: error.message, remedy };
  }
  return { code: "error", message: error instanceof Error ? error.message : String(error), cause: null, remedy: null };
}

function reason(cause: unknown): string | null {
  if (typeof cause === "string") return cause;
  return cause instanceof Error ? cause.message : null;
}
