/**
 * BandSox from TypeScript: any OCI image as a real virtual machine, on a server that runs `bandsox serve`.
 *
 * @packageDocumentation
 */

export { BandSox } from "./client.js";
export {
  AccessDenied,
  BandSoxError,
  ERROR_CODES,
  GuestError,
  HostError,
  ImageError,
  InvalidRequest,
  MachineError,
  NotFound,
  OutcomeUnknown,
  Timeout,
  type ErrorCode,
  type Failure,
} from "./errors.js";
export { Execution, type ExecEnd, type Output } from "./execution.js";
export { type Command, type Guest } from "./guest.js";
export { MicroVM } from "./microvm.js";
export { GuestSocket, type ConnectOptions } from "./socket.js";
export {
  SHELL,
  TerminalSession,
  type Handler,
  type OutputHandler,
  type TerminalEnd,
  type TerminalOptions,
  type TerminalState,
} from "./terminal.js";
export type * from "./types.js";
export { Webhooks } from "./webhooks.js";
