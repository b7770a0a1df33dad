//! Tables of files and what is said about them.

use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::*;

/// Reads a file shaped like the relay's and returns what is wrong with it.
fn read(text: &str) -> String {
    let document = match Document::parse("relay.toml", text) {
        Ok(document) => document,
        Err(errors) => return errors.to_string(),
    };
    let root = document.root();
    root.required::<String>("hostname");
    root.or::<ByteSize>("message_size", ByteSize(1));
    for listener in root.tables("listener") {
        listener.required::<SocketAddr>("address");
        listener.list::<IpNet>("relay_from");
        let link = listener.optional::<String>("link");
        if link.is_some_and(|link| link != "isp") {
            listener.error("link", "no link of this name");
        }
        listener.finish();
    }
    for link in root.tables("link") {
        if let Some(dial) = link.required_table("dial") {
            let drivers = [("implicit", 1), ("command", 2)];
            dial.required_with("driver", |text| choice("driver", text, &drivers));
            dial.or("patience", Duration::from_secs(90));
            dial.or::<u32>("attempts", 3);
            dial.or("enabled", true);
            dial.finish();
        }
        link.finish();
    }
    root.finish();
    match document.finish() {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
}

#[test]
fn a_good_file_has_no_errors() {
    let text = r#"
hostname = "a.example"
message_size = "25MB"
[[listener]]
address = "[::]:25"
relay_from = ["10.0.0.0/8", "192.0.2.1"]
link = "isp"
[[link]]
dial = { driver = "implicit", patience = "90s", attempts = 3 }
"#;
    assert_eq!(read(text), "");
    let dotted = "hostname = 'a'\nlink = [{ dial.driver = 'command' }]\n";
    assert_eq!(read(dotted), "");
}

/// A file, and all that is said about it.
const BAD_FILES: &[(&str, &str)] = &[
    ("", "relay.toml:1: hostname: missing; this key is required"),
    (
        "hostname = 7",
        "relay.toml:1: hostname: expected a string, found integer 7",
    ),
    (
        "hostname = 'a'\ncolour = 1\n",
        "relay.toml:2: colour: unknown key \"colour\"; known keys: hostname, link, listener, message_size",
    ),
    (
        "hostnam = 'a'\n",
        "relay.toml:1: hostname: missing; this key is required\n\
             relay.toml:1: hostnam: unknown key \"hostnam\"; did you mean \"hostname\"?",
    ),
    (
        "hostname = 'a'\n[[listener]]\naddress = '1.2.3.4:25'\nrelay_form = []\n",
        "relay.toml:4: listener[0].relay_form: unknown key \"relay_form\"; did you mean \"relay_from\"?",
    ),
    (
        "hostname = 'a'\n[[listener]]\naddress = 'here'\n[[listener]]\nlink = 'x'\n",
        "relay.toml:3: listener[0].address: expected an address such as \"127.0.0.1:25\" or \"[::]:25\", found \"here\"\n\
             relay.toml:4: listener[1].address: missing; this key is required\n\
             relay.toml:5: listener[1].link: no link of this name",
    ),
    (
        "hostname = 'a'\n[[listener]]\naddress = '1.2.3.4:25'\nrelay_from = [\n  '10.1.2.3/16',\n  'ten',\n  4,\n]\n",
        "relay.toml:5: listener[0].relay_from[0]: \"10.1.2.3/16\" has bits set behind its prefix; the network is \"10.1.0.0/16\"\n\
             relay.toml:6: listener[0].relay_from[1]: expected a network such as \"10.1.0.0/16\", found \"ten\"\n\
             relay.toml:7: listener[0].relay_from[2]: expected a network such as \"10.1.0.0/16\", found integer 4",
    ),
    (
        "hostname = 'a'\n[[listener]]\naddress = '1.2.3.4:25'\nrelay_from = '10.0.0.0/8'\n",
        "relay.toml:4: listener[0].relay_from: expected an array such as [\"…\"], found string \"10.0.0.0/8\"",
    ),
    (
        "hostname = 'a'\n\n[[link]]\ndail = 1\n[[link]]\ndial = {\n  driver = \"implict\",\n  patience = 90,\n}\n",
        "relay.toml:3: link[0].dial: missing; this key is required\n\
             relay.toml:4: link[0].dail: unknown key \"dail\"; did you mean \"dial\"?\n\
             relay.toml:7: link[1].dial.driver: unknown driver \"implict\"; one of implicit, command\n\
             relay.toml:8: link[1].dial.patience: expected a string such as \"90s\", found integer 90",
    ),
    (
        "hostname = 'a'\n[link]\ndial = {}\n",
        "relay.toml:2: link: expected an array of tables, found one table; write [[link]] or [{ … }]",
    ),
    (
        "hostname = 'a'\n[[link]]\ndial = 'implicit'\n",
        "relay.toml:3: link[0].dial: expected a table such as { … }, found string \"implicit\"",
    ),
    (
        "hostname = 'a'\nmessage_size = '25'\n",
        "relay.toml:2: message_size: \"25\" has no unit; write a size such as \"512KB\", \"25MB\" or \"64KiB\"",
    ),
    (
        "hostname = 'a'\nhostname = 'b'\nmessage_size = true\n",
        "relay.toml:2: hostname stands twice; write it once\n\
             relay.toml:3: message_size: expected a size such as \"25MB\", or a number of octets, found boolean true",
    ),
    (
        "hostname = 'a\nx = 3\n",
        "relay.toml:1: not TOML: invalid literal string, expected `'`",
    ),
    (
        "hostname = a\n",
        "relay.toml:1: not TOML: string values must be quoted, expected literal string",
    ),
    (
        "hostname 'a'\n",
        "relay.toml:1: not TOML: key with no value, expected `=`",
    ),
    (
        "hostname =\n",
        "relay.toml:1: not TOML: string values must be quoted, expected literal string",
    ),
    (
        "hostname = 'a' 'b'\n",
        "relay.toml:1: not TOML: unexpected key or value, expected newline, `#`",
    ),
    (
        "hostname = 'a'\n[[listener]\naddress = 1\n",
        "relay.toml:2: not TOML: unclosed array table, expected `]`",
    ),
    (
        "hostname = 'a'\n[link]\n[link]\n",
        "relay.toml:3: link: expected an array of tables, found one table; write [[link]] or [{ … }]\n\
             relay.toml:3: link stands twice; write it once",
    ),
    (
        "hostname = 'a'\nx = 08\n",
        "relay.toml:2: not TOML: unexpected leading zero",
    ),
    (
        "# dial\nhostname = 'a'\n[[link]]\n[link.dial]\ndriver = 'command'\nuo = 1\n[[link]]\n",
        "relay.toml:6: link[0].dial.uo: unknown key \"uo\"; known keys: attempts, driver, enabled, patience\n\
             relay.toml:7: link[1].dial: missing; this key is required",
    ),
    (
        "hostname = 'a'\n= 4\nlink = [\n",
        "relay.toml:2: not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`\n\
             relay.toml:3: not TOML: unclosed array, expected `]`",
    ),
    (
        "hostname = 'a'\nlink = [1]\nlistener = 'x'\n",
        "relay.toml:2: link[0]: expected a table such as { … }, found integer 1\n\
             relay.toml:3: listener: expected an array of tables such as [{ … }], found string \"x\"",
    ),
];

#[test]
fn bad_files_and_their_text() {
    let mut wrong = String::new();
    for &(text, expected) in BAD_FILES {
        let said = read(text);
        if said != expected {
            wrong += &format!("--- file\n{text}--- expected\n{expected}\n--- said\n{said}\n\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Reads `x = …` as a type and shows the value or the error.
fn value<T: FromConfig + std::fmt::Debug>(text: &str) -> String {
    let document = Document::parse("f", &format!("x = {text}\n")).unwrap();
    let value = document.root().required::<T>("x");
    match document.finish() {
        Ok(()) => format!("{:?}", value.unwrap()),
        Err(errors) => errors.to_string().trim_start_matches("f:1: x: ").to_owned(),
    }
}

#[test]
fn durations() {
    for (text, expected) in [
        ("'500ms'", "500ms"),
        ("'90s'", "90s"),
        ("'5m'", "300s"),
        ("'2h'", "7200s"),
        ("'7d'", "604800s"),
        ("'0s'", "0ns"),
    ] {
        assert_eq!(value::<Duration>(text), expected);
    }
    const WANTED: &str = r#""500ms", "90s", "5m", "2h" or "7d""#;
    for (text, expected) in [
        (
            "90",
            r#"expected a string such as "90s", found integer 90"#.to_owned(),
        ),
        (
            "1.5",
            r#"expected a string such as "90s", found float 1.5"#.to_owned(),
        ),
        (
            "'90'",
            format!(r#""90" has no unit; write a duration such as {WANTED}"#),
        ),
        (
            "'-5m'",
            format!(r#"expected a duration such as {WANTED}, found "-5m""#),
        ),
        (
            "'5 m'",
            format!(r#"expected a duration such as {WANTED}, found "5 m""#),
        ),
        (
            "'5w'",
            format!(r#"expected a duration such as {WANTED}, found "5w""#),
        ),
        (
            "'99999999999999999999s'",
            r#""99999999999999999999s" is too large"#.to_owned(),
        ),
        (
            "'999999999999999d'",
            r#""999999999999999d" is too large"#.to_owned(),
        ),
    ] {
        assert_eq!(value::<Duration>(text), expected);
    }
}

#[test]
fn sizes() {
    for (text, octets) in [
        ("'25MB'", 25_000_000),
        ("'512KB'", 512_000),
        ("'64KiB'", 65_536),
        ("'1GiB'", 1 << 30),
        ("'7B'", 7),
        ("1000", 1000),
    ] {
        assert_eq!(value::<ByteSize>(text), format!("ByteSize({octets})"));
    }
    assert_eq!(
        value::<ByteSize>("-1"),
        r#"expected a size such as "25MB", or a number of octets, found integer -1"#
    );
    for (octets, shown) in [
        (25_000_000, "25MB"),
        (65_536, "64KiB"),
        (0, "0B"),
        (1001, "1001B"),
    ] {
        assert_eq!(ByteSize(octets).to_string(), shown);
    }
}

#[test]
fn numbers_and_truth() {
    assert_eq!(value::<u32>("0x10"), "16");
    assert_eq!(value::<u64>("1_000"), "1000");
    assert_eq!(value::<usize>("3"), "3");
    assert_eq!(value::<bool>("true"), "true");
    assert_eq!(
        value::<bool>("'yes'"),
        "expected true or false, found string \"yes\""
    );
    assert_eq!(
        value::<u32>("-1"),
        "expected a whole number from 0 to 4294967295, found integer -1"
    );
    assert_eq!(
        value::<u16>("65536"),
        "expected a whole number from 0 to 65535, found integer 65536"
    );
    assert_eq!(
        value::<u64>("99999999999999999999999999999999999999999"),
        "expected a whole number from 0 to 18446744073709551615, \
         found integer 99999999999999999999999999999999999999999"
    );
    assert_eq!(
        value::<String>("2026-01-02"),
        "expected a string, found date 2026-01-02"
    );
    assert_eq!(
        value::<String>("{ a = 1 }"),
        "expected a string, found a table"
    );
}

#[test]
fn networks() {
    assert_eq!(value::<IpNet>("'192.0.2.1'"), "192.0.2.1/32");
    assert_eq!(value::<IpNet>("'::1'"), "::1/128");
    assert_eq!(value::<IpNet>("'fd00::/8'"), "fd00::/8");
    assert_eq!(
        value::<IpNet>("'fd00::1/8'"),
        r#""fd00::1/8" has bits set behind its prefix; the network is "fd00::/8""#
    );
    assert_eq!(
        value::<IpNet>("'10.0.0.0/33'"),
        r#"expected a network such as "10.1.0.0/16", found "10.0.0.0/33""#
    );
}

#[test]
fn an_error_can_be_pinned_later_and_stands_in_file_order() {
    let text = "a = ['x', 'y']\nb = 1\n";
    let document = Document::parse("f.toml", text).unwrap();
    let root = document.root();
    assert_eq!(root.list::<String>("a"), ["x", "y"]);
    let (second, absent) = (root.position_in("a", 1), root.position("c"));
    root.optional::<String>("b");
    root.finish();
    document.error(&second, "no link of this name");
    document.error(&absent, "needed with a");
    assert_eq!(
        document.finish().unwrap_err().to_string(),
        "f.toml:1: c: needed with a\n\
         f.toml:1: a[1]: no link of this name\n\
         f.toml:2: b: expected a string, found integer 1"
    );
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relay.toml");
    let missing = Document::load(&path).unwrap_err().to_string();
    let said = format!(
        "{}: cannot be read: No such file or directory",
        path.display()
    );
    assert_eq!(missing, said);
    std::fs::write(&path, b"a = 1\nb = '\xff'\n").unwrap();
    let binary = Document::load(&path).unwrap_err().to_string();
    assert_eq!(binary, format!("{}:2: not UTF-8 text", path.display()));
    std::fs::write(&path, b"a = 1\n").unwrap();
    assert!(Document::load(&path).unwrap().root().has("a"));
}
