//! A hub's file over HTTPS. The hub redirects to wherever the bytes lie; on the way it tells their
//! number and their SHA-256, and nothing else that comes is believed.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, LOCATION};
use reqwest::{Client, Response, StatusCode, Url};
use taimatsu_model::StoredModel;
use taimatsu_model::pull::{Sent, present};
use tokio::sync::mpsc;

use super::HubFile;
use crate::cli::{Global, pulling};
use crate::config;
use crate::failure::{Code, Failure};
use crate::local;

/// Redirects that are followed.
const REDIRECTS: usize = 8;

/// How long a connection, or the next piece of the file, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pieces that may wait for the disk.
const PIECES: usize = 16;

pub(super) async fn pull(global: &Global, file: &HubFile) -> Result<StoredModel, Failure> {
    if global.settings.offline.value {
        return Err(Failure::new(Code::NotFound, format!("{} is not fetched", file.path))
            .because("--offline (or TAIMATSU_OFFLINE, or config.toml) forbids the network")
            .try_this("taimatsu import FILE"));
    }
    let store = local::store(global)?;
    let found = find(file, &config::hub_endpoint()).await?;
    let sent = found.sent(file)?;
    if let Some(model) = present(&store, &sent).map_err(|error| local::store_failure(&error))? {
        return Ok(model);
    }
    if sent.sha256.is_none() && !global.quiet {
        crate::stderr::tell("note: the hub tells no sha256 of this file; it is taken as it comes");
    }
    let (pieces, waiting) = mpsc::channel(PIECES);
    let reader = Pieces { waiting, piece: Bytes::new(), over: false };
    let sending = send(found.response, pieces);
    let taking = pulling::take_in(global, store, sent, reader);
    let (model, ()) = tokio::join!(taking, sending);
    model
}

/// Where the file lies, and what was told on the way there.
struct Found {
    response: Response,
    sha256: Option<String>,
    bytes: Option<u64>,
}

impl Found {
    fn sent(&self, file: &HubFile) -> Result<Sent, Failure> {
        let bytes = self.bytes.ok_or_else(|| {
            Failure::new(Code::Failure, format!("the hub does not say how long {} is", file.path))
                .try_this("taimatsu import FILE, once you have it")
        })?;
        let source = format!("hf:{}/{}", file.repository, file.path);
        let sha256 = self.sha256.clone();
        Ok(Sent { file: file.name().to_owned(), bytes, sha256, source })
    }
}

async fn find(file: &HubFile, endpoint: &str) -> Result<Found, Failure> {
    // The second time it is there already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(PATIENCE)
        .read_timeout(PATIENCE)
        .build()
        .map_err(|error| Failure::of(Code::Failure, "no HTTPS client can be made", &error))?;
    let text = format!("{endpoint}/{}/resolve/main/{}", file.repository, file.path);
    let mut url = Url::parse(&text).map_err(|error| {
        Failure::of(Code::Usage, format!("`{endpoint}` is no hub"), &error)
            .try_this("HF_ENDPOINT=https://…")
    })?;
    let secure = url.scheme() == "https";
    let (mut sha256, mut told) = (None, None);
    for _ in 0..REDIRECTS {
        let response = client.get(url.clone()).send().await.map_err(|e| unreachable(&url, &e))?;
        sha256 = sha256.or_else(|| digest(response.headers()));
        told = told.or_else(|| length(response.headers(), "x-linked-size"));
        if !response.status().is_redirection() {
            let bytes = told.or_else(|| length(response.headers(), CONTENT_LENGTH.as_str()));
            refused(file, response.status())?;
            return Ok(Found { response, sha256, bytes });
        }
        let next = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let next = next.and_then(|next| url.join(next).ok());
        let next = next.filter(|next| next.scheme() == "https" || !secure);
        url = next.ok_or_else(|| {
            Failure::new(Code::Failure, "the hub leads nowhere")
                .because("it redirects to no address, or to one that is not HTTPS")
        })?;
    }
    Err(Failure::new(Code::Failure, "the hub leads in a circle").try_this("again later"))
}

