// Lists a bucket and reads its objects, with the credentials that google-auth-library finds.
'use strict';

const {GoogleAuth} = require('google-auth-library');

async function main(bucket) {
  const auth = new GoogleAuth({scopes: 'https://www.googleapis.com/auth/cloud-platform'});
  console.log('project', await auth.getProjectId());
  const client = await auth.getClient();
  const url = `https://storage.googleapis.com/storage/v1/b/${bucket}/o`;
  for (const {name} of (await client.request({url})).data.items) {
    const object = `${url}/${encodeURIComponent(name)}?alt=media`;
    const {data} = await client.request({url: object, responseType: 'text'});
    process.stdout.write(`${name} ${data}`);
  }
}

main(process.argv[2]).catch((error) => {
  // Not the whole error: it would print the request, with its token.
  console.error(`${error.name}: ${error.message}`);
  process.exitCode = 1;
});
