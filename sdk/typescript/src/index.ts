export const CHUNK = 65536;
