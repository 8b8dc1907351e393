//! Requests to the hub: redirects, tokens, time limits, and what a refusal means. The only file that names the HTTP client.

use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use ureq::http::{Method, Request, Uri};
use ureq::{Agent, Body, Proxy};

use super::HubOptions;
use super::name::ModelName;
use crate::error::{Error, HubProblem, Result};

/// How long a server may take to be found, to answer, and to send the next bytes.
const CONNECTING: Duration = Duration::from_secs(20);
const ANSWERING: Duration = Duration::from_secs(60);
const SILENT: Duration = Duration::from_secs(30);

const MOST_REDIRECTS: usize = 10;

/// The most bytes of an answer that is no file.
const ANSWER_LIMIT: u64 = 16 << 20;

/// The longest wait that a server may ask for.
const MOST_WAITING: Duration = Duration::from_secs(60);

/// Why a request gave nothing.
pub(super) enum Failure {
    /// Another try may do.
    Passing {
        what: String,
        wait: Option<Duration>,
    },
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

impl Failure {
    pub fn passing(what: impl Into<String>) -> Failure {
        Failure::Passing { what: what.into(), wait: None }
    }

    /// As the error of a request that is not made again.
    pub fn into_error(self, name: &ModelName) -> Error {
        match self {
            Failure::Final(error) => error,
            Failure::Passing { what, .. } => {
                let what = format!("{what}; check the connection, or try again later: what has come is kept");
                Error::Hub { model: name.to_string(), problem: HubProblem::Network, what }
            }
        }
    }
}

/// What the hub says about a model.
#[derive(Deserialize)]
pub(super) struct Info {
    /// The commit.
    pub sha: String,
    #[serde(default)]
    pub siblings: Vec<Sibling>,
    /// The front matter of the model's README.
    #[serde(default, rename = "cardData")]
    card: Value,
    #[serde(default)]
    tags: Value,
}

/// A file of a model. Servers that imitate the hub may give no more than its name.
#[derive(Deserialize)]
pub(super) struct Sibling {
    pub rfilename: String,
    size: Option<u64>,
    /// git's SHA-1 of the file, or of what stands in git for a large one.
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Info {
    /// The licence that the model's card names.
    pub fn licence(&self) -> Option<String> {
        let of_card = match (&self.card["license_name"], &self.card["license"]) {
            (Value::String(name), _) | (_, Value::String(name)) => Some(name.clone()),
            (_, Value::Array(names)) => Some(names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")),
            _ => None,
        };
        let tags = || self.tags.as_array().into_iter().flatten().filter_map(Value::as_str);
        let of_tags = || tags().find_map(|tag| tag.strip_prefix("license:")).map(str::to_owned);
        of_card.or_else(of_tags).filter(|name| !name.is_empty())
    }
}

impl Sibling {
    pub fn size(&self) -> Option<u64> {
        self.lfs.as_ref().map_or(self.size, |lfs| lfs.size.or(self.size))
    }

    pub fn hash(&self) -> Option<&str> {
        match &self.lfs {
            Some(lfs) => lfs.sha256.as_deref(),
            None => self.blob_id.as_deref(),
        }
    }
}

/// What headers say about a file.
pub(super) struct Facts {
    pub size: Option<u64>,
    pub hash: Option<String>,
}

/// A file that begins to come.
pub(super) struct Coming {
    /// From this byte on.
    pub start: u64,
    /// Of the whole file, where the server says it.
    pub size: Option<u64>,
    pub body: Box<dyn Read>,
}

/// A hub and who asks it.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

impl Client {
    pub fn new(options: &HubOptions) -> Result<Client> {
        let endpoint = options.endpoint.trim_end_matches('/').to_owned();
        let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some();
        if !endpoint.parse::<Uri>().is_ok_and(|uri| is_web(&uri)) {
            return Err(Error::Input(format!(
                "the hub's address {endpoint:?} does not begin with https:// and a host"
            )));
        }
        let agent = Agent::config_builder()
            .proxy(proxy(options)?)
            .user_agent(concat!("t5-wgpu/", env!("CARGO_PKG_VERSION")))
            // The first answer of several has the hash, and a token must not go to other hosts.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_resolve(Some(CONNECTING))
            .timeout_connect(Some(CONNECTING))
            .timeout_recv_response(Some(ANSWERING))
            .timeout_per_read(Some(SILENT))
            .build();
        let token = options.token.clone().filter(|token| !token.trim().is_empty());
        if token.as_ref().is_some_and(|token| !token.bytes().all(|c| c.is_ascii_graphic())) {
            return Err(Error::Input("the hub's token has characters that no token has".into()));
        }
        Ok(Client { agent: agent.into(), endpoint, token })
    }

    /// The hub's address, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What the hub says about a model.
    pub fn info(&self, name: &ModelName) -> Result<Info, Failure> {
        let (repository, revision) = (&name.repository, escaped(name.revision(), false));
        let url = format!("{}/api/models/{repository}/revision/{revision}?blobs=true", self.endpoint);
        let answer = self.ask(name, None, Method::GET, &url, 0)?;
        let mut text = Vec::new();
        answer.body.into_reader().take(ANSWER_LIMIT).read_to_end(&mut text).map_err(|e| self.dropped(&e))?;
        serde_json::from_slice(&text).map_err(|e| {
            let what = format!("{} does not answer as a hub does: {e}; is the address right?", self.endpoint);
            Failure::Final(content(name, what))
        })
    }

    /// What the headers of a file say.
    pub fn facts(&self, name: &ModelName, commit: &str, file: &str) -> Result<Facts, Failure> {
        let answer = self.ask(name, Some(file), Method::HEAD, &self.address(name, commit, file), 0)?;
        Ok(Facts { size: answer.size, hash: answer.hash })
    }

    /// A file, from a byte on if the server can do that, or from its start.
    pub fn file(&self, name: &ModelName, commit: &str, file: &str, from: u64) -> Result<Coming, Failure> {
        let answer = self.ask(name, Some(file), Method::GET, &self.address(name, commit, file), from)?;
        let body = Box::new(answer.body.into_reader());
        match (answer.status, answer.range) {
            (206, Some((start, size))) => Ok(Coming { start, size, body }),
            (206, None) => {
                Err(Failure::passing(format!("{} sends a part of {file} without saying which", self.endpoint)))
            }
            (_, _) => Ok(Coming { start: 0, size: answer.length, body }),
        }
    }

    fn address(&self, name: &ModelName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, name.repository, escaped(file, true))
    }

    /// A connection that ended too early.
    pub fn dropped(&self, e: &io::Error) -> Failure {
        Failure::passing(format!("the connection to {} was lost: {e}", self.endpoint))
    }

    fn ask(
        &self,
        name: &ModelName,
        file: Option<&str>,
        method: Method,
        url: &str,
        from: u64,
    ) -> Result<Answer, Failure> {
        let mut url = url.to_owned();
        let home: Option<Uri> = url.parse().ok();
        let (mut hash, mut size) = (None, None);
        for _ in 0..MOST_REDIRECTS {
            let uri: Uri =
                url.parse().map_err(|_| content(name, format!("the hub leads to {url:?}, which is no address")))?;
            let is_home = home.as_ref().is_some_and(|home| origin(home) == origin(&uri));
            let mut request = Request::builder().method(method.clone()).uri(&uri);
            if let Some(token) = self.token.as_ref().filter(|_| is_home) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let request = request.body(()).map_err(|e| content(name, format!("{url:?} cannot be asked for: {e}")))?;
            let answer = self.agent.run(request).map_err(|e| self.failed(name, &e))?;
            let header = |key: &str| answer.headers().get(key).and_then(|value| value.to_str().ok());
            let number = |key: &str| header(key).and_then(|text| text.trim().parse::<u64>().ok());
            hash = hash.or_else(|| header("x-linked-etag").map(bare));
            size = size.or_else(|| number("x-linked-size"));
            let status = answer.status().as_u16();
            // What lies elsewhere may be asked for with GET alone.
            if method == Method::HEAD && size.is_some() && hash.is_some() && (300..=399).contains(&status) {
                return Ok(Answer { status, length: None, range: None, size, hash, body: answer.into_body() });
            }
            if let (300..=399, Some(location)) = (status, header("location")) {
                url = followed(&uri, location).ok_or_else(|| {
                    content(name, format!("{} redirects to {location:?}, where it is not followed", self.endpoint))
                })?;
                continue;
            }
            if !(200..=299).contains(&status) {
                let wait = number("retry-after").map(Duration::from_secs).map(|wait| wait.min(MOST_WAITING));
                return Err(self.refused(name, file, status, header("x-error-code"), wait));
            }
            let length = number("content-length");
            let range = header("content-range").and_then(range);
            let hash = hash.or_else(|| header("etag").map(bare));
            return Ok(Answer { status, length, range, size: size.or(length), hash, body: answer.into_body() });
        }
        Err(Failure::Final(content(name, format!("{} redirects without an end", self.endpoint))))
    }

    /// A request that no server answered.
    fn failed(&self, name: &ModelName, error: &ureq::Error) -> Failure {
        let what = match error {
            ureq::Error::HostNotFound => "its host is not found".to_owned(),
            ureq::Error::Timeout(_) => "it does not answer".to_owned(),
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
                let what =
                    format!("no safe connection to {}: {error}; is the clock right, and the proxy?", self.endpoint);
                return Failure::Final(Error::Hub { model: name.to_string(), problem: HubProblem::Network, what });
            }
            other => other.to_string(),
        };
        Failure::passing(format!("no connection to {}: {what}", self.endpoint))
    }