fn refused(file: &HubFile, status: StatusCode) -> Result<(), Failure> {
    let code = match status {
        status if status.is_success() => return Ok(()),
        StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Code::NotFound,
        _ => Code::Failure,
    };
    let HubFile { repository, path } = file;
    Err(Failure::new(code, format!("the hub does not give {path} of {repository}"))
        .because(format!("it answers {status}"))
        .try_this("the name as the hub writes it; what needs an account is not fetched"))
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    let host = url.host_str().unwrap_or("the hub");
    Failure::of(Code::Failure, format!("{host} cannot be reached"), error)
        .try_this("again, or taimatsu import FILE")
}

/// The SHA-256 that the hub tells; other ETags are not digests of the file.
fn digest(headers: &HeaderMap) -> Option<String> {
    ["x-linked-etag", ETAG.as_str()].iter().find_map(|name| {
        let value = headers.get(*name)?.to_str().ok()?;
        let value = value.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let is_digest = value.len() == 64 && value.chars().all(|c| c.is_ascii_hexdigit());
        is_digest.then_some(value)
    })
}

fn length(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// Hands the file over as it comes. Dropped early, it tells the reader so.
async fn send(response: Response, pieces: mpsc::Sender<Option<Bytes>>) {
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let Ok(piece) = piece else { return };
        if pieces.send(Some(piece)).await.is_err() {
            return;
        }
    }
    let _ = pieces.send(None).await;
}

/// The file as a thread reads it.
struct Pieces {
    /// None is the end; without it, the connection broke.
    waiting: mpsc::Receiver<Option<Bytes>>,
    piece: Bytes,
    over: bool,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.piece.is_empty() && !self.over {
            match self.waiting.blocking_recv() {
                Some(Some(piece)) => self.piece = piece,
                Some(None) => self.over = true,
                None => return Err(std::io::Error::other("the connection to the hub broke")),
            }
        }
        let length = self.piece.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.piece.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::Router;
    use axum::routing::get;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/tiny/llama.q4_1.gguf");

    /// A hub on this machine: a redirect that tells length and digest, and then the bytes.
    async fn hub(digest: String, bytes: Vec<u8>) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let told = bytes.len().to_string();
        let redirect = move || {
            let headers = [
                ("x-linked-etag", format!("\"{digest}\"")),
                ("x-linked-size", told.clone()),
                ("location", "/elsewhere".to_owned()),
            ];
            std::future::ready((StatusCode::FOUND, headers))
        };
        let body = move || std::future::ready(([(ETAG, "\"other\"")], bytes.clone()));
        let router = Router::new()
            .route("/o/r/resolve/main/tiny.gguf", get(redirect))
            .route("/elsewhere", get(body));
        tokio::spawn(async move { axum::serve(listener, router).await });
        endpoint
    }

    async fn fetched(digest: &str) -> Result<StoredModel, Failure> {
        let bytes = std::fs::read(TINY).unwrap();
        let endpoint = hub(digest.to_owned(), bytes).await;
        let dir = tempfile::tempdir().unwrap();
        let store = taimatsu_model::Store::open(dir.path()).unwrap();
        let file = HubFile::parse("hf:o/r/tiny.gguf").unwrap();
        let found = find(&file, &endpoint).await?;
        let sent = found.sent(&file)?;
        let (pieces, waiting) = mpsc::channel(PIECES);
        let reader = Pieces { waiting, piece: Bytes::new(), over: false };
        let global = Global::silent();
        let taking = pulling::take_in(&global, store, sent, reader);
        tokio::join!(taking, send(found.response, pieces)).0
    }

    #[tokio::test]
    async fn a_file_comes_by_a_redirect_and_its_digest_decides() {
        let digest = taimatsu_model::store::sha256_of(TINY.as_ref()).unwrap();
        let model = fetched(&digest).await.unwrap();
        assert_eq!((model.names, model.sha256), (vec!["tiny".to_owned()], Some(digest)));
        let wrong = fetched(&"0".repeat(64)).await.unwrap_err();
        assert_eq!(wrong.code, Code::Integrity, "{wrong}");
        let endpoint = hub(String::new(), vec![]).await;
        let file = HubFile::parse("hf:o/r/other.gguf").unwrap();
        let missing = find(&file, &endpoint).await.err().unwrap();
        assert_eq!(missing.code, Code::NotFound, "{missing}");
    }
}
