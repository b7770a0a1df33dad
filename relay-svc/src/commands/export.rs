//! `queue export` and `queue import`: a message out of a relay into a file, and from a file into a relay.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use clap::Args;
use linkmail_proto::relay::v1::{
    Envelope, ExportMessageRequest, ImportMessageRequest, Message, Recipient, SubmitMessageRequest,
    export_message_response::Part, message_service_client::MessageServiceClient,
};
use linkmail_service::{
    command::{Service, request, say},
    exit::Exit,
};
use sha2::{Digest, Sha256};
use tonic::Request;

use super::{PROGRAM, address, eml, submit};

#[derive(Debug, Args)]
pub(super) struct Export {
    /// The message, as `queue list` names it, with or without messages/
    id: String,
    /// The file; standard output if it is left out
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
    /// The content as it is, also when it is damaged
    #[arg(long)]
    damaged: bool,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, Args)]
pub(super) struct Import {
    /// The file
    file: PathBuf,
    /// The reverse path, of a file without an envelope; left out: the null reverse path
    #[arg(long, value_name = "ADDRESS")]
    from: Option<String>,
    /// A recipient, of a file without an envelope; may be given again
    #[arg(long, value_name = "ADDRESS")]
    to: Vec<String>,
    /// Send it also if this relay had it before
    #[arg(long)]
    again: bool,
    #[command(flatten)]
    service: Service,
}

pub(super) async fn export(export: Export) -> Result<(), Exit> {
    let mut messages =
        MessageServiceClient::new(PROGRAM.connect(&address(&export.service)?).await?);
    let id = export.id.strip_prefix("messages/").unwrap_or(&export.id);
    // It takes as long as it takes.
    let call = Request::new(ExportMessageRequest {
        name: format!("messages/{id}"),
        damaged: export.damaged,
    });
    let parts = messages.export_message(call).await;
    let mut parts = parts
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    let mut output = Output::open(export.to)?;
    let (mut expected, mut octets) = (0, 0);
    loop {
        let part = parts.message().await;
        let Some(answer) = part.map_err(|status| PROGRAM.refused(&status))? else {
            break;
        };
        match answer.part {
            Some(Part::Envelope(envelope)) => {
                expected = envelope.size_bytes.unsigned_abs();
                output.write(eml::header(&envelope).as_bytes())?;
            }
            Some(Part::Content(piece)) => {
                octets += piece.len() as u64;
                output.write(&piece)?;
            }
            None => {}
        }
    }
    if octets != expected && !export.damaged {
        let what = format!("the stream ended after {octets} of {expected} octets");
        return Err(PROGRAM.complain(Exit::Unavailable, &what));
    }
    output.finish()
}

/// Where a message is written. A file gets its name once it is whole and synced; one that was there is not touched.
enum Output {
    Standard(io::Stdout),
    File {
        file: File,
        part: PathBuf,
        whole: PathBuf,
    },
}

impl Output {
    fn open(to: Option<PathBuf>) -> Result<Self, Exit> {
        let Some(whole) = to else {
            return Ok(Self::Standard(io::stdout()));
        };
        if whole.exists() {
            let what = format!("{}: is there already", whole.display());
            return Err(PROGRAM.complain(Exit::CannotCreate, &what));
        }
        let mut part = whole.clone().into_os_string();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = File::create(&part).map_err(|error| cannot_write(&part, &error))?;
        Ok(Self::File { file, part, whole })
    }

    fn write(&mut self, octets: &[u8]) -> Result<(), Exit> {
        match self {
            // Whoever read it has seen enough.
            Self::Standard(output) => output.write_all(octets).map_err(|_| Exit::Ok),
            Self::File { file, part, .. } => file
                .write_all(octets)
                .map_err(|error| cannot_write(part, &error)),
        }
    }

    fn finish(mut self) -> Result<(), Exit> {
        match &mut self {
            Self::Standard(output) => output.flush().map_err(|_| Exit::Ok),
            Self::File { file, part, whole } => file
                .sync_all()
                .and_then(|()| fs::rename(part, &*whole))
                .map_err(|error| cannot_write(whole, &error)),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { part, .. } = self {
            // Once it has its name this finds nothing.
            let _ = fs::remove_file(part);
        }
    }
}

fn cannot_write(path: &Path, error: &io::Error) -> Exit {
    PROGRAM.complain(Exit::CannotCreate, &format!("{}: {error}", path.display()))
}

pub(super) async fn import(import: Import) -> Result<(), Exit> {
    let complain = |what: String| {
        let what = format!("{}: {what}", import.file.display());
        PROGRAM.complain(Exit::DataError, &what)
    };
    let file = fs::read(&import.file).map_err(|error| complain(error.to_string()))?;
    let read = eml::read(&file).map_err(complain)?;
    let mut messages =
        MessageServiceClient::new(PROGRAM.connect(&address(&import.service)?).await?);
    let taken = match read {
        Some((envelope, content)) => {
            if import.from.is_some() || !import.to.is_empty() {
                return Err(complain(
                    "has an envelope of its own: expected no --from and no --to".into(),
                ));
            }
            expect_content(&envelope, content).map_err(complain)?;
            let call = request(ImportMessageRequest {
                envelope: Some(envelope),
                content: content.to_vec(),
                again: import.again,
            });
            messages.import_message(call).await
        }
        None if import.to.is_empty() => {
            return Err(complain("has no envelope: expected --to ADDRESS".into()));
        }
        None => {
            let from = import.from.unwrap_or_default();
            let call = plain(&file, from, import.to, import.again);
            messages.submit_message(request(call)).await
        }
    };
    let message = taken
        .map_err(|status| PROGRAM.refused(&status))?
        .into_inner();
    say(format_args!("{}: {}", message.name, states(&message)))
}

/// Before it is sent: the relay says the same, but not what may be the reason.
fn expect_content(envelope: &Envelope, content: &[u8]) -> Result<(), String> {
    let size = content.len();
    if i64::try_from(size) != Ok(envelope.size_bytes) {
        return Err(format!(
            "the content has {size} octets, and {} were exported: was it cut, or were line ends changed?",
            envelope.size_bytes
        ));
    }
    if Sha256::digest(content)[..] != envelope.sha256 {
        return Err(
            "the content is not what was accepted: its hash differs; without its X-Linkmail fields, and with \
             --from and --to, it is a message of its own"
                .into(),
        );
    }
    Ok(())
}

/// A message that no relay exported. The same file for the same people is the same call.
fn plain(file: &[u8], from: String, to: Vec<String>, again: bool) -> SubmitMessageRequest {
    let content = submit::with_crlf(file);
    let mut hash = Sha256::new();
    for part in to
        .iter()
        .map(String::as_bytes)
        .chain([from.as_bytes(), &content])
    {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hash.finalize()[..16]);
    let id = match again {
        true => uuid::Uuid::new_v4(),
        false => uuid::Builder::from_custom_bytes(id).into_uuid(),
    };
    SubmitMessageRequest {
        request_id: id.to_string(),
        reverse_path: from,
        recipients: to,
        content,
        // What needs it by its addresses says so.
        smtputf8: false,
    }
}

fn states(message: &Message) -> String {
    let one = |one: &Recipient| {
        let state = one.state().as_str_name().to_lowercase();
        format!("<{}> {state}", one.address)
    };
    let all: Vec<_> = message.recipients.iter().map(one).collect();
    all.join(", ")
}
