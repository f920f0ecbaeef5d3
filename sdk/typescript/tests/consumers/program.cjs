const bandsox = require("bandsox");
const { uses } = require("./uses.cjs");

void uses(bandsox, process.argv.slice(-4)).then((found) => console.log(JSON.stringify(found)));