    /// An answer that is none.
    fn refused(
        &self,
        name: &ModelName,
        file: Option<&str>,
        status: u16,
        code: Option<&str>,
        wait: Option<Duration>,
    ) -> Failure {
        let ModelName { repository, .. } = name;
        let page = format!("{}/{repository}", self.endpoint);
        let asked = file.map_or_else(|| "the model".to_owned(), |file| format!("{file}, a file of the model"));
        let (problem, what) = match status {
            401 if self.token.is_none() => {
                let what =
                    "the hub does not show it to everyone (401): it is private or gated, or there is none of this name";
                (HubProblem::Access, format!("{what}; see {page}, accept its terms there, and give a token"))
            }
            401 => {
                let what = "the hub does not take this token (401), or there is no model of this name";
                (HubProblem::Access, format!("{what}; see {page}, and make a new token if this one has expired"))
            }
            403 => (
                HubProblem::Access,
                format!(
                    "the hub forbids it (403): accept the model's terms at {page}, and give a token that may read it"
                ),
            ),
            404 if code == Some("RevisionNotFound") => {
                (HubProblem::Missing, format!("has no revision {} (404); see {page}/refs", name.revision()))
            }
            404 | 410 => {
                (HubProblem::Missing, format!("{} has no such thing ({status}): {asked}; see {page}", self.endpoint))
            }
            408 | 425 | 429 | 500.. => {
                let why =
                    if status == 429 { "has had too many requests from here" } else { "is not well at the moment" };
                return Failure::Passing { what: format!("{} {why} ({status})", self.endpoint), wait };
            }
            _ => {
                (HubProblem::Content, format!("{} answers {status} when asked for {asked}; see {page}", self.endpoint))
            }
        };
        Failure::Final(Error::Hub { model: name.to_string(), problem, what })
    }
}

struct Answer {
    status: u16,
    /// Of the body.
    length: Option<u64>,
    /// Where a part begins, and how long the whole is.
    range: Option<(u64, Option<u64>)>,
    /// Of the whole file.
    size: Option<u64>,
    hash: Option<String>,
    body: Body,
}

pub(super) fn content(name: &ModelName, what: String) -> Error {
    Error::Hub { model: name.to_string(), problem: HubProblem::Content, what }
}

/// The proxy that was asked for, as `http://host:port`.
fn proxy(options: &HubOptions) -> Result<Option<Proxy>> {
    let Some(address) = options.proxy.as_ref().filter(|address| !address.is_empty()) else { return Ok(None) };
    let no_proxy = |e: ureq::Error| Error::Input(format!("{address:?} cannot be used as a proxy: {e}"));
    let given = Proxy::new(address).map_err(no_proxy)?;
    let mut builder = Proxy::builder(given.protocol()).host(given.host()).port(given.port());
    if let Some(name) = given.username() {
        builder = builder.username(name);
    }
    if let Some(password) = given.password() {
        builder = builder.password(password);
    }
    let direct = options.no_proxy.split(',').map(str::trim).filter(|host| !host.is_empty());
    direct.fold(builder, |builder, host| builder.no_proxy(host)).build().map(Some).map_err(no_proxy)
}

/// Where a redirect leads, if it may be followed: never from a safe connection to one that is not.
fn followed(from: &Uri, location: &str) -> Option<String> {
    let to = match location.strip_prefix('/') {
        Some(rest) if !rest.starts_with('/') => {
            format!("{}://{}{location}", from.scheme_str()?, from.authority()?)
        }
        _ => location.to_owned(),
    };
    let uri: Uri = to.parse().ok()?;
    let is_safe =
        uri.scheme_str() == Some("https") || (uri.scheme_str() == Some("http") && from.scheme_str() == Some("http"));
    (is_safe && uri.host().is_some()).then_some(to)
}

fn origin(uri: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    (uri.scheme_str(), uri.host(), uri.port_u16())
}

/// A hash as headers have it: `W/"hash"`.
fn bare(etag: &str) -> String {
    etag.trim().trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Start and whole length of `bytes 5-9/10`.
fn range(text: &str) -> Option<(u64, Option<u64>)> {
    let (part, whole) = text.trim().strip_prefix("bytes")?.trim().split_once('/')?;
    let (start, _) = part.split_once('-')?;
    Some((start.trim().parse().ok()?, whole.trim().parse().ok()))
}

/// As a part of an address; `/` only where it divides.
fn escaped(text: &str, divides: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte.into()),
            b'/' if divides => out.push('/'),
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_addresses() {
        assert_eq!(bare("W/\"ab\""), "ab");
        assert_eq!(range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(range("bytes 5-9/*"), Some((5, None)));
        for bad in ["bytes */10", "5-9/10", "bytes x-9/10", "bytes 5-9", ""] {
            assert_eq!(range(bad), None, "{bad}");
        }
        assert_eq!(escaped("a/b c#?%é", true), "a/b%20c%23%3F%25%C3%A9");
        assert_eq!(escaped("refs/pr/1", false), "refs%2Fpr%2F1");
    }

    #[test]
    fn redirects_stay_safe() {
        let [safe, open] =
            ["https://hub.example/a/b?c", "http://hub.example:8080/a"].map(|uri| uri.parse::<Uri>().unwrap());
        assert_eq!(followed(&safe, "/x?y").as_deref(), Some("https://hub.example/x?y"));
        assert_eq!(followed(&open, "/x").as_deref(), Some("http://hub.example:8080/x"));
        assert_eq!(followed(&safe, "https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        assert_eq!(followed(&open, "https://cdn.example/x").as_deref(), Some("https://cdn.example/x"));
        for bad in ["http://cdn.example/x", "file:///etc/passwd", "//cdn.example/x", "x", "", "https://"] {
            assert_eq!(followed(&safe, bad), None, "{bad}");
        }
    }
}
