/** Commands and sessions. */

import { type Sent, type Shape } from "../schema.js";

/** How a command is run. */
export interface ExecOptions {
  /** Seconds after which it is killed with all it has started; null: never. 30 by default where its end is waited for, else never. */
  timeout?: number | null | undefined;
  /** Variables of its environment, over those of the image. */
  env?: Record<string, string> | undefined;
  /** The directory it runs in. */
  cwd?: string | undefined;
  /** The user it runs as: a name or a number, with `:group` where wanted. */
  user?: string | undefined;
  /** What it reads. */
  stdin?: string | undefined;
}

/** How a command ended. What is not UTF-8 in its output appears as U+FFFD. */
export interface ExecResult extends Shape<"Ran"> {}

/** Python code to be run. */
export interface ExecPythonOptions extends Sent<"Python"> {}

/** How the code ended. `output` is both streams in the order in which they came; a timeout is the exit code 124. */
export interface ExecPythonResult extends Shape<"PythonRan"> {}

/** How a program is run that is watched while it runs. */
export interface ExecuteOptions extends Omit<ExecOptions, "stdin"> {
  /** Whether it reads what is written to it; without, it reads nothing. */
  stdin?: boolean | undefined;
  /** The size of the terminal it runs in; without, it runs in none. */
  tty?: { cols: number; rows: number } | undefined;
}

/** How a session is started. */
export interface SessionOptions extends ExecuteOptions {
  /** Its id: up to 64 letters, digits, `_`, `.` and `-`; made up when absent. */
  id?: string | undefined;
}

/** A session that was started. */
export interface StartedSession extends Shape<"StartedSession"> {}

/** A session, perhaps one that ended lately. */
export interface SessionInfo extends Shape<"Session"> {}
