/** The examples, run as they stand on the package that was built. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, inject, it } from "vitest";

it.each([
  ["commands", /^42\none\ntwo\napple\npear\nsort ended with 0\ncommand_timeout\n$/],
  ["files", /^5000000\n5000000\n42\n$/],
  ["copies", /^prepared 0\nprepared 1\nprepared\n$/],
  ["terminal", /30 100\r\n[^]*ended with 7\n$/],
])("%s", async (name, shown) => {
  const example = new URL(`../examples/${name}.ts`, import.meta.url).pathname;
  const env = { ...process.env, BANDSOX_URL: inject("server").url };
  const { stdout, stderr } = await promisify(execFile)(process.execPath, [example], { env });
  expect(stderr).toBe("");
  expect(stdout).toMatch(shown);
});
