//! One file: what is there already, the rest from the hub, and whether it is what the hub says it is.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};

use super::cache::{RepositoryCache, create_folder_of};
use super::http::{Client, Failure, content};
use super::name::{ModelName, is_hex};
use super::{TRIES, Watch, pause};
use crate::error::{Error, Result};
use crate::files::sync_folder;

const CHUNK: usize = 128 << 10;

/// A file that is wanted, and what the hub says about it.
#[derive(Clone, Debug)]
pub(super) struct Wanted {
    pub name: String,
    pub size: u64,
    pub hash: Hash,
}

/// What a file's bytes must come to, in hexadecimal: it is also what the cache calls them.
#[derive(Clone, Debug)]
pub(super) enum Hash {
    /// Of a large file.
    Sha256(String),
    /// Of a file that lies in git itself.
    Git(String),
}

impl Hash {
    pub fn parse(text: &str) -> Option<Hash> {
        match text {
            _ if is_hex(text, 64) => Some(Hash::Sha256(text.to_owned())),
            _ if is_hex(text, 40) => Some(Hash::Git(text.to_owned())),
            _ => None,
        }
    }

    pub fn as_str(&self) -> &str {
        let (Hash::Sha256(text) | Hash::Git(text)) = self;
        text
    }

    fn begin(&self, size: u64) -> Context {
        match self {
            Hash::Sha256(_) => Context::new(&SHA256),
            Hash::Git(_) => {
                let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
                context.update(format!("blob {size}\0").as_bytes());
                context
            }
        }
    }
}

/// What a download works with.
pub(super) struct Source<'a> {
    pub client: &'a Client,
    pub cache: &'a RepositoryCache,
    pub name: &'a ModelName,
    pub commit: &'a str,
}

impl Source<'_> {
    /// Brings a file into the snapshot.
    pub fn fetch(&self, file: &Wanted, watch: &mut Watch) -> Result<()> {
        watch.begin(&file.name);
        let hash = file.hash.as_str();
        let blob = self.cache.blob(hash);
        create_folder_of(&blob)?;
        let lock = self.cache.lock(hash, watch)?;
        if !fs::metadata(&blob).is_ok_and(|there| there.is_file() && there.len() == file.size) {
            let part = blob.with_extension("part");
            self.complete(file, &part, watch)?;
            fs::rename(&part, &blob).map_err(Error::io("replace", &blob))?;
            sync_folder(blob.parent().unwrap_or(&blob))?;
        }
        self.cache.link(hash, self.commit, &file.name)?;
        drop(lock);
        watch.end(file.size)
    }

    /// Makes the part file whole, however often the connection breaks.
    fn complete(&self, file: &Wanted, path: &Path, watch: &mut Watch) -> Result<()> {
        let mut part = Part::open(file, path, watch)?;
        let mut tries = 0;
        while part.have < file.size {
            let before = part.have;
            match self.go_on(file, &mut part, watch) {
                Ok(()) => {}
                Err(Failure::Passing { what, wait }) if tries + 1 < TRIES || part.have > before => {
                    // A connection that brings something is worth another one.
                    tries = if part.have > before { 0 } else { tries + 1 };
                    pause(wait.unwrap_or(Duration::from_millis(500 << tries)), &what, watch)?;
                }
                Err(failure) => return Err(failure.into_error(self.name)),
            }
        }
        if part.is_right(file) {
            return part.file.sync_all().map_err(Error::io("write", path));
        }
        let resumed = part.resumed;
        drop(part);
        remove(path)?;
        if resumed {
            // What lay there from an earlier run may have been damaged.
            watch.forget();
            return self.complete(file, path, watch);
        }
        let what = format!(
            "{} is not what the hub says it is: its hash is not {}; removed. Try again; if that does not help, the hub or a proxy \
             on the way is at fault",
            file.name,
            file.hash.as_str()
        );
        Err(content(self.name, what))
    }

    /// One request for what is missing.
    fn go_on(&self, file: &Wanted, part: &mut Part, watch: &mut Watch) -> Result<(), Failure> {
        let mut coming = self.client.file(self.name, self.commit, &file.name, part.have)?;
        if coming.start != part.have {
            watch.forget();
            part.restart(file)?;
            if coming.start != 0 {
                return Err(Failure::passing(format!("another part of {} came than was asked for", file.name)));
            }
        }
        let wrong_size = |sent: String| {
            let what = format!("{} should have {} bytes, and the hub sends {sent}; removed", file.name, file.size);
            Failure::Final(content(self.name, what))
        };
        if let Some(size) = coming.size.filter(|&size| size != file.size) {
            remove(&part.path)?;
            return Err(wrong_size(size.to_string()));
        }
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match coming.body.read(&mut buffer) {
                Ok(count) => count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.client.dropped(&e)),
            };
            if count == 0 {
                break;
            }
            if part.have + count as u64 > file.size {
                remove(&part.path)?;
                return Err(wrong_size("more".into()));
            }
            part.push(&buffer[..count])?;
            watch.come(count as u64)?;
        }
        match part.have == file.size {
            true => Ok(()),
            false => Err(Failure::passing(format!("the connection ended before {} did", file.name))),
        }
    }
}

/// What has come so far, and its hash.
struct Part {
    file: File,
    path: std::path::PathBuf,
    have: u64,
    context: Context,
    /// Whether some of it lay there already.
    resumed: bool,
}

impl Part {
    fn open(wanted: &Wanted, path: &Path, watch: &mut Watch) -> Result<Part> {
        let mut options = File::options();
        let file =
            options.create(true).truncate(false).read(true).write(true).open(path).map_err(Error::io("write", path))?;
        let found = file.metadata().map_err(Error::io("read", path))?.len();
        let context = wanted.hash.begin(wanted.size);
        let mut part = Part { file, path: path.to_owned(), have: 0, context, resumed: false };
        if found > wanted.size {
            part.restart(wanted)?;
            return Ok(part);
        }
        let mut buffer = vec![0; CHUNK];
        while part.have < found {
            let count = part.file.read(&mut buffer).map_err(Error::io("read", path))?;
            if count == 0 {
                break;
            }
            part.context.update(&buffer[..count]);
            part.have += count as u64;
            watch.found(count as u64)?;
        }
        part.resumed = part.have > 0;
        Ok(part)
    }

    fn restart(&mut self, wanted: &Wanted) -> Result<()> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("write", &self.path))?;
        (self.have, self.resumed) = (0, false);
        self.context = wanted.hash.begin(wanted.size);
        Ok(())
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))?;
        self.context.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    fn is_right(&self, wanted: &Wanted) -> bool {
        let found = self.context.clone().finish();
        let hex: String = found.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        hex == wanted.hash.as_str()
    }
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(Error::io("remove", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_are_those_of_git_and_of_files() {
        // `printf hello | git hash-object --stdin`, `printf hello | sha256sum`.
        let git = "b6fc4c620b67d95f953a5c1c1230aaab5db5a1b0";
        let sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
        for text in [git, sha] {
            let hash = Hash::parse(text).unwrap();
            let mut context = hash.begin(5);
            context.update(b"hello");
            let found: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, text);
        }
        for bad in ["", "../../../etc/passwd", &sha[1..], &sha.to_uppercase(), "0-1"] {
            assert!(Hash::parse(bad).is_none(), "{bad}");
        }
    }
}
