//! Models by their names on a hub: <https://huggingface.co>, or whatever answers as it does.
//!
//! Of a model those files are fetched that would be read, into the cache that huggingface_hub uses, and checked against the hub's sizes
//! and hashes. What is in the cache is not fetched again. The protocol is that of huggingface_hub: a request for the commit and the list of
//! files (`/api/models/MODEL/revision/REVISION`), then one for each file (`/MODEL/resolve/COMMIT/FILE`).
//!
//! Nothing else in this crate touches the network. No environment is read; only the place of the home folder is looked up
//! ([`HubOptions::default`]).

mod cache;
mod download;
mod http;
mod name;
mod selection;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use web_time::Instant;

pub use name::ModelName;

use crate::error::{Error, HubProblem, Result};
use cache::RepositoryCache;
use download::{Hash, Source, Wanted};
use http::{Client, Failure, Info, Sibling, content};
use name::is_commit;

/// How often something is asked for that does not come.
const TRIES: u32 = 4;

/// More than any file of a model has.
const MOST_BYTES: u64 = 1 << 44;

/// Which hub is asked, and how.
#[derive(Clone)]
pub struct HubOptions {
    /// Its address.
    pub endpoint: String,
    /// The folder that models are kept in.
    pub cache: PathBuf,
    /// For models that are not for everyone. It goes to the endpoint's host only.
    pub token: Option<String>,
    /// Take what is in the cache, and ask nobody.
    pub offline: bool,
    /// `http://host:port` of a proxy.
    pub proxy: Option<String>,
    /// Hosts that are asked without the proxy, with commas between them.
    pub no_proxy: String,
}

impl Default for HubOptions {
    /// The hub at <https://huggingface.co>, and the folder `.cache/huggingface/hub` in the user's home folder.
    fn default() -> HubOptions {
        let in_home = std::env::home_dir().map(|home| home.join(".cache/huggingface/hub"));
        HubOptions {
            endpoint: "https://huggingface.co".into(),
            cache: in_home.unwrap_or_default(),
            token: None,
            offline: false,
            proxy: None,
            no_proxy: String::new(),
        }
    }
}

/// Tokens do not belong in logs.
impl std::fmt::Debug for HubOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let HubOptions { endpoint, cache, token, offline, .. } = self;
        let token = token.as_ref().map(|_| "...");
        write!(f, "HubOptions {{ {endpoint:?}, cache: {cache:?}, token: {token:?}, offline: {offline} }}")
    }
}

/// How far the files of a model have come.
#[derive(Clone, Copy, Debug)]
pub struct DownloadProgress<'a> {
    /// The one that comes.
    pub file: &'a str,
    /// Bytes of all files, in the cache or come.
    pub done: u64,
    /// Bytes of all files that are known to be needed; the list of shards comes first.
    pub total: u64,
    /// Bytes that came over the network.
    pub received: u64,
    /// What keeps it from coming, at the moment.
    pub waiting: Option<&'a str>,
}

/// A model of the hub that lies in the cache.
#[derive(Clone, Debug)]
pub struct HubModel {
    /// An ordinary model folder.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// Bytes that came over the network; 0 if all was there.
    pub received: u64,
    /// What the model's card names as its licence, if the hub was asked.
    pub licence: Option<String>,
    /// Where people read about the model.
    pub page: String,
    /// A sentence about why this may not be the newest, if so.
    pub remark: Option<String>,
}

/// A hub.
pub struct Hub {
    client: Client,
    options: HubOptions,
}

impl Hub {
    /// # Errors
    /// `Input` for an address, a token or a proxy that cannot be one, or without a folder for the cache.
    pub fn new(options: HubOptions) -> Result<Hub> {
        if options.cache.as_os_str().is_empty() {
            let what = "there is no folder to keep models of the hub in: name one, since there is no home folder";
            return Err(Error::Input(what.into()));
        }
        Ok(Hub { client: Client::new(&options)?, options })
    }

