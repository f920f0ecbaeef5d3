const { BandSox, MicroVM, NotFound } = require("bandsox");

async function main([url, key]) {
  const bandsox = new BandSox({ baseUrl: url, headers: { Authorization: `Bearer ${key}` } });
  const { authenticated: known } = await bandsox.authCheck();
  const vms = await bandsox.listVms();
  const vm = new MicroVM("none", bandsox);
  const codeOf = (error) => (error instanceof NotFound ? error.code : String(error));
  const streamed = await vm.uploadFile("/tmp/streamed", new Blob(["stream", "ed"]).stream()).catch(codeOf);
  const executed = await vm.execute("true").catch(codeOf);
  console.log(JSON.stringify({ known, vms, streamed, executed }));
}

void main(process.argv.slice(-2));
