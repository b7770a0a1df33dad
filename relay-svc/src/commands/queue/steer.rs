//! `queue hold`, `release`, `expedite`, `delete`, `bounce`, `reroute`: call after call until all that fits was looked at.

use linkmail_proto::relay::v1::{
    BounceMessagesRequest, DeleteMessagesRequest, ExpediteMessagesRequest, HoldMessagesRequest,
    MessageChanges, MessageFilter, ReleaseMessagesRequest, RerouteMessagesRequest,
    message_service_client::MessageServiceClient,
};
use linkmail_service::{
    command::{request, say},
    exit::Exit,
};
use tonic::{Status, transport::Channel};

use super::{
    super::{PROGRAM, address},
    Meant,
};

/// What is to be done.
pub(super) enum Change {
    Hold,
    Release,
    Expedite,
    Delete,
    /// With the reason for the report.
    Bounce(String),
    /// To a next hop; empty: where the routes say.
    Reroute(String),
}

impl Change {
    /// What was done, as a word.
    fn done(&self) -> &'static str {
        match self {
            Self::Hold => "held",
            Self::Release => "released",
            Self::Expedite => "expedited",
            Self::Delete => "deleted",
            Self::Bounce(_) => "bounced",
            Self::Reroute(_) => "rerouted",
        }
    }
}

pub(super) async fn run(change: Change, meant: Meant) -> Result<(), Exit> {
    let channel = PROGRAM.connect(&address(&meant.service)?).await?;
    let mut messages = MessageServiceClient::new(channel);
    let filter = meant.filter.to_wire();
    let mut sum = MessageChanges::default();
    loop {
        let next = std::mem::take(&mut sum.next_page_token);
        let answer = call(&mut messages, &change, &filter, &meant, next).await;
        let changes = match answer {
            Ok(changes) => changes,
            Err(status) => {
                // What was done before that stands.
                if sum.changed_recipients > 0 {
                    say(in_words(&change, &sum, meant.dry_run))?;
                }
                return Err(PROGRAM.refused(&status));
            }
        };
        sum.changed_messages += changes.changed_messages;
        sum.changed_recipients += changes.changed_recipients;
        sum.skipped_recipients += changes.skipped_recipients;
        sum.unfit_recipients += changes.unfit_recipients;
        sum.next_page_token = changes.next_page_token;
        if sum.next_page_token.is_empty() {
            break;
        }
    }
    say(in_words(&change, &sum, meant.dry_run))?;
    if sum.unfit_recipients > 0 {
        let what = format!(
            "{} left alone: no route takes them, or they are damaged",
            recipients(sum.unfit_recipients)
        );
        PROGRAM.complain(Exit::DataError, &what);
    }
    if sum.skipped_recipients > 0 {
        let what = format!(
            "{} left alone: they are being sent at this moment; try again",
            recipients(sum.skipped_recipients)
        );
        return Err(PROGRAM.complain(Exit::TempFail, &what));
    }
    if sum.unfit_recipients > 0 {
        return Err(Exit::DataError);
    }
    Ok(())
}

async fn call(
    messages: &mut MessageServiceClient<Channel>,
    change: &Change,
    filter: &MessageFilter,
    meant: &Meant,
    page_token: String,
) -> Result<MessageChanges, Status> {
    let (filter, all, validate_only) = (Some(filter.clone()), meant.all, meant.dry_run);
    let request_id = String::new();
    macro_rules! asked {
        ($Call:ident $(, $field:ident)?) => {
            request($Call {
                filter,
                all,
                validate_only,
                request_id,
                page_token,
                $($field: $field.clone(),)?
            })
        };
    }
    let answer = match change {
        Change::Hold => messages.hold_messages(asked!(HoldMessagesRequest)).await,
        Change::Release => {
            messages
                .release_messages(asked!(ReleaseMessagesRequest))
                .await
        }
        Change::Expedite => {
            messages
                .expedite_messages(asked!(ExpediteMessagesRequest))
                .await
        }
        Change::Delete => {
            messages
                .delete_messages(asked!(DeleteMessagesRequest))
                .await
        }
        Change::Bounce(reason) => {
            messages
                .bounce_messages(asked!(BounceMessagesRequest, reason))
                .await
        }
        Change::Reroute(route) => {
            messages
                .reroute_messages(asked!(RerouteMessagesRequest, route))
                .await
        }
    };
    answer.map(tonic::Response::into_inner)
}

fn in_words(change: &Change, sum: &MessageChanges, dry_run: bool) -> String {
    if sum.changed_recipients == 0 {
        return "nothing that fits was changed".to_owned();
    }
    let messages = match sum.changed_messages {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    };
    let (would, done) = (if dry_run { "would be " } else { "" }, change.done());
    format!(
        "{} of {messages} {would}{done}",
        recipients(sum.changed_recipients)
    )
}

fn recipients(count: i64) -> String {
    match count {
        1 => "1 recipient".to_owned(),
        count => format!("{count} recipients"),
    }
}
