import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import svelte from "eslint-plugin-svelte";
import globals from "globals";
import tseslint from "typescript-eslint";

export default defineConfig(
  globalIgnores(["**/dist/", "**/generated/", "**/.venv/", "bandsox/", "docs/", "sdk/typescript/docs/", "sdk/typescript/tests/consumers/"]),
  js.configs.recommended,
  tseslint.configs.strictTypeChecked,
  tseslint.configs.stylisticTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      "no-console": "error",
      eqeqeq: "error",
      "@typescript-eslint/no-empty-object-type": ["error", { allowInterfaces: "with-single-extends" }],
      "@typescript-eslint/consistent-type-imports": ["error", { fixStyle: "inline-type-imports" }],
      "@typescript-eslint/explicit-module-boundary-types": "error",
      // Numbers in a text are not a mistake.
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  svelte.configs.recommended,
  {
    files: ["dashboard/src/**"],
    languageOptions: {
      globals: globals.browser,
      parserOptions: { extraFileExtensions: [".svelte"], parser: tseslint.parser, projectService: true },
    },
    rules: {
      // An application has no boundary: everything that calls it is checked with it.
      "@typescript-eslint/explicit-module-boundary-types": "off",
      // Where a component is sure that an element is there, it says so.
      "@typescript-eslint/no-non-null-assertion": "off",
      // The pages of the dashboard are its own; its router takes their addresses as they are.
      "svelte/no-navigation-without-resolve": "off",
      // A handler that only does something says so in one line.
      "@typescript-eslint/no-confusing-void-expression": ["error", { ignoreArrowShorthand: true }],
    },
  },
  {
    files: ["**/*.svelte"],
    rules: {
      // The types of components and templates are unknown here; svelte-check knows and checks them.
      ...Object.fromEntries(
        ["argument", "assignment", "call", "member-access", "return"].map((what) => [`@typescript-eslint/no-unsafe-${what}`, "off"]),
      ),
      // A statement that names a value makes an effect depend on it.
      "@typescript-eslint/no-meaningless-void-operator": "off",
    },
  },
  { files: ["sdk/typescript/examples/**"], rules: { "no-console": "off" } },
  { files: ["**/*.js", "**/*.mjs"], extends: [tseslint.configs.disableTypeChecked], languageOptions: { globals: globals.node } },
);
