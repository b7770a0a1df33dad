//! What a person meant by a key that is not known. Pure.

use std::collections::BTreeSet;

/// The message for a key that no reader asked for.
pub(super) fn unknown_key(key: &str, known: &BTreeSet<String>) -> String {
    let mut message = format!("unknown key {key:?}");
    if let Some(likely) = likely(key, known) {
        message.push_str(&format!("; did you mean {likely:?}?"));
    } else if !known.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        message.push_str(&format!("; known keys: {}", known.join(", ")));
    }
    message
}

/// The nearest known key, if at most a third of its letters differ.
fn likely<'k>(key: &str, known: &'k BTreeSet<String>) -> Option<&'k str> {
    known
        .iter()
        .map(|candidate| (distance(key, candidate), candidate.as_str()))
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits between two words: insert, delete, replace, or exchange of neighbours
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            let exchanged = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if exchanged {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "", 0),
            ("relay_form", "relay_from", 1),
            ("hostnam", "hostname", 1),
            ("colour", "address", 7),
            ("", "abc", 3),
            ("ärger", "arger", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
        }
    }
}
