//! `credentials`: the file that says who may authenticate. A running relay takes over what changed by itself.
//!
//! The file is replaced as a whole, so that nobody reads half of one: its new contents are written beside it, with its
//! mode and owner, and renamed. A new file is readable by its owner alone.

use std::{
    fs,
    io::{self, BufRead, IsTerminal, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use linkmail_sasl::{Credential, CredentialFile, Iterations, Name, Password, ScramKeys};
use linkmail_service::{command::say, exit::Exit};
use ring::rand::{SecureRandom, SystemRandom};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::PROGRAM;

/// The octets of a salt.
const SALT: usize = linkmail_sasl::credential::SALT_LEN;

/// How a password is given and stored.
pub(super) struct Way {
    pub(super) password_file: Option<PathBuf>,
    pub(super) cram_md5: bool,
    pub(super) iterations: u32,
}

pub(super) fn add(path: &Path, name: &str, way: &Way) -> Result<(), Exit> {
    let name = parse_name(name)?;
    let iterations =
        Iterations::new(way.iterations).map_err(|error| PROGRAM.complain(Exit::Usage, &error))?;
    let mut file = match read(path) {
        Err((error, _)) if error.kind() == io::ErrorKind::NotFound => CredentialFile::default(),
        read => read.map_err(|(error, exit)| complain(path, exit, &error))?,
    };
    let password = password(&name, way.password_file.as_deref())?;
    let password =
        Password::parse(&password).map_err(|error| bad(&format!("the password: {error}")))?;
    let mut salt = [0; SALT];
    SystemRandom::new()
        .fill(&mut salt)
        .map_err(|_| PROGRAM.complain(Exit::OsError, &"the system gives no random numbers"))?;
    let made = Credential::from_password(&password, &salt, iterations);
    let mut credential = made.map_err(|error| bad(&error.to_string()))?;
    if way.cram_md5 {
        credential = credential.with_cram_md5(password);
    }
    file.set(&name, credential)
        .map_err(|error| bad(&error.to_string()))?;
    write(path, &file)
}

pub(super) fn list(path: &Path) -> Result<(), Exit> {
    let file = read(path).map_err(|(error, exit)| complain(path, exit, &error))?;
    for (name, credential) in file.iter() {
        let scram = credential.scram().map(ScramKeys::iterations);
        let scram = scram.map(|count| format!("SCRAM-SHA-256 ({count} iterations), PLAIN, LOGIN"));
        let cram = credential.has_cram_md5().then(|| "CRAM-MD5".to_owned());
        let mechanisms: Vec<String> = scram.into_iter().chain(cram).collect();
        say(format_args!("{name}  {}", mechanisms.join(", ")))?;
    }
    Ok(())
}

pub(super) fn remove(path: &Path, name: &str) -> Result<(), Exit> {
    let name = parse_name(name)?;
    let mut file = read(path).map_err(|(error, exit)| complain(path, exit, &error))?;
    if !file.remove(&name) {
        return Err(bad(&format!(
            "{}: no name {name:?}",
            path.display(),
            name = name.as_str()
        )));
    }
    write(path, &file)
}

fn bad(what: &str) -> Exit {
    PROGRAM.complain(Exit::DataError, &what)
}

fn complain(path: &Path, exit: Exit, error: &io::Error) -> Exit {
    PROGRAM.complain(exit, &format!("{}: {error}", path.display()))
}

fn parse_name(text: &str) -> Result<Name, Exit> {
    Name::parse(text).map_err(|error| bad(&format!("{text:?}: {error}")))
}

fn read(path: &Path) -> Result<CredentialFile, (io::Error, Exit)> {
    let text = fs::read_to_string(path).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::DataError,
        };
        (error, exit)
    })?;
    CredentialFile::parse(&text).map_err(|error| {
        let error = io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        (error, Exit::DataError)
    })
}

fn write(path: &Path, file: &CredentialFile) -> Result<(), Exit> {
    // Of a symbolic link the file that it leads to is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    replace(&target, &file.to_string()).map_err(|error| {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NoPermission,
            _ => Exit::CannotCreate,
        };
        complain(path, exit, &error)
    })
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&beside)?;
        if let Ok(old) = fs::metadata(path) {
            // The relay must be able to read it afterwards as it was before.
            fchown(&file, Some(old.uid()), Some(old.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(old.mode() & 0o7777))?;
        }
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    let folder = path.parent().filter(|folder| *folder != Path::new(""));
    fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

/// The password: of a file or of standard input the first line, or asked for twice on a terminal, unseen.
fn password(name: &Name, file: Option<&Path>) -> Result<String, Exit> {
    if let Some(path) = file {
        let text =
            fs::read_to_string(path).map_err(|error| complain(path, Exit::DataError, &error))?;
        return Ok(text.lines().next().unwrap_or_default().to_owned());
    }
    let failed = |error: io::Error| PROGRAM.complain(Exit::OsError, &error);
    if !io::stdin().is_terminal() {
        return line().map_err(failed);
    }
    let (first, second) = twice(name).map_err(failed)?;
    if first == second {
        Ok(first)
    } else {
        Err(bad("the two are not the same"))
    }
}

fn line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Shows what is typed again when it is dropped.
struct Unseen(Termios);

impl Drop for Unseen {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

fn twice(name: &Name) -> io::Result<(String, String)> {
    let before = tcgetattr(io::stdin())?;
    let mut quiet = before.clone();
    quiet.local_modes.remove(LocalModes::ECHO);
    // Before the question: what is typed at once must not be shown either.
    tcsetattr(io::stdin(), OptionalActions::Now, &quiet)?;
    let _unseen = Unseen(before);
    let ask = |prompt: &str| {
        eprint!("{prompt}");
        let line = line();
        eprintln!();
        line
    };
    Ok((ask(&format!("Password for {name}: "))?, ask("Once more: ")?))
}
