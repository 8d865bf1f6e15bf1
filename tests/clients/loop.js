// Lists a bucket with the credentials that google-auth-library finds, until a file appears. The library's package is the
// first argument: it is installed in two versions.
'use strict';

const {existsSync} = require('node:fs');
const {setTimeout: sleep} = require('node:timers/promises');

async function main(library, url, bucket, stop) {
  const {GoogleAuth} = require(library);
  const auth = new GoogleAuth({scopes: 'https://www.googleapis.com/auth/cloud-platform'});
  const client = await auth.getClient();
  while (!existsSync(stop)) {
    const {data} = await client.request({url: `${url}/storage/v1/b/${bucket}/o`});
    if (!data.items.length) throw new Error('the bucket is empty');
    await sleep(200);
  }
  console.log(client.constructor.name);
}

main(...process.argv.slice(2)).catch((error) => {
  // Not the whole error: it would print the request, with its token.
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
