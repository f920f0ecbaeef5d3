import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { type Server, createServer } from "node:http";
import { once } from "node:events";
import { type AddressInfo } from "node:net";
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from "vitest";
import { BandSox, BandSoxError, ERROR_CODES, InvalidRequest } from "../src/index.js";
import * as errors from "../src/errors.js";
import { Proxy } from "./proxy.js";

describe("the codes of errors", () => {
  it("are those of the library, in the same branches of the tree", () => {
    const script = `
import json
from bandsox import errors
def walk(kind, top):
    yield kind.code, top.__name__
    for below in kind.__subclasses__():
        yield from walk(below, top)
print(json.dumps(dict(pair for top in errors.BandSoxError.__subclasses__() for pair in walk(top, top))))`;
    const tree = JSON.parse(execFileSync(inject("server").python, ["-c", script], { encoding: "utf8" })) as Record<string, string>;
    for (const [code, family] of Object.entries(tree)) expect([code, errors.errorOf(code, "").name]).toEqual([code, family]);
    expect(ERROR_CODES.length).toBeGreaterThan(Object.keys(tree).length);
  });

  it("may be of a newer server", () => {
    const error = errors.describedError(
      { code: "brand_new", message: "m", cause: "c", remedy: "r", retryable: true, detail: { a: 1 } },
      500,
    );
    expect(error).toMatchObject({
      name: "BandSoxError",
      code: "brand_new",
      message: "m",
      cause: "c",
      remedy: "r",
      retryable: true,
      detail: { a: 1 },
    });
  });
});

describe("the address of a server", () => {
  it.each(["", "127.0.0.1:8000", "/relative", "ftp://host", "nonsense"])("cannot be %j", (baseUrl) => {
    expect(() => new BandSox({ baseUrl })).toThrow(InvalidRequest);
  });

  it("may have a path, and end with a slash", async () => {
    await expect(new BandSox({ baseUrl: `${inject("server").url}/` }).authCheck()).resolves.toMatchObject({ authenticated: true });
    await expect(new BandSox({ baseUrl: `${inject("server").url}/elsewhere/` }).authCheck()).rejects.toMatchObject({ statusCode: 404 });
  });
});

describe("a connection that fails", () => {
  let proxy: Proxy;
  let bandsox: BandSox;

  beforeAll(async () => {
    proxy = await Proxy.of(inject("server").url);
  });

  beforeEach(() => {
    proxy.cut();
    proxy.connections = 0;
    bandsox = new BandSox({ baseUrl: proxy.url });
  });

  afterAll(() => {
    proxy.close();
  });

  it("is made again for what has no effects", async () => {
    proxy.cuts = [1, 1];
    expect(await bandsox.listImages()).not.toEqual([]);
    expect(proxy.connections).toBe(3);
  });

  it("is made again only so often", async () => {
    proxy.cuts = [1, 1, 1];
    await expect(bandsox.listImages()).rejects.toMatchObject({ code: "server_unavailable", retryable: true, statusCode: 0 });
    expect(proxy.connections).toBe(3);
  });

  it("is not made again for what has effects, the outcome of which is unknown", async () => {
    proxy.cuts = [1];
    await expect(bandsox.pauseVm("none")).rejects.toMatchObject({ name: "OutcomeUnknown", code: "outcome_unknown" });
    expect(proxy.connections).toBe(1);
  });

  it("has sent nothing where nobody listens, whatever was asked", async () => {
    const gone = await Proxy.of(inject("server").url);
    gone.close();
    await expect(new BandSox({ baseUrl: gone.url }).pauseVm("none")).rejects.toMatchObject({
      name: "HostError",
      code: "server_unavailable",
    });
  });

  it("waits for the next try no longer than its signal", async () => {
    const gone = await Proxy.of(inject("server").url);
    gone.close();
    const controller = new AbortController();
    const listing = new BandSox({ baseUrl: gone.url, retries: 1000 }).listVms({}, { signal: controller.signal });
    controller.abort(new Error("enough"));
    await expect(listing).rejects.toThrow("enough");
  });
});