    /// The folder of a model, whose files are fetched if they are not in the cache. A commit that is there is taken without a request;
    /// of a branch the newest commit is asked for, and where no hub answers the one that is there is taken. `on_progress` hears of
    /// downloads several times a second while bytes come; its `Break` stops, and what has come is kept.
    ///
    /// # Errors
    /// `Hub`: no connection, no such model, no access, or nothing that could be read; `Io`: the cache cannot be written; `Cancelled`.
    pub fn fetch(
        &self,
        name: &ModelName,
        on_progress: &mut dyn FnMut(DownloadProgress<'_>) -> ControlFlow<()>,
    ) -> Result<HubModel> {
        let cache = RepositoryCache::new(&self.options.cache, name);
        let revision = name.revision();
        let known = cache.commit_of(revision).filter(|commit| selection::is_whole(&cache, commit));
        let page = format!("{}/{}", self.client.endpoint(), name.repository);
        let present = |commit: &str, remark| HubModel {
            folder: cache.snapshot(commit),
            commit: commit.to_owned(),
            received: 0,
            licence: None,
            page: page.clone(),
            remark,
        };
        match &known {
            Some(commit) if is_commit(revision) || self.options.offline => return Ok(present(commit, None)),
            None if self.options.offline => {
                let what = format!("is not in {}, and the hub must not be asked", self.options.cache.display());
                return Err(Error::Hub { model: name.to_string(), problem: HubProblem::Offline, what });
            }
            _ => {}
        }
        let mut watch = Watch::new(on_progress);
        watch.begin("the list of files");
        // Whoever has the model need not wait for a hub that does not answer.
        let tries = if known.is_some() { 1 } else { TRIES };
        let info = match self.info(name, tries, &mut watch) {
            Ok(info) => info,
            Err(error) => match (&known, &error) {
                (Some(commit), Error::Hub { problem: HubProblem::Network, what, .. }) => {
                    let remark = format!("{name}: taking what is in the cache, commit {}: {what}", &commit[..12]);
                    return Ok(present(commit, Some(remark)));
                }
                _ => return Err(error),
            },
        };
        if !is_commit(&info.sha) || is_commit(revision) && info.sha != revision {
            let what = format!("{} names {:?} as the commit of {revision}", self.client.endpoint(), info.sha);
            return Err(content(name, what));
        }
        let source = Source { client: &self.client, cache: &cache, name, commit: &info.sha };
        self.bring(&source, &info, &mut watch)?;
        cache.set_reference(revision, &info.sha)?;
        let received = watch.received;
        Ok(HubModel { received, licence: info.licence(), ..present(&info.sha, None) })
    }

    fn info(&self, name: &ModelName, tries: u32, watch: &mut Watch) -> Result<Info> {
        again(tries, name, watch, || self.client.info(name))
    }

    /// Brings all files of a model into its snapshot, weights last: where they are, all else is.
    fn bring(&self, source: &Source, info: &Info, watch: &mut Watch) -> Result<()> {
        let siblings: BTreeMap<&str, &Sibling> =
            info.siblings.iter().map(|sibling| (sibling.rfilename.as_str(), sibling)).collect();
        let names = siblings.keys().map(|name| (*name).to_owned()).collect();
        let place = PathBuf::from(source.name.to_string());
        let selection = selection::Selection::of(&place, &names)?;
        let fetch = |names: &[String], watch: &mut Watch| -> Result<()> {
            let wanted: Vec<Wanted> = names
                .iter()
                .map(|file| self.wanted(source, file, siblings.get(file.as_str()), watch))
                .collect::<Result<_>>()?;
            watch.total += wanted.iter().map(|file| file.size).sum::<u64>();
            for file in &wanted {
                match source.cache.has(source.commit, &file.name, file.size) {
                    true => watch.done += file.size,
                    false => source.fetch(file, watch)?,
                }
            }
            Ok(())
        };
        fetch(selection.settings(), watch)?;
        fetch(&selection.named_in(&source.cache.snapshot(source.commit), &names)?, watch)?;
        fetch(selection.whole(), watch)
    }

    /// What the hub says about a file; where the list did not say it, a request asks for it.
    fn wanted(&self, source: &Source, file: &str, sibling: Option<&&Sibling>, watch: &mut Watch) -> Result<Wanted> {
        let name = source.name;
        if !name::is_inside(file) {
            return Err(content(name, format!("{file:?} is no name for a file; refusing to fetch it")));
        }
        let said = sibling.and_then(|sibling| Some((sibling.size()?, Hash::parse(sibling.hash()?)?)));
        if let Some((size, hash)) = said
            && size <= MOST_BYTES
        {
            return Ok(Wanted { name: file.to_owned(), size, hash });
        }
        let facts = again(TRIES, name, watch, || self.client.facts(name, source.commit, file))?;
        let hash = facts.hash.as_deref().and_then(Hash::parse);
        match (facts.size, hash) {
            (Some(size), Some(hash)) if size <= MOST_BYTES => Ok(Wanted { name: file.to_owned(), size, hash }),
            _ => {
                let what = format!(
                    "{} does not say size and hash of {file}, so that it could not be checked",
                    self.client.endpoint()
                );
                Err(content(name, what))
            }
        }
    }
}

/// Asks until an answer comes, a few times.
fn again<T>(tries: u32, name: &ModelName, watch: &mut Watch, mut ask: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    let mut tried = 1;
    loop {
        match ask() {
            Ok(answer) => return Ok(answer),
            Err(Failure::Passing { what, wait }) if tried < tries => {
                pause(wait.unwrap_or(Duration::from_millis(250 << tried)), &what, watch)?;
                tried += 1;
            }
            Err(failure) => return Err(failure.into_error(name)),
        }
    }
}

/// Waits before the next try; says why.
fn pause(length: Duration, why: &str, watch: &mut Watch) -> Result<()> {
    let end = Instant::now() + length;
    loop {
        watch.tell(Some(why))?;
        match end.checked_duration_since(Instant::now()) {
            Some(left) if !left.is_zero() => std::thread::sleep(left.min(Duration::from_millis(100))),
            _ => return Ok(()),
        }
    }
}

/// Who hears of the progress, and how far it has come.
struct Watch<'a> {
    on_progress: &'a mut dyn FnMut(DownloadProgress<'_>) -> ControlFlow<()>,
    file: String,
    done: u64,
    total: u64,
    received: u64,
    /// Of the file that comes.
    of_file: u64,
    told: Option<Instant>,
}

