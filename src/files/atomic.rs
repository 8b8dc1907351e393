//! Writes files so that a crash at any instant leaves either the old or the new one, never a mixture.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// What temporary files are called first, so that those of a crash can be told.
pub(crate) const LEFT_OVER: &str = ".t5-partial-";

/// Writes a file beside `path`, syncs it and renames it into place. What is no file, such as `/dev/stdout` or a pipe, is
/// written to as it is.
pub fn write_atomic(path: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let path = path.as_ref();
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let write = |mut file: File| file.write_all(bytes);
        return File::options().write(true).open(path).and_then(write).map_err(Error::io("write", path));
    }
    write_all_atomic(&[(path, bytes)])
}

/// As [`write_atomic`], with contents that `fill` writes bit by bit. Its error leaves what was there.
pub fn write_streamed(path: impl AsRef<Path>, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let path = path.as_ref();
    let folder = folder_of(path);
    let mut temporary = temporary_in(folder).map_err(Error::io("create", path))?;
    let mut file = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    fill(&mut file)?;
    file.flush().map_err(Error::io("write", path))?;
    drop(file);
    temporary.as_file().sync_all().map_err(Error::io("write", path))?;
    temporary.persist(path).map_err(|e| Error::io("replace", path)(e.error))?;
    sync_folder(folder)
}

/// As [`write_atomic`], several files: none is replaced before all are written.
pub fn write_all_atomic(files: &[(&Path, &[u8])]) -> Result<()> {
    let mut written = Vec::with_capacity(files.len());
    for &(path, bytes) in files {
        let name = path.file_name().ok_or_else(|| Error::file(path, "is not the name of a file"))?;
        let folder = folder_of(path);
        let mut temporary = temporary_in(folder).map_err(Error::io("create", path))?;
        let file = temporary.as_file_mut();
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(Error::io("write", path))?;
        written.push((temporary, folder.join(name), folder));
    }
    for (temporary, path, folder) in written {
        temporary.persist(&path).map_err(|e| Error::io("replace", &path)(e.error))?;
        sync_folder(folder)?;
    }
    Ok(())
}

/// A new file of a random name, with the rights that any other file gets. It removes itself unless it is renamed.
fn temporary_in(folder: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let builder = builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.prefix(LEFT_OVER).tempfile_in(folder)
}

/// The folder that a file lies in: "." for a bare name.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."))
}

/// Makes the names in a folder durable; only Unix can, and some file systems there refuse.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    if cfg!(unix) {
        match File::open(folder).and_then(|folder| folder.sync_all()) {
            Err(e) if !matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
                return Err(Error::io("write", folder)(e));
            }
            _ => {}
        }
    }
    Ok(())
}
