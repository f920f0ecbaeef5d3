// Builds dist/: the package as ECMAScript modules and as CommonJS, each with the types that belong to it.
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";

process.chdir(new URL("..", import.meta.url).pathname);
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");

rmSync("dist", { recursive: true, force: true });
for (const [kind, type] of Object.entries({ esm: "module", cjs: "commonjs" })) {
  execFileSync(process.execPath, [tsc, "-p", `tsconfig.${kind}.json`], { stdio: "inherit" });
  mkdirSync(`dist/${kind}`, { recursive: true });
  writeFileSync(`dist/${kind}/package.json`, `${JSON.stringify({ type })}\n`);
}
copyFileSync("../../LICENSE", "LICENSE"); // npm packs none from above
