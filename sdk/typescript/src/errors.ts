/**
 * Every error of this package, in one tree. It is that of the library, one class for each of its branches:
 *
 *     BandSoxError
 *     ├── InvalidRequest    the caller's mistake; trying again without a change cannot help
 *     ├── AccessDenied      the server does not let the caller do this
 *     ├── NotFound          something that was named does not exist
 *     ├── HostError         the server's host cannot do it as it stands, or the server was not reached
 *     ├── ImageError        an image could not be fetched or is broken
 *     ├── MachineError      a machine did not come up, or stopped
 *     ├── GuestError        the guest's kernel or agent answered with an error
 *     ├── Timeout           a deadline passed, and nothing was changed
 *     └── OutcomeUnknown    the connection was lost after something was sent that has effects: it may have happened
 *
 * What a program acts upon is `code`, which is stable. A call that its caller aborts is rejected with the reason of the signal.
 *
 * @module
 */

/** The branch of the tree that each code belongs to. */
const FAMILIES = {
  error: "BandSoxError",
  internal_error: "BandSoxError",
  invalid_request: "InvalidRequest",
  invalid_reference: "InvalidRequest",
  invalid_dockerfile: "InvalidRequest",
  conflict: "InvalidRequest",
  request_too_large: "InvalidRequest",
  method_not_allowed: "InvalidRequest",
  foreign_host: "AccessDenied",
  foreign_origin: "AccessDenied",
  access_denied: "AccessDenied",
  not_authenticated: "AccessDenied",
  forbidden: "AccessDenied",
  too_many_requests: "AccessDenied",
  not_found: "NotFound",
  vm_not_found: "NotFound",
  image_not_found: "NotFound",
  snapshot_not_found: "NotFound",
  checkpoint_not_found: "NotFound",
  template_not_found: "NotFound",
  kernel_not_found: "NotFound",
  session_not_found: "NotFound",
  python_not_found: "NotFound",
  host_error: "HostError",
  missing_tool: "HostError",
  unsupported: "HostError",
  requirement_not_met: "HostError",
  corrupt_snapshot: "HostError",
  untrusted_snapshot: "HostError",
  storage_full: "HostError",
  server_unavailable: "HostError",
  download_failed: "HostError",
  download_interrupted: "HostError",
  image_error: "ImageError",
  registry_error: "ImageError",
  registry_unavailable: "ImageError",
  build_failed: "ImageError",
  digest_mismatch: "ImageError",
  corrupt_image: "ImageError",
  machine_error: "MachineError",
  boot_failed: "MachineError",
  machine_stopped: "MachineError",
  vmm_error: "MachineError",
  guest_error: "GuestError",
  guest_file_error: "GuestError",
  guest_file_not_found: "GuestError",
  exec_failed: "GuestError",
  command_not_found: "GuestError",
  connection_failed: "GuestError",
  connection_refused: "GuestError",
  connection_reset: "GuestError",
  invalid_response: "GuestError",
  limit_exceeded: "GuestError",
  protocol_error: "GuestError",
  timeout: "Timeout",
  command_timeout: "Timeout",
  outcome_unknown: "OutcomeUnknown",
} as const;

/** What went wrong, for programs. A newer server may know further codes. */
export type ErrorCode = keyof typeof FAMILIES;

/** The codes that this version knows. */
export const ERROR_CODES: readonly ErrorCode[] = Object.keys(FAMILIES) as ErrorCode[];

/** What is known of a failure besides its code and message. */
export interface Failure {
  /** The status code of the server's answer; 0 where there was none. */
  statusCode?: number | undefined;
  /** The likely reason: a sentence of the server's, or the error that was met here. */
  cause?: unknown;
  /** What the reader can do about it. */
  remedy?: string | undefined;
  /** Whether the same call may succeed later without anything being changed. */
  retryable?: boolean | undefined;
  /** Further facts for programs. */
  detail?: Record<string, unknown> | undefined;
}

