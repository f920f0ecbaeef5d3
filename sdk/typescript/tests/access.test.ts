import { describe, expect, inject, it } from "vitest";
import { AccessDenied, BandSox, MicroVM } from "../src/index.js";

const { url, key, password } = inject("guarded");
const known = new BandSox({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });

describe("a server that asks who calls", () => {
  it("lets a key in, and nobody without", async () => {
    expect(await known.authCheck()).toMatchObject({ authenticated: true, auth_enabled: true, caller: { name: "first", session: null } });
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
    expect(listed?.quotas.vms).toBeNull();
    const edited = await known.editApiKey(made.key_id, { name: "looker", quotas: { vms: 2 } });
    expect(edited).toMatchObject({ key_id: made.key_id, name: "looker", prefix: "ci-", quotas: { vms: 2, vcpu: null }, used: { vms: 0 } });
    await known.revokeApiKey(made.key_id);
    await expect(reader.listVms()).rejects.toMatchObject({ code: "not_authenticated" });
  });

  it("lists sessions, ends them, and changes the password", async () => {
    const [person, other] = [new BandSox({ baseUrl: url }), new BandSox({ baseUrl: url })];
    await person.login(password);
    await other.login(password);
    const open = await person.listBrowserSessions();
    expect(open.filter((each) => each.current)).toHaveLength(1);
    expect(await person.endOtherBrowserSessions()).toBe(open.length - 1);
    await expect(other.listVms()).rejects.toBeInstanceOf(AccessDenied);

    await expect(person.changePassword("wrong password", "another password")).rejects.toMatchObject({ code: "not_authenticated" });
    await person.changePassword(password, "another password");
    await person.changePassword("another password", password);
    const [session] = await person.listBrowserSessions();
    expect(session?.current).toBe(true);
    await known.endBrowserSession(session?.id ?? "");
    await expect(person.listVms()).rejects.toBeInstanceOf(AccessDenied);
  });

  it("tells who did what", async () => {
    const { key_id: id } = await known.createApiKey("audited", { scopes: ["read"] });
    await known.revokeApiKey(id);
    const page = await known.readAuditLog({ method: "DELETE", path: "/api/auth/keys/", limit: 1 });
    expect(page.entries).toMatchObject([{ path: `/api/auth/keys/${id}`, status: 200, name: "first" }]);
    expect(page.next).not.toBeNull();
    const { entries } = await known.readAuditLog({ method: "DELETE", path: "/api/auth/keys/", after: page.next ?? "", refused: false });
    expect(entries.map((each) => each.path)).not.toContain(`/api/auth/keys/${id}`);
  });

  it("tells addresses of events, and not those that only the server can reach", async () => {
    const made = await known.webhooks.create("http://127.0.0.1:9/hook", { events: ["vm.*"] });
    expect(made).toMatchObject({ events: ["vm.*"], enabled: true, secret: expect.stringMatching(/^whsec_/) as string });
    expect(await known.webhooks.edit(made.id, { enabled: false })).toMatchObject({ enabled: false, url: made.url });
    const tried = await known.webhooks.test(made.id);
    expect(tried).toMatchObject({ outcome: "failed", status: null, kind: "webhook.test" });
    expect(tried.error).toContain("may not go");
    expect(await known.webhooks.deliveries(made.id)).toEqual([tried]);
    expect((await known.webhooks.list()).map((each) => each.id)).toContain(made.id);
    await known.webhooks.delete(made.id);
    await expect(known.webhooks.edit(made.id, {})).rejects.toMatchObject({ code: "not_found" });
  });
});