describe("what is no server of BandSox", () => {
  let other: Server;
  let answer: { status: number; body: string; headers?: Record<string, string> } | "silence";
  let requests: number;
  let url: string;

  beforeAll(async () => {
    other = createServer((_, response) => {
      requests++;
      if (answer !== "silence") response.writeHead(answer.status, answer.headers).end(answer.body);
    });
    other.listen(0, "127.0.0.1");
    await once(other, "listening");
    url = `http://127.0.0.1:${(other.address() as AddressInfo).port}`;
  });

  beforeEach(() => {
    requests = 0;
  });

  afterAll(() => {
    other.closeAllConnections();
    other.close();
  });

  it("is said to be none", async () => {
    answer = { status: 500, body: "<html>" };
    await expect(new BandSox({ baseUrl: url }).listVms()).rejects.toMatchObject({ name: "BandSoxError", code: "error", statusCode: 500 });
  });

  it("leads nowhere else", async () => {
    answer = { status: 307, body: "", headers: { location: inject("server").url } };
    await expect(new BandSox({ baseUrl: url }).listVms()).rejects.toBeInstanceOf(BandSoxError);
  });

  it("is waited for so long, and no longer", async () => {
    answer = "silence";
    const patient = new BandSox({ baseUrl: url, timeout: 50, retries: 1 });
    await expect(patient.listVms()).rejects.toMatchObject({ code: "server_unavailable" });
    expect(requests).toBe(2);
    await expect(patient.pauseVm("any")).rejects.toMatchObject({ code: "outcome_unknown" });
    await expect(patient.deleteVm("any", { timeout: 50 })).rejects.toMatchObject({ code: "outcome_unknown" });
    expect(requests).toBe(4);
  });

  it("is asked again when it says that it is not ready", async () => {
    answer = { status: 503, body: JSON.stringify({ code: "server_unavailable", message: "not now", retryable: true }) };
    await expect(new BandSox({ baseUrl: url }).listVms()).rejects.toMatchObject({ statusCode: 503 });
    expect(requests).toBe(3);
  });
});

describe("the server's interface", () => {
  /** What this package does not call, and why. */
  const LEFT_OUT: Record<string, string> = {
    "post /api/vms/{vm}/upload": "a form; uploadFile sends the file itself",
    "post /api/auth/tickets": "a way into WebSockets for those who cannot name subprotocols",
    "get /metrics": "for Prometheus",
    "get /healthz": "for those who watch over servers",
    "get /readyz": "for those who watch over servers",
  };

  it("is called whole", () => {
    const document = JSON.parse(readFileSync(new URL("../../../docs/openapi.json", import.meta.url), "utf8")) as {
      paths: Record<string, object>;
    };
    const operations = Object.entries(document.paths).flatMap(([path, each]) => Object.keys(each).map((verb) => `${verb} ${path}`));
    const source = ["client", "server", "guest", "network", "microvm", "webhooks"]
      .map((name) => readFileSync(new URL(`../src/${name}.ts`, import.meta.url), "utf8"))
      .join("");
    const called = new Set(
      [...source.matchAll(/"(get|post|put|patch|delete)",\s*"(\/[^"]+)"/g)].map(([, verb, path]) => `${verb} ${path}`),
    );
    for (const [, path] of source.matchAll(/\.(?:make|work)\(\s*"(\/[^"]+)"/g)) called.add(`post ${path}`);
    for (const put of ["put /api/vms/{vm}/file", "put /api/vms/{vm}/tree"]) if (source.includes(`"${put.slice(4)}"`)) called.add(put);
    expect(operations.filter((each) => !called.has(each) && !(each in LEFT_OUT))).toEqual([]);
    expect(Object.keys(LEFT_OUT).filter((each) => !operations.includes(each))).toEqual([]);
  });
});
