import { svelte } from "@sveltejs/vite-plugin-svelte";
import { readFile, writeFile } from "node:fs/promises";
import { promisify } from "node:util";
import { brotliCompress, gzip } from "node:zlib";
import { defineConfig } from "vite";

/** Where the server looks for the built files: bandsox/server/dashboard/assets.py. */
const DIST = "../bandsox/server/dashboard/dist";

const brotliOf = promisify(brotliCompress);
const gzipOf = promisify(gzip);

async function compress(path) {
  const source = await readFile(path);
  if (source.length < 1024) return;
  await writeFile(`${path}.br`, await brotliOf(source));
  await writeFile(`${path}.gz`, await gzipOf(source, { level: 9 }));
}

/** Writes each file of the build a second and a third time, compressed as far as it goes, so that no request waits for that. */
const precompressed = {
  name: "precompressed",
  apply: "build",
  async writeBundle({ dir }, bundle) {
    await Promise.all(Object.keys(bundle).map((name) => compress(`${dir}/${name}`)));
  },
};

export default defineConfig({
  plugins: [svelte(), precompressed],
  build: {
    outDir: DIST,
    emptyOutDir: true,
    target: "es2022",
    cssTarget: ["chrome123", "firefox120", "safari17.5"], // those that know light-dark()
    cssCodeSplit: false, // all of it is small, and a part that is fetched again has only its program to fetch
    assetsInlineLimit: 0, // the page's policy takes nothing inline
    modulePreload: { polyfill: false },
    rolldownOptions: { checks: { pluginTimings: false } }, // compressing takes its time
  },
});
