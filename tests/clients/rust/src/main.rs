//! Reads a bucket with one of Google's clients in Rust until a file appears, with the credentials that it finds:
//! `clients LIBRARY URL BUCKET OBJECT STOP`. `clients LIBRARY` prints its version.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use google_cloud_auth::credentials::{AccessTokenCredentials, Builder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, ObjectStoreExt, RetryConfig};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const LOCK: &str = include_str!("../Cargo.lock");
const PAUSE: Duration = Duration::from_millis(200);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    rustls::crypto::ring::default_provider().install_default().map_err(|_| "there is a TLS provider already")?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [library] = arguments.as_slice() {
        let package = LOCK.split("[[package]]").find(|package| package.contains(&format!("name = \"{library}\"\n")));
        let version = package.and_then(|package| package.split("version = \"").nth(1)?.split('"').next());
        println!("{}", version.ok_or("there is no such library")?);
        return Ok(());
    }
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
    let store = GoogleCloudStorageBuilder::from_env()
        .with_base_url(&format!("{url}/xml"))
        .with_bucket_name(bucket)
        .with_client_options(ClientOptions::new().with_allow_http(true))
        // An error of the agent's is to be seen.
        .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
        .build()?;
    while !stop.exists() {
        if store.get(&object.into()).await?.bytes().await? != "hello\n" {
            return Err("the object is another".into());
        }
        store.put(&"written".into(), "written".into()).await?;
        tokio::time::sleep(PAUSE).await;
    }
    println!("read");
    Ok(())
}
