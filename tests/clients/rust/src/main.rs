//! Reads a bucket with one of Google's clients in Rust until a file appears, with the credentials that it finds.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PAUSE: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "there is a TLS provider already")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [library, url, bucket, object, stop] = arguments.as_slice() else { return Err("usage".into()) };
    let stop = Path::new(stop);
    match library.as_str() {
        "google-cloud-auth" => google_cloud_auth(&format!("{url}/storage/v1/b/{bucket}/o"), stop).await,
        "object_store" => object_store(url, bucket, object, stop).await,
        _ => Err("there is no such library".into()),
    }
}

async fn google_cloud_auth(url: &str, stop: &Path) -> Result<()> {
    let credentials: AccessTokenCredentials = Builder::default().build_access_token_credentials()?;
    let client = reqwest::Client::new();
    while !stop.exists() {
        let token = credentials.access_token().await?.token;
        let answer = client.get(url).bearer_auth(token).send().await?.error_for_status()?.text().await?;
        if !answer.contains("\"items\"") {
            return Err("the bucket is empty".into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    println!("{credentials:?}");
    Ok(())
}

async fn object_store(url: &str, bucket: &str, object: &str, stop: &Path) -> Result<()> {
    // It speaks the XML API, whose addresses are BASE/BUCKET/OBJECT. Those of the JSON API look the same if the
    // bucket is called o.
    let store = GoogleCloudStorageBuilder::from_env()
        .with_base_url(&format!("{url}/download/storage/v1/b/{bucket}"))
        .with_bucket_name("o")
        .with_client_options(ClientOptions::new().with_allow_http(true))
        // An error of the agent's is to be seen.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()?;
    while !stop.exists() {
        if store.get(&object.into()).await?.bytes().await? != "hello\n" {
            return Err("the object is another".into());
        }
        tokio::time::sleep(PAUSE).await;
    }
    println!("read");
    Ok(())
}
