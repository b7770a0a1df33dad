//! The `[[route]]` part of the file.

use std::{cell::RefCell, collections::BTreeSet, path::PathBuf, sync::Arc};

use linkmail_service::{
    config::{Table, choice},
    fresh::ReloadingFile,
};

use super::{
    RecipientLists,
    read::{host, known_link},
};
use crate::{
    names::{LinkName, NextHop},
    policy::Identity,
    recipient_list::RecipientList,
    route::{Check, Hold, Pattern, RecipientPattern, Routes, Target},
};

/// The keys that only a `hold` route has.
const OF_HOLD: [&str; 4] = ["release_to", "connections", "etrn_from", "etrn_by"];
/// The keys that say how recipients are checked.
const OF_CHECK: [&str; 2] = ["recipients_file", "verify"];

/// What was read.
#[derive(Default)]
pub(super) struct Read {
    pub(super) routes: Routes,
    pub(super) lists: RecipientLists,
}

pub(super) fn routes(root: &Table<'_>, links: Option<&BTreeSet<LinkName>>) -> Read {
    let routes = RefCell::new(Routes::default());
    let mut lists = RecipientLists::new();
    for table in root.tables("route") {
        let target = target(&table, links);
        let check = check(&table, target.as_ref(), &mut lists);
        let has_recipients = table.has("recipients");
        table.list_with("recipients", |text| {
            let pattern = RecipientPattern::parse(text)?;
            let Some(target) = &target else { return Ok(()) };
            if matches!(target, Target::Hold(_)) {
                // A site asks for a domain: a part of one could not be asked for.
                return Err("cannot go to hold: name the domains".to_owned());
            }
            let again = routes
                .borrow_mut()
                .insert_recipient(pattern, target.clone());
            again.map_err(|again| format!("{again} is routed already"))
        });
        let domain = |text: &str| {
            let pattern = Pattern::parse(text)?;
            let Some(target) = &target else { return Ok(()) };
            if pattern == Pattern::Any && !forwards(target) {
                return Err(format!("\"*\" cannot go to {target}: name the domains"));
            }
            let again = routes.borrow_mut().insert(pattern.clone(), target.clone());
            again.map_err(|again| format!("{again} is routed already"))?;
            if let Some(check) = &check {
                if pattern == Pattern::Any {
                    return Err("\"*\" is nobody's own, and its recipients are not checked: name the domains".to_owned());
                }
                routes.borrow_mut().check(&pattern, check.clone());
            }
            Ok(())
        };
        if has_recipients {
            table.list_with("domains", domain);
        } else if table.has("domains") {
            table.required_list_with("domains", "domain", domain);
        } else {
            table.error("domains", "missing; a route has domains, or recipients");
        }
        table.finish();
    }
    Read {
        routes: routes.into_inner(),
        lists,
    }
}

/// How the recipients of a route's domains are checked.
fn check(table: &Table<'_>, target: Option<&Target>, lists: &mut RecipientLists) -> Option<Check> {
    let file: Option<PathBuf> = table.optional("recipients_file");
    let kinds = [("call-forward", Check::CallForward)];
    let verify = table.parse_with("verify", |text| choice("verify", text, &kinds));
    let keys = OF_CHECK.iter().filter(|key| table.has(key));
    for (index, key) in keys.enumerate() {
        let wrong = match target {
            _ if index > 0 => "expected one of recipients_file and verify",
            _ if !table.has("domains") => "only a route with domains has this key",
            Some(Target::Hop(NextHop::Link(_))) => {
                "not for a link: whom another host takes is not ours to say"
            }
            Some(Target::Hop(NextHop::Report)) => "not for to = \"report\"",
            Some(Target::Mx) => "not for to = \"mx\": whom another host takes is not ours to say",
            Some(Target::Hold(_)) if *key == "verify" => {
                "cannot ask a site whose mail is held; see recipients_file"
            }
            _ => continue,
        };
        table.error(key, wrong);
    }
    if let Some(path) = &file
        && !lists.contains_key(path)
    {
        match ReloadingFile::load(path, RecipientList::parse) {
            Ok(list) => {
                lists.insert(path.clone(), Arc::new(list));
            }
            Err(error) => table.error("recipients_file", error.to_string()),
        }
    }
    file.map(Check::Listed).or(verify)
}

/// Whether mail goes on to another host by itself.
fn forwards(target: &Target) -> bool {
    matches!(
        target,
        Target::Mx | Target::Hop(NextHop::Link(_) | NextHop::Smtp(_))
    )
}

fn target(table: &Table<'_>, links: Option<&BTreeSet<LinkName>>) -> Option<Target> {
    enum To {
        Hold,
        Mx,
        Hop(NextHop),
    }
    let to = table.required_with("to", |text| match text {
        "hold" => Ok(To::Hold),
        "mx" => Ok(To::Mx),
        _ => NextHop::parse(text).map(To::Hop),
    });
    let target = match to {
        Some(To::Hold) => return Some(Target::Hold(hold(table)?)),
        Some(To::Mx) => Some(Target::Mx),
        Some(To::Hop(hop)) => {
            if let NextHop::Link(name) = &hop {
                known_link(table, "to", name, links);
            }
            Some(Target::Hop(hop))
        }
        None => None,
    };
    for key in OF_HOLD {
        // Whether they belong to a route whose next hop is wrong depends on what is wrong: only that is told.
        if table.has(key) && target.is_some() {
            table.error(key, "only a route to = \"hold\" has this key");
        }
    }
    target
}

fn hold(table: &Table<'_>) -> Option<Hold> {
    let etrn_from = table.list("etrn_from");
    let etrn_by = table.list_with("etrn_by", Identity::parse);
    let connections = table.or("connections", 16);
    if connections == 0 {
        table.error("connections", "expected at least 1");
    }
    if !table.has("release_to") {
        table.error(
            "release_to",
            "missing; to = \"hold\" needs the host that released mail is sent to, such as \"smtp://mx.branch.example:25\"",
        );
    }
    let release_to = table.parse_with("release_to", host)?;
    Some(Hold {
        release_to,
        connections,
        etrn_from,
        etrn_by,
    })
}
