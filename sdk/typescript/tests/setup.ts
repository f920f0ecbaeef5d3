/** The servers of a test run: `bandsox serve`, of a storage directory with machines and of one that lets nobody in without a key. */

import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { type Readable, type Writable } from "node:stream";
import { type TestProject } from "vitest/node";

const ROOT = new URL("../../..", import.meta.url).pathname;
const PYTHON = `${ROOT}.venv/bin/python`;

/** A server that runs, and how to reach it. */
export interface Server {
  url: string;
  storage: string;
  python: string;
  key: string;
  password: string;
}

declare module "vitest" {
  interface ProvidedContext {
    server: Server;
    guarded: Server;
  }
}

type Process = ChildProcessByStdio<Writable, Readable, null>;

async function started(process: Process): Promise<Server> {
  const [line] = (await Promise.race([
    once(createInterface(process.stdout), "line"),
    once(process, "exit").then(([status]) => {
      throw new Error(`the server ended with ${String(status)}`);
    }),
  ])) as [string];
  return JSON.parse(line) as Server;
}

/** Starts a server, for `python -m tests.server.standing` with these words. It ends when its standard input is closed. */
export function standing(...words: string[]): Process {
  return spawn(PYTHON, ["-m", "tests.server.standing", ...words], { cwd: ROOT, stdio: ["pipe", "pipe", "inherit"] });
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const processes = { server: standing("sdk", "--proxy-port", "0"), guarded: standing("--guarded") };
  project.provide("server", await started(processes.server));
  project.provide("guarded", await started(processes.guarded));
  return async () => {
    for (const process of Object.values(processes)) {
      process.stdin.end();
      if (process.exitCode === null) await once(process, "exit");
    }
  };
}
