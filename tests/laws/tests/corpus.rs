//! The corpus of the fuzz targets and all that they ever found, without libFuzzer.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use linkmail_laws::TARGETS;

fn folder(kind: &str, target: &str) -> PathBuf {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    fuzz.join(kind).join(target)
}

/// The files of a folder, but for the note that keeps an empty one.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{folder:?}: {error}"));
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.file_name().is_some_and(|name| name != "README"))
        .collect();
    paths.sort();
    paths
}

#[test]
fn the_laws_hold_over_the_corpus() {
    for (target, check) in TARGETS {
        let inputs = inputs(&folder("corpus", target));
        assert!(inputs.len() >= 20, "{target}: {} inputs", inputs.len());
        for input in inputs {
            // A law that fails says what; the name of the input stands above it.
            println!("{}", input.display());
            check(&std::fs::read(&input).unwrap());
        }
    }
}

#[test]
fn nothing_that_was_found_comes_back() {
    let mut count = 0;
    for (target, check) in TARGETS {
        for finding in inputs(&folder("findings", target)) {
            println!("{}", finding.display());
            check(&std::fs::read(&finding).unwrap());
            count += 1;
        }
    }
    assert!(count >= 2, "{count} findings");
}

#[test]
fn every_target_is_built_and_has_its_dictionary() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    for (target, _) in TARGETS {
        let source = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{target}.rs")));
        assert!(
            source
                .unwrap()
                .contains(&format!("linkmail_laws::{target}::check"))
        );
        assert!(fuzz.join(format!("dictionaries/{target}.dict")).exists());
    }
    let run = std::fs::read_to_string(fuzz.join("run")).unwrap();
    assert!(TARGETS.iter().all(|(target, _)| run.contains(target)));
}
