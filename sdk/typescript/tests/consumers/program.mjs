import { BandSox, MicroVM, NotFound } from "bandsox";
import { uses } from "./uses.cjs";

console.log(JSON.stringify(await uses({ BandSox, MicroVM, NotFound }, process.argv.slice(-4))));
