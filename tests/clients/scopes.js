// Reads a bucket with google-auth-library, for scopes of its own; prints the service account that it knows.
'use strict';

const {GoogleAuth} = require('google-auth-library');

async function main(url, bucket, ...scopes) {
  const auth = new GoogleAuth({scopes});
  const client = await auth.getClient();
  await client.request({url: `${url}/storage/v1/b/${bucket}/o`});
  console.log((await auth.getCredentials()).client_email);
}

main(...process.argv.slice(2)).catch((error) => {
  // Not the whole error: it would print the request, with its token.
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
