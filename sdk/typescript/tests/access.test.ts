import { describe, expect, inject, it } from "vitest";
import { AccessDenied, BandSox, MicroVM } from "../src/index.js";

const { url, key, password } = inject("guarded");
const known = new BandSox({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

describe("a server that asks who calls", () => {
  it("lets a key in, and nobody without", async () => {
    expect(await known.authCheck()).toEqual({ authenticated: true, auth_enabled: true });
    expect(await known.listVms()).toEqual([]);
    const stranger = new BandSox({ baseUrl: url });
    expect(await stranger.authCheck()).toMatchObject({ authenticated: false });
    await expect(stranger.listVms()).rejects.toMatchObject({ name: "AccessDenied", code: "not_authenticated", statusCode: 401 });
    await expect(new BandSox({ baseUrl: url, headers: { authorization: "Bearer wrong" } }).listVms()).rejects.toBeInstanceOf(AccessDenied);
  });

  it("has the key in WebSockets too", async () => {
    await expect(new MicroVM("none", known).execute("true")).rejects.toMatchObject({ code: "vm_not_found" });
    const stranger = new MicroVM("none", new BandSox({ baseUrl: url }));
    await expect(stranger.execute("true")).rejects.toMatchObject({ name: "AccessDenied" });
  });

  it("gives a session for the password, until it is ended", async () => {
    const person = new BandSox({ baseUrl: url });
    await expect(person.login("wrong password")).rejects.toMatchObject({ code: "not_authenticated" });
    const { token } = await person.login(password);
    expect(await person.listVms()).toEqual([]);
    await person.logout();
    await expect(person.listVms()).rejects.toMatchObject({ code: "not_authenticated" });
    await expect(new BandSox({ baseUrl: url, headers: { authorization: `Bearer ${token}` } }).listVms()).rejects.toBeInstanceOf(
      AccessDenied,
    );
  });

  it("makes keys that may do so much, lists them and revokes them", async () => {
    const made = await known.createApiKey("reader", { scopes: ["read"], prefix: "ci-", expires_in: 3600 });
    const reader = new BandSox({ baseUrl: url, headers: { authorization: `Bearer ${made.key}` } });
    expect(await reader.listVms()).toEqual([]);
    await expect(reader.createVm()).rejects.toMatchObject({ code: "forbidden", statusCode: 403 });
    const listed = (await known.listApiKeys()).find((each) => each.name === "reader");
    expect(listed).toMatchObject({ key_id: made.key_id, id: made.key_id, prefix: "ci-", scopes: ["read"] });
    await known.revokeApiKey(made.key_id);
    await expect(reader.listVms()).rejects.toMatchObject({ code: "not_authenticated" });
  });
});
