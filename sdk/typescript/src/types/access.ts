/** Who may call the server, and who did what: the password, sessions, keys, and the audit log. */

import { type Sent, type Shape } from "../schema.js";

/** Whether the caller is known, and whether callers need to be. */
export interface AuthCheckResult extends Shape<"Authenticated"> {}

/** A session for the password. */
export interface LoginResult extends Shape<"LoggedIn"> {}

/** A session of somebody who is logged in. */
export interface BrowserSession extends Shape<"BrowserSession"> {}

/** A key, without what it is. */
export interface AuthKeysResult extends Shape<"KeyInfo"> {
  /** The same as `id`. */
  key_id: string;
}

/** What a key may do. */
export interface CreateApiKeyOptions extends Omit<Sent<"NewKeyShape">, "name"> {}

/** A key that was made. This is the only place where `key` ever appears. */
export interface CreateApiKeyResult extends Shape<"CreatedKey"> {}

/** What is to be changed of a key. `quotas` are all of them. */
export interface EditApiKeyOptions extends Sent<"EditedKey"> {}

/** A page of the audit log. `next` is the `after` of the one behind it. */
export interface AuditPage extends Shape<"AuditPage"> {}

/** Which entries of the audit log are wanted. */
export interface AuditOptions {
  /** Only so many; 100 by default. */
  limit?: number | undefined;
  /** Behind the page that named this as `next`. */
  after?: string | undefined;
  /** Only what the key or the session with this id did. */
  caller?: string | undefined;
  /** Only what came from this address. */
  client?: string | undefined;
  /** Only this method; of WebSockets it is `WEBSOCKET`. */
  method?: string | undefined;
  /** Only paths that begin so. */
  path?: string | undefined;
  /** Only what had this status. */
  status?: number | undefined;
  /** Only what failed or was refused; false: only what was done. */
  refused?: boolean | undefined;
}