impl<'a> Watch<'a> {
    fn new(on_progress: &'a mut dyn FnMut(DownloadProgress<'_>) -> ControlFlow<()>) -> Watch<'a> {
        Watch { on_progress, file: String::new(), done: 0, total: 0, received: 0, of_file: 0, told: None }
    }
}

impl Watch<'_> {
    fn begin(&mut self, file: &str) {
        file.clone_into(&mut self.file);
        (self.of_file, self.told) = (0, None);
    }

    /// Bytes of the file were in the cache already.
    fn found(&mut self, bytes: u64) -> Result<()> {
        self.of_file += bytes;
        self.done += bytes;
        self.tell_now_and_then()
    }

    /// Bytes of the file have come.
    fn come(&mut self, bytes: u64) -> Result<()> {
        self.received += bytes;
        self.found(bytes)
    }

    /// What has come of the file is worth nothing.
    fn forget(&mut self) {
        self.done -= self.of_file;
        self.of_file = 0;
    }

    /// The file is there, of so many bytes.
    fn end(&mut self, size: u64) -> Result<()> {
        self.done += size - self.of_file.min(size);
        self.tell(None)
    }

    fn tell_now_and_then(&mut self) -> Result<()> {
        match self.told {
            Some(told) if told.elapsed() < Duration::from_millis(100) => Ok(()),
            _ => self.tell(None),
        }
    }

    fn tell(&mut self, waiting: Option<&str>) -> Result<()> {
        self.told = Some(Instant::now());
        let Watch { file, done, total, received, .. } = self;
        let progress = DownloadProgress { file, done: *done, total: *total, received: *received, waiting };
        match (self.on_progress)(progress) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        }
    }
}