/** Base of every error of this package. */
export class BandSoxError extends Error {
  override readonly name: string = "BandSoxError";
  /** What went wrong, for programs: an {@link ErrorCode}, or one that only a newer server knows. */
  readonly code: ErrorCode | (string & {});
  /** The status code of the server's answer; 0 where there was none. */
  readonly statusCode: number;
  /** What the reader can do about it. */
  readonly remedy: string | undefined;
  /** Whether the same call may succeed later without anything being changed. */
  readonly retryable: boolean;
  /** Further facts for programs. */
  readonly detail: Record<string, unknown>;

  constructor(code: ErrorCode | (string & {}), message: string, { statusCode, cause, remedy, retryable, detail }: Failure = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.code = code;
    this.statusCode = statusCode ?? 0;
    this.remedy = remedy;
    this.retryable = retryable ?? false;
    this.detail = detail ?? {};
  }
}

/** The caller's mistake; trying again without a change cannot help. */
export class InvalidRequest extends BandSoxError {
  override readonly name = "InvalidRequest";
}

/** The server does not let the caller do what was asked. */
export class AccessDenied extends BandSoxError {
  override readonly name = "AccessDenied";
}

/** Something that was named does not exist. */
export class NotFound extends BandSoxError {
  override readonly name = "NotFound";
}

/** The server's host cannot do it as it stands; with the code `server_unavailable` the server was not reached. */
export class HostError extends BandSoxError {
  override readonly name = "HostError";
}

/** An image could not be fetched or is broken. */
export class ImageError extends BandSoxError {
  override readonly name = "ImageError";
}

/** A machine did not come up, or stopped. */
export class MachineError extends BandSoxError {
  override readonly name = "MachineError";
}

/** The guest's kernel or agent answered with an error. */
export class GuestError extends BandSoxError {
  override readonly name = "GuestError";
}

/** A deadline passed, and nothing was changed; with the code `command_timeout` a command was killed. */
export class Timeout extends BandSoxError {
  override readonly name = "Timeout";
}

/** The connection was lost after something was sent that has effects: it may have happened, or not. */
export class OutcomeUnknown extends BandSoxError {
  override readonly name = "OutcomeUnknown";
}

const CLASSES = {
  BandSoxError,
  InvalidRequest,
  AccessDenied,
  NotFound,
  HostError,
  ImageError,
  MachineError,
  GuestError,
  Timeout,
  OutcomeUnknown,
} satisfies Record<(typeof FAMILIES)[ErrorCode], typeof BandSoxError>;

/** The error of a code. One that this version does not know is a plain {@link BandSoxError}. */
export function errorOf(code: string, message: string, failure: Failure = {}): BandSoxError {
  const kind = Object.hasOwn(FAMILIES, code) ? CLASSES[FAMILIES[code as ErrorCode]] : BandSoxError;
  return new kind(code, message, failure);
}

/**
 * The error that a server has described: `{code, message, cause, remedy, retryable, detail}`.
 *
 * @param described what it said, whatever that is.
 * @param statusCode of the answer in which it said so.
 * @param statusText of that answer, where it said nothing that can be read.
 */
export function describedError(described: unknown, statusCode = 0, statusText = ""): BandSoxError {
  if (typeof described !== "object" || described === null || !("code" in described) || !("message" in described)) {
    const answer = `${String(statusCode)} ${statusText}`.trim();
    return new BandSoxError("error", `the server answered ${answer}, and not as a BandSox server does`, {
      statusCode,
      remedy: "check its address",
    });
  }
  const { code, message, cause, remedy, retryable, detail } = described as Record<string, unknown>;
  return errorOf(String(code), String(message), {
    statusCode,
    cause: cause ?? undefined,
    remedy: typeof remedy === "string" ? remedy : undefined,
    retryable: retryable === true,
    detail: typeof detail === "object" && detail !== null ? (detail as Record<string, unknown>) : undefined,
  });
}
