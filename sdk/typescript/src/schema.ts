/** The server's interface as types: its operations and shapes, taken out of what is generated from the OpenAPI document. */

import { type components, type paths } from "./generated/openapi.js";

export type Verb = "get" | "post" | "put" | "patch" | "delete";

/** The addresses that have an operation for a verb. */
export type Route<V extends Verb> = { [R in keyof paths]: paths[R] extends Record<V, { responses: unknown }> ? R : never }[keyof paths];

type Operation<V extends Verb, R extends Route<V>> = paths[R] extends Record<V, infer O> ? O : never;
type Parameters<O, K extends string> = O extends { parameters: Record<K, infer G> }
  ? Record<K, Input<G>>
  : O extends { parameters: Partial<Record<K, infer G>> }
    ? [NonNullable<G>] extends [never]
      ? unknown
      : Partial<Record<K, Input<NonNullable<G>>>>
    : unknown;

/** What a request of an operation carries: the names in its path, its query, and its body where that is JSON. */
export type Request<V extends Verb, R extends Route<V>> = Parameters<Operation<V, R>, "path"> &
  Parameters<Operation<V, R>, "query"> &
  (Operation<V, R> extends { requestBody: { content: { "application/json": unknown } } } ? { body: Body<V, R> } : unknown);

/** The body of an operation's request, where that is JSON. */
export type Body<V extends Verb, R extends Route<V>> =
  Operation<V, R> extends { requestBody: { content: { "application/json": infer B } } } ? Input<B> : never;

/** What an operation answers, where that is JSON. */
export type Answer<V extends Verb, R extends Route<V>> =
  Operation<V, R> extends { responses: { 200: { content: { "application/json": infer A } } } } ? Known<A> : unknown;

/** A shape of what is sent. What may be left out may also be undefined, which is left out. */
export type Sent<N extends keyof components["schemas"]> = Input<components["schemas"][N]>;

/** A shape of what is answered. */
export type Shape<N extends keyof components["schemas"]> = Known<components["schemas"][N]>;

type Input<T> = T extends (infer E)[]
  ? Input<E>[]
  : T extends object
    ? { [K in keyof T]: object extends Pick<T, K> ? Input<T[K]> | undefined : Input<T[K]> }
    : T;

/**
 * A shape with the properties that are known. The document lets every answer have more, so that a server may be newer than its client;
 * a program that reads a property which does not exist is mistaken all the same.
 */
export type Known<T> = T extends readonly (infer E)[]
  ? Known<E>[]
  : T extends object
    ? string extends keyof T
      ? [NamedKeys<T>] extends [never]
        ? T
        : { [K in keyof T as string extends K ? never : K]: Known<T[K]> }
      : { [K in keyof T]: Known<T[K]> }
    : T;

type NamedKeys<T> = keyof { [K in keyof T as string extends K ? never : K]: true };
