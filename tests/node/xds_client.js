// A gRPC client without a proxy: xds_client.js ROUNDS TARGET... Targets and output as in tests/python/xds_client.py.
'use strict';

const grpc = require('@grpc/grpc-js');
require('@grpc/grpc-js-xds').register();

const DEADLINE = 10_000;
const bytes = (message) => message;

function target(written) {
  const slash = written.indexOf('/');
  const [method, ...pairs] = written.slice(slash + 1).split(',');
  const metadata = new grpc.Metadata();
  for (const pair of pairs) {
    const [key, ...value] = pair.split('=');
    metadata.set(key, value.join('='));
  }
  const client = new grpc.Client(`xds:///${written.slice(0, slash)}`, grpc.credentials.createInsecure());
  const call = () =>
    new Promise((resolve) => {
      const options = { deadline: Date.now() + DEADLINE };
      client.makeUnaryRequest(`/leno.Greeter/${method}`, bytes, bytes, Buffer.from('x'), metadata, options, (error, reply) => {
        const details = error && error.details.split(/\s+/).join(' ');
        resolve(error ? `error ${grpc.status[error.code]} ${details}` : `ok ${reply}`);
      });
    });
  return { written, call };
}

async function main(rounds, written) {
  const targets = written.map(target);
  for (let round = 0; rounds === 0 || round < rounds; round += 1) {
    const outcomes = await Promise.all(targets.map(({ call }) => call()));
    targets.forEach(({ written }, index) => console.log(`call ${written} ${outcomes[index]}`));
    if (rounds === 0) {
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }
  process.exit(0);
}

main(Number(process.argv[2]), process.argv.slice(3));
