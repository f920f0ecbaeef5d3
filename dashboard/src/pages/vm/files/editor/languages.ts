/** The languages whose syntax has colours, by the ends of files' names; each is fetched when a file of it is opened. */

import { type LanguageSupport, StreamLanguage, type StreamParser } from "@codemirror/language";
import type { Extension } from "@codemirror/state";
import { fetched } from "../../../../fetched";
import { nameOf } from "../paths";
import { extensionOf } from "../content";

type Loader = () => Promise<LanguageSupport | Extension>;

const stream = async (parser: Promise<StreamParser<unknown>>): Promise<Extension> => StreamLanguage.define(await parser);

const javascript = (options: { jsx?: boolean; typescript?: boolean }) => async () =>
  (await import("@codemirror/lang-javascript")).javascript(options);
const shell: Loader = () => stream(import("@codemirror/legacy-modes/mode/shell").then((mode) => mode.shell));
const dockerfile: Loader = () => stream(import("@codemirror/legacy-modes/mode/dockerfile").then((mode) => mode.dockerFile));
const properties: Loader = () => stream(import("@codemirror/legacy-modes/mode/properties").then((mode) => mode.properties));
const cpp: Loader = async () => (await import("@codemirror/lang-cpp")).cpp();
const html: Loader = async () => (await import("@codemirror/lang-html")).html();
const markdown: Loader = async () => (await import("@codemirror/lang-markdown")).markdown();
const yaml: Loader = async () => (await import("@codemirror/lang-yaml")).yaml();

const BY_EXTENSION: Record<string, Loader> = {
  bash: shell,
  c: cpp,
  cc: cpp,
  conf: properties,
  cpp,
  css: async () => (await import("@codemirror/lang-css")).css(),
  go: async () => (await import("@codemirror/lang-go")).go(),
  h: cpp,
  hpp: cpp,
  htm: html,
  html,
  ini: properties,
  js: javascript({}),
  json: async () => (await import("@codemirror/lang-json")).json(),
  jsx: javascript({ jsx: true }),
  lua: () => stream(import("@codemirror/legacy-modes/mode/lua").then((mode) => mode.lua)),
  markdown,
  md: markdown,
  mjs: javascript({}),
  py: async () => (await import("@codemirror/lang-python")).python(),
  rb: () => stream(import("@codemirror/legacy-modes/mode/ruby").then((mode) => mode.ruby)),
  rs: async () => (await import("@codemirror/lang-rust")).rust(),
  sh: shell,
  sql: async () => (await import("@codemirror/lang-sql")).sql(),
  svg: async () => (await import("@codemirror/lang-xml")).xml(),
  toml: () => stream(import("@codemirror/legacy-modes/mode/toml").then((mode) => mode.toml)),
  ts: javascript({ typescript: true }),
  tsx: javascript({ jsx: true, typescript: true }),
  xml: async () => (await import("@codemirror/lang-xml")).xml(),
  yaml,
  yml: yaml,
};

const BY_NAME: Record<string, Loader> = { ".bashrc": shell, ".profile": shell, Dockerfile: dockerfile, Containerfile: dockerfile };

export async function languageOf(path: string): Promise<LanguageSupport | Extension | null> {
  const load = BY_NAME[nameOf(path)] ?? BY_EXTENSION[extensionOf(path)];
  return load ? await fetched(load) : null;
}
