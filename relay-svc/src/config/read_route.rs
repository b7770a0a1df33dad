//! The `[[route]]` part of the file.

use std::{cell::RefCell, collections::BTreeSet};

use linkmail_service::config::Table;

use super::read::{host, known_link};
use crate::{
    names::{LinkName, NextHop},
    route::{Hold, Pattern, RecipientPattern, Routes, Target},
};

/// The keys that only a `hold` route has.
const OF_HOLD: [&str; 2] = ["release_to", "etrn_from"];

pub(super) fn routes(root: &Table<'_>, links: Option<&BTreeSet<LinkName>>) -> Routes {
    let routes = RefCell::new(Routes::default());
    for table in root.tables("route") {
        let target = target(&table, links);
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
            let again = routes.borrow_mut().insert(pattern, target.clone());
            again.map_err(|again| format!("{again} is routed already"))
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
    routes.into_inner()
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
    if !table.has("release_to") {
        table.error(
            "release_to",
            "missing; to = \"hold\" needs the host that released mail is sent to, such as \"smtp://mx.branch.example:25\"",
        );
    }
    let release_to = table.parse_with("release_to", host)?;
    Some(Hold {
        release_to,
        etrn_from,
    })
}
